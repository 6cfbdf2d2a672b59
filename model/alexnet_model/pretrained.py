"""Open a checkpoint: this project's own file, any PyTorch program's weights, a module, or a download."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.error import HTTPError, URLError

from .checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from .class_names import checked_class_names, class_names_from_file, imagenet_class_names
from .contract import Contract
from .contract_sources import contract_from_timm_config
from .datasets import splits_from
from .errors import CheckpointError, ExportError, UsageError
from .extras import needs
from .factories import Option
from .labelled_images import UNLABELLED
from .matching import matched, refuse_values_that_are_not_finite
from .network_check import count_outputs
from .weights import hash_in_name, weights_file

with needs("export"):
    import torch
    from torch import nn

DEFAULT_ARCHITECTURE = "alexnet"
DOWNLOAD_TIMEOUT_S = 30.0  # without any data
# torchvision's AlexNet_Weights.IMAGENET1K_V1: 56.522% top-1, 79.066% top-5. The name ends in the first eight
# digits of the file's SHA-256.
IMAGENET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
IMAGENET = "imagenet"
WRAPPER_CLASSES = ("DataParallel", "DistributedDataParallel", "OptimizedModule", "AveragedModel")


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """What a file of weights does not say about its network.

    Args:
        architecture: a name in `architectures.ARCHITECTURES`, or `package.module:factory`. None: that of the
            checkpoint, or `alexnet`.
        options: the factory's other arguments.
        key: the key of the state dict in the file. None: the first that fits.
        classes: the class names, a file of them (`class_names.class_names_from_file`), or "imagenet". None:
            those of the checkpoint; ImageNet's for torchvision's AlexNet; the class folders of `datasets`;
            otherwise `class_0`, `class_1` and so on.
        datasets: "digits" or folders of images, whose class folders may name the classes.
        contract: how images are prepared. None: that of the checkpoint or of a timm network, or the defaults
            of `Contract`.
        name_classes: whether class names are looked for. False if the last layer will be replaced: they are
            `class_0`, `class_1` and so on, without a note.
    """

    architecture: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    key: str | None = None
    classes: str | Path | Sequence[str] | None = None
    datasets: tuple[str, ...] = ()
    contract: Contract | None = None
    name_classes: bool = True


def checkpoint_from(
    source: str | Path | Checkpoint | nn.Module,
    options: WeightsOptions | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """Open a checkpoint.

        checkpoint_from("flowers.pth", WeightsOptions(classes="flowers.txt"))

    Args:
        source: the path of a file that `save_checkpoint` wrote, the path of weights (`.pth`, `.pt`, `.bin`,
            `.ckpt`, `.tar`, `.safetensors`), "imagenet" (downloads torchvision's AlexNet), a network, or a
            checkpoint in memory.
        options: what the file does not say. None: the defaults.
        note: called with each sentence about what was chosen or converted.

    Raises:
        CheckpointError: the file is missing, broken, altered, or does not fit its architecture.
        UsageError: the network cannot be built, or class names or options do not go with the weights.
        ExportError: the network does not map images to logits.
        DatasetError: a folder that may name the classes cannot be read.
    """
    options = options or WeightsOptions()
    if isinstance(source, nn.Module):
        return _checkpoint_from_module(source, options, note)
    if isinstance(source, Checkpoint):
        return _with_options(source, options, "checkpoint")
    if source == IMAGENET:
        return checkpoint_from_url(IMAGENET_URL, options=options, note=note)
    path = Path(source)
    if path.suffix == ".safetensors" and is_checkpoint(path):
        return _with_options(load_checkpoint(path, architecture=options.architecture), options, str(path))
    return _checkpoint_from_weights(path, options, note)


def checkpoint_from_url(
    url: str,
    folder: Path | None = None,
    *,
    options: WeightsOptions | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """Download torchvision's weights, unless they are in the cache.

    Args:
        url: a URL that ends in the file's name, and that in the start of its SHA-256.
        folder: where the file is kept; by default PyTorch's cache.
        options: as for `checkpoint_from`, and so is `note`.

    Raises:
        CheckpointError: the download failed, or the file's SHA-256 differs from the one in its name.
    """
    folder = folder or Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # It checks the hash before it renames the file, and shows a progress bar, but has no timeout.
            with _socket_timeout(DOWNLOAD_TIMEOUT_S):
                torch.hub.download_url_to_file(url, str(path), hash_prefix=hash_in_name(path))
        except (URLError, OSError, RuntimeError) as error:
            if isinstance(error, HTTPError):
                error.close()
            raise CheckpointError(
                url,
                got=f"{error}",
                expected="torchvision's weights",
                next_step=f"Download it on another machine and run: alexnet export path/to/{path.name}",
            ) from error
    options = options or WeightsOptions()
    return _checkpoint_from_weights(path, replace(options, classes=options.classes or IMAGENET), note)


def _with_options(checkpoint: Checkpoint, options: WeightsOptions, subject: str) -> Checkpoint:
    """Return a checkpoint with other class names; it names its network and contract itself.

    Raises:
        UsageError: an option does not go with a checkpoint.
        CheckpointError: a weight of `subject` is NaN or infinite.
    """
    refuse_values_that_are_not_finite(checkpoint.weights, subject)
    same_architecture = options.architecture == checkpoint.architecture
    given = {
        "key": options.key,
        "architecture": None if same_architecture else options.architecture,
        "architecture options": None if options.options == checkpoint.options else options.options or None,
        "contract": None if options.contract == checkpoint.contract else options.contract,
    }
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                name,
                got="one for a checkpoint, which holds its own",
                expected="weights without a record",
                next_step="Leave this option out.",
            )
    if options.classes is None:
        return checkpoint
    names = _named_classes(options.classes, len(checkpoint.class_names))
    return replace(checkpoint, class_names=names)


def _checkpoint_from_weights(path: Path, options: WeightsOptions, note: Callable[[str], None]) -> Checkpoint:
    file = weights_file(path)
    architecture = options.architecture or DEFAULT_ARCHITECTURE
    found = matched(file, architecture, options.options, key=options.key)
    for sentence in found.notes:
        note(sentence)
    checkpoint = Checkpoint(
        architecture=architecture,
        options=options.options,
        class_names=_placeholder_names(found.classes or 2),  # enough to build the network
        contract=Contract(),
        training={"source": path.name, "sha256": file.sha256},
        weights=found.weights,
    )
    network = checkpoint.network()
    contract = options.contract or _contract_of_network(network, note)
    outputs = count_outputs(network, contract, expected=found.classes)
    is_torchvisions = file.sha256.startswith(hash_in_name(Path(IMAGENET_URL)))
    if is_torchvisions and options.classes is None:
        options = replace(options, classes=IMAGENET)
    return replace(checkpoint, contract=contract, class_names=_class_names(options, outputs, note))


def _checkpoint_from_module(
    module: nn.Module, options: WeightsOptions, note: Callable[[str], None]
) -> Checkpoint:
    """Make a checkpoint of a copy of a module, without the wrappers of parallel or compiled execution."""
    if options.architecture or options.options or options.key:
        raise UsageError(
            "architecture and key", got="one for a network", expected="none: the network is here already"
        )
    while type(module).__name__ in WRAPPER_CLASSES:
        module = module.get_submodule("_orig_mod" if hasattr(module, "_orig_mod") else "module")
    name = type(module).__name__
    try:
        network = copy.deepcopy(module).cpu().float().eval()
    except Exception as error:
        raise ExportError(
            f"network {name}",
            got=f"{type(error).__name__} when it is copied: {error}",
            expected="a network that copy.deepcopy can copy",
            next_step="Save its state dict, and pass that with architecture='package.module:factory'.",
        ) from error
    kinds = {str(p.dtype).removeprefix("torch.") for p in module.parameters()} - {"float32"}
    if kinds:
        note(f"The weights were converted from {', '.join(sorted(kinds))} to float32.")
    weights = network.state_dict()
    refuse_values_that_are_not_finite(weights, f"network {name}")
    contract = options.contract or _contract_of_network(network, note)
    return Checkpoint(
        architecture=name,
        class_names=_class_names(options, count_outputs(network, contract), note),
        contract=contract,
        training={"source": f"{type(module).__module__}.{type(module).__qualname__}"},
        weights=weights,
        module=network,
    )


def _contract_of_network(network: nn.Module, note: Callable[[str], None]) -> Contract:
    """Return the contract of a network's own configuration, which timm's networks have, or the default."""
    config: object = getattr(network, "pretrained_cfg", None)
    if not isinstance(config, Mapping):
        return Contract()
    contract = contract_from_timm_config(config)
    note(f"Images are prepared by timm's configuration: {contract.size} pixels, {contract.interpolation}.")
    return contract


def _class_names(options: WeightsOptions, outputs: int, note: Callable[[str], None]) -> tuple[str, ...]:
    """Return the names that were given, those of class folders, or placeholders, which is noted."""
    if not options.name_classes:
        return _placeholder_names(outputs)
    if options.classes is not None:
        return _named_classes(options.classes, outputs)
    for source in options.datasets:
        names = splits_from(source).train.class_names
        if len(names) == outputs and names != (UNLABELLED,):
            return names
        if names != (UNLABELLED,):
            note(f"{source} has {len(names)} class folders, and the network {outputs} outputs.")
    names = _placeholder_names(outputs)
    wanted = (
        "--classes FILE"
        if outputs != 1000
        else "--classes imagenet, if they are ImageNet's, or --classes FILE"
    )
    note(f"The classes are named {names[0]} to {names[-1]}. To name them: {wanted}.")
    return names


def _named_classes(classes: str | Path | Sequence[str], outputs: int) -> tuple[str, ...]:
    if classes == IMAGENET:
        return checked_class_names(imagenet_class_names(), outputs, "ImageNet's class names")
    if isinstance(classes, str | Path):
        return checked_class_names(class_names_from_file(Path(classes)), outputs, str(classes))
    return checked_class_names(classes, outputs, "class names")


def _placeholder_names(outputs: int) -> tuple[str, ...]:
    return tuple(f"class_{index}" for index in range(outputs))


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the default timeout of sockets, for code that sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
