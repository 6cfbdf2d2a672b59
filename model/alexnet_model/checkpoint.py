"""A trained classifier in one `.safetensors` file: weights, architecture, contract, classes, training record.

Everything but the tensors is one JSON record in the file's metadata, stored with the SHA-256 of the record
and of the weights. Loading verifies the record, the hashes, and the tensors' names, shapes and dtypes. It
never unpickles.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .architectures import ARCHITECTURES, build, expected_weights
from .contract import Contract, canonical_json
from .errors import CheckpointError, UsageError
from .extras import needs
from .factories import Option
from .files import atomic_file
from .reading import value_from_json

with needs("export"):
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
    from torch import Tensor, nn

FORMAT = "alexnet-checkpoint-2"
STORED_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Hold a trained classifier and the record of its training.

    Args:
        architecture: a name in `architectures.ARCHITECTURES`, or `package.module:factory`.
        options: the arguments of the architecture's factory besides the number of classes, such as
            `{"width": 0.25}`.
        class_names: one name for each output, in the order of the outputs.
        contract: the preparation of the images that the weights were trained on.
        training: any JSON object: where the weights come from and how they were trained.
        weights: the network's state dict, parameters and buffers.
        module: the network itself, if there is no factory that makes it. Such a checkpoint can be exported,
            but not saved.
    """

    architecture: str
    options: Mapping[str, Option] = field(default_factory=dict)
    class_names: tuple[str, ...]
    contract: Contract
    training: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    module: nn.Module | None = field(default=None, compare=False, repr=False)

    def network(self) -> nn.Module:
        """Return a network with a copy of these weights, in evaluation mode.

        Raises:
            CheckpointError: the weights do not fit the architecture.
            UsageError: the factory of the architecture fails.
        """
        if self.module is not None:
            return copy.deepcopy(self.module).eval()
        self.check_fit()
        # PyTorch's initialisation must not advance the caller's random generator.
        with torch.random.fork_rng(devices=[]):
            network = build(self.architecture, len(self.class_names), **self.options)
        network.load_state_dict(dict(self.weights))
        return network.eval()

    def check_fit(self, subject: str = "weights") -> None:
        """Compare the weights' names, shapes and dtypes with the architecture's.

        Args:
            subject: what an error message names, such as the path of the file.

        Raises:
            CheckpointError: the weights do not fit, or the network cannot be built.
        """
        if self.module is not None:
            return
        size = described_options(self.options, len(self.class_names))
        try:
            network = expected_weights(self.architecture, len(self.class_names), **self.options)
        except UsageError as error:
            raise CheckpointError(subject, got=f"{error}", expected="a known architecture") from error
        expected = {name: _described(tensor) for name, tensor in network.items()}
        found = {name: _described(tensor) for name, tensor in self.weights.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"{subject}: tensor {name}",
                    got=found.get(name, "no such tensor"),
                    expected=f"{expected.get(name, 'no such tensor')} for {self.architecture} ({size})",
                    next_step="They are of another architecture, other options or another number of classes.",
                )

    @property
    def weights_sha256(self) -> str:
        """Hex SHA-256 of the weights."""
        return sha256_of_weights(self.weights)


def described_options(options: Mapping[str, Option], classes: int) -> str:
    """Return the arguments of a factory in words, such as `width 0.25, 10 classes`."""
    texts = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in options.items()
    ]
    return ", ".join([*texts, f"{classes} classes"])


def sha256_of_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of a state dict: names, dtypes, shapes and little-endian bytes, sorted by name.

    Args:
        weights: tensors of any shape, dtype and device by name.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, _dtype_name(tensor), tensor.shape]).encode())
        # As bytes, because NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint file; an error leaves an existing file as it was.

    Args:
        checkpoint: what to write.
        path: the file to create or replace, by convention `*.safetensors`.

    Raises:
        CheckpointError: the weights do not fit the architecture, a tensor's dtype cannot be stored, or there
            is no factory that could make the network again.
        OSError: the file cannot be written.
    """
    if checkpoint.module is not None:
        raise CheckpointError(
            str(path),
            got=f"a network of the class {checkpoint.architecture}, without its factory",
            expected="an architecture by name, such as nets:small",
            next_step="Save module.state_dict() with torch.save.",
        )
    checkpoint.check_fit()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    for name, tensor in weights.items():
        if tensor.dtype not in STORED_DTYPES:
            raise CheckpointError(
                f"{path}: tensor {name}",
                got=_dtype_name(tensor),
                expected=f"one of {', '.join(str(dtype).removeprefix('torch.') for dtype in STORED_DTYPES)}",
                next_step="Convert it before saving.",
            )
    record = {
        "architecture": checkpoint.architecture,
        "options": dict(checkpoint.options),
        "class_names": checkpoint.class_names,
        "contract": json.loads(checkpoint.contract.to_json()),
        "training": dict(checkpoint.training),
        "weights_sha256": sha256_of_weights(weights),
    }
    text = canonical_json(record)
    write_tensors(path, weights, {"format": FORMAT, "record": text, "record_sha256": _sha256(text)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; an error leaves an existing file as it was.

    Args:
        path: the file to create or replace.
        tensors: tensors by name, none of which share memory.
        metadata: texts that are stored in the file's header.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:
            # safetensors reports a full disk as its own error with the number in the text.
            number = re.search(r"os error (\d+)", str(error))
            if not number:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_checkpoint(path: Path, *, architecture: str | None = None) -> Checkpoint:
    """Read and verify what `save_checkpoint` wrote.

    Args:
        path: a `.safetensors` file.
        architecture: the architecture that the file must have. A `package.module:factory` is code, which a
            file alone must not run: it is imported only if this argument names it.

    Raises:
        CheckpointError: the file is missing, empty, truncated or altered, is not a checkpoint of this
            project, has another architecture, or does not fit its architecture.
    """
    if not path.is_file():
        raise CheckpointError(
            str(path),
            got="no such file",
            expected="a checkpoint (.safetensors)",
            next_step="Train one: alexnet train --data digits --out checkpoint.safetensors",
        )
    try:
        with safe_open(path, framework="pt") as file:
            weights_sha256, checkpoint = _verified_record(path, file.metadata() or {})
            names = file.keys()
            checkpoint = replace(checkpoint, weights={name: file.get_tensor(name) for name in names})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(path),
            got=f"{path.stat().st_size:,} bytes that are not a complete safetensors file ({error})",
            expected="a checkpoint (.safetensors)",
            next_step="Copy or train it again.",
        ) from error
    _check_architecture(path, checkpoint.architecture, architecture)
    checkpoint.check_fit(str(path))
    if checkpoint.weights_sha256 != weights_sha256:
        raise _altered(path, "weights")
    return checkpoint


def is_checkpoint(path: Path) -> bool:
    """Return whether a `.safetensors` file may be a checkpoint; False if it is one of another program.

    Args:
        path: the file. It may be missing or broken, which `load_checkpoint` then reports.
    """
    if not path.is_file():  # opening a pipe would wait for a writer
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format")).startswith("alexnet-")
    except (SafetensorError, OSError):
        return True


def _check_architecture(path: Path, recorded: str, wanted: str | None) -> None:
    if wanted is not None and wanted != recorded:
        raise CheckpointError(
            str(path),
            got=f"a checkpoint of the architecture {recorded}",
            expected=wanted,
            next_step=f"Leave --arch out, or pass --arch {recorded}."
            if recorded in ARCHITECTURES
            else f"Pass --arch {recorded}, if you trust that code.",
        )
    if wanted is None and recorded not in ARCHITECTURES:
        raise CheckpointError(
            str(path),
            got=f"a checkpoint of the architecture {recorded}, which is code that a file must not choose",
            expected=f"one of {', '.join(ARCHITECTURES)}, or the name of that code from you",
            next_step=f"Pass --arch {recorded}, if you trust that code.",
        )


def _verified_record(path: Path, metadata: Mapping[str, str]) -> tuple[str, Checkpoint]:
    """Return the SHA-256 that the weights should have, and the checkpoint without its weights."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            str(path),
            got=f"a safetensors file of format {metadata.get('format')!r}",
            expected=repr(FORMAT),
            next_step="Train one (alexnet train), or export a torchvision .pth.",
        )
    text = metadata.get("record", "")
    if _sha256(text) != metadata.get("record_sha256"):
        raise _altered(path, "record")
    try:
        record = value_from_json(text)
        return record["weights_sha256"], Checkpoint(
            architecture=str(record["architecture"]),
            options=_options_from(record["options"]),
            class_names=tuple(record["class_names"]),
            contract=Contract.from_json(canonical_json(record["contract"])),
            training=record["training"],
            weights={},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: record",
            got=f"{type(error).__name__}: {error}",
            expected="the fields of this version",
            next_step="Train it again with this version.",
        ) from error


def _options_from(record: Any) -> dict[str, Option]:
    options = dict(record)
    for name, value in options.items():
        if not isinstance(value, bool | int | float | str):
            raise TypeError(f"the option {name} has the value {value!r}")
    return options


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {_dtype_name(tensor)}"


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _altered(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what}",
        got="a SHA-256 other than the recorded one",
        expected="an unaltered file",
        next_step="Copy or train it again.",
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
