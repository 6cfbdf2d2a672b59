"""Find the state dict in a file that fits a network, and the number of classes that it was trained for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .architectures import ARCHITECTURES, expected_weights
from .checkpoint import described_options
from .errors import CheckpointError, UsageError, listed
from .extras import needs
from .factories import Option
from .weights import WeightsFile

with needs("export"):
    import torch
    from torch import Tensor

# What wrappers add to the names of a network: DataParallel and DistributedDataParallel, torch.compile.
WRAPPERS = frozenset({"module", "_orig_mod"})
WRAPPER_BUFFERS = frozenset({"n_averaged"})  # of torch.optim.swa_utils.AveragedModel
OWNER = "model."  # the attribute that holds the network in a Lightning module
SHOWN = 3  # differences in an error message
COUNTED_BATCHES = "num_batches_tracked"  # of BatchNorm; files from before PyTorch 0.4.1 have none


@dataclass(frozen=True)
class Matched:
    """The weights of a network, with its own names and dtypes.

    Args:
        weights: the state dict.
        classes: the number of classes to build the network with; None if no tensor depends on it.
        notes: sentences for the user about what was chosen and converted.
    """

    weights: Mapping[str, Tensor]
    classes: int | None
    notes: tuple[str, ...]


def matched(
    file: WeightsFile, architecture: str, options: Mapping[str, Option], *, key: str | None = None
) -> Matched:
    """Find the state dict that fits a network.

    Prefixes of wrappers (`module.`, `_orig_mod.`, `model.`) are removed where the names fit without them.
    Tensors of another floating-point type than the network's are converted.

    Args:
        file: the state dicts.
        architecture: as for `architectures.build`.
        options: the other arguments of its factory.
        key: the key of the state dict to take. None: the first that fits.

    Raises:
        CheckpointError: there is no such key, no state dict fits, or a tensor has a value that is not finite.
        UsageError: the network cannot be built.
    """
    if key is not None and key not in file.state_dicts:
        raise CheckpointError(
            f"{file.path}: key {key!r}",
            got="no state dict of that key",
            expected=f"one of {', '.join(map(repr, file.state_dicts))}",
            next_step="Choose one with --key, or leave it out.",
        )
    network = _Network(architecture, options)
    keys = list(file.state_dicts) if key is None else [key]
    fits = [(k, found) for k in keys if (found := _fitting(file.state_dicts[k], network))]
    if not fits:
        raise _misfit(file, keys, network)
    taken, (tensors, ignored) = fits[0]
    classes = network.classes_of(tensors)
    notes = []
    if len(fits) > 1:
        others = ", ".join(f"--key {other or repr('')}" for other, _ in fits[1:])
        notes.append(
            f"{file.path} has {len(fits)} state dicts that fit the network. Took {taken or 'the top level'}; "
            f"to take another: {others}."
        )
    if ignored:
        count = f"{len(ignored)} of {len(file.state_dicts[taken])}"
        notes.append(f"Ignored {count} tensors that the network does not have: {listed(ignored, SHOWN)}.")
    weights, converted = _converted(tensors, network.weights(classes))
    notes += [f"Converted {n} of {len(weights)} tensors from {kinds}." for kinds, n in converted.items()]
    refuse_values_that_are_not_finite(weights, str(file.path))
    return Matched(weights, classes, tuple(notes))


def refuse_values_that_are_not_finite(weights: Mapping[str, Tensor], subject: str) -> None:
    """Refuse weights with NaN or infinite values.

    Args:
        weights: tensors by name.
        subject: where they come from, for the message.

    Raises:
        CheckpointError: a tensor has such a value; the message names the first.
    """
    for name, tensor in weights.items():
        # The extremes are NaN if one value is, and take a tenth of the time of `isfinite`.
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not torch.stack(tensor.aminmax()).isfinite().all()
        ):
            count = int((~tensor.isfinite()).sum())
            raise CheckpointError(
                f"{subject}: tensor {name}",
                got=f"{count:,} of {tensor.numel():,} values that are NaN or infinite",
                expected="finite values",
                next_step="The training has diverged: take an earlier checkpoint.",
            )


class _Network:
    """The names and shapes of a network's tensors, for any number of classes."""

    def __init__(self, architecture: str, options: Mapping[str, Option]) -> None:
        self.architecture = architecture
        self.options = options
        self._by_classes: dict[int, dict[str, Tensor]] = {}

    def weights(self, classes: int | None) -> dict[str, Tensor]:
        """Return the tensors for a number of classes; None stands for any number."""
        classes = classes or 2
        if classes not in self._by_classes:
            self._by_classes[classes] = expected_weights(self.architecture, classes, **self.options)
        return self._by_classes[classes]

    def classes_of(self, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes for which the first tensor that depends on it has its shape.

        None if no tensor of the network depends on the number of classes, or if such a tensor is missing.
        """
        two, three = self.weights(2), self.weights(3)
        for name in filter(tensors.keys().__contains__, two):
            sizes = zip(tensors[name].shape, two[name].shape, three[name].shape, strict=False)
            for found, for_two, for_three in sizes:
                if for_two != for_three and (found - for_two) % (for_three - for_two) == 0:
                    return max(1, 2 + (found - for_two) // (for_three - for_two))
        return None

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Return whether these are the tensors of this network for some number of classes."""
        return not self.differences(tensors)

    def differences(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Return where tensors differ from the network's in name, shape or kind, in the network's order."""
        try:
            expected = self.weights(self.classes_of(tensors))
        except UsageError:  # for that number of classes there is no such network
            expected = self.weights(None)
        optional = {name for name in expected if name.rpartition(".")[2] == COUNTED_BATCHES}
        different = [
            f"{name} is missing"
            if name not in tensors
            else f"{name} is {_shape(tensors[name])}, not {_shape(value)}"
            for name, value in expected.items()
            if (name in tensors and not _alike(tensors[name], value))
            or (name not in tensors and name not in optional)
        ]
        return different + [f"{name} is not in the network" for name in tensors if name not in expected]


def _fitting(
    tensors: Mapping[str, Tensor], network: _Network
) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    """Return the tensors by the names of the network, and the names that were ignored; None if none fit."""
    return next((variant for variant in _variants(tensors) if network.fits(variant[0])), None)


def _variants(tensors: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """Return the tensors as they are, then without the prefixes of wrappers, then without an owner's."""
    yield dict(tensors), ()
    wrapped = {name: tensor for name, tensor in tensors.items() if name not in WRAPPER_BUFFERS}
    current = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
        for name, tensor in wrapped.items()
    }
    if len(current) != len(wrapped):  # two tensors would get one name
        return
    ignored: tuple[str, ...] = ()
    while current:
        yield current, ignored
        ignored = (*ignored, *(name for name in current if not name.startswith(OWNER)))
        current = {
            name.removeprefix(OWNER): tensor for name, tensor in current.items() if name.startswith(OWNER)
        }


def _converted(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Counter[str]]:
    """Return the tensors in the network's order and dtypes, and how many were converted from what."""
    converted: Counter[str] = Counter()
    weights = {}
    for name, value in expected.items():
        tensor = tensors.get(name, torch.zeros(value.shape, dtype=value.dtype)).detach()
        if tensor.dtype != value.dtype:
            converted[f"{_kind(tensor)} to {_kind(value)}"] += 1
        weights[name] = tensor.to(value.dtype).contiguous()
    return weights, converted


def _misfit(file: WeightsFile, keys: list[str], network: _Network) -> CheckpointError:
    """Explain the state dict that comes nearest to the network."""
    nearest = min(
        (variant for key in keys for variant, _ in _variants(file.state_dicts[key])),
        key=lambda variant: len(network.differences(variant)),
    )
    differences = network.differences(nearest)
    classes = network.classes_of(nearest)
    size = f" ({described_options(network.options, classes)})" if classes else ""
    other = _other_architecture(file, keys)
    shown = listed(differences, SHOWN, separator="; ")
    return CheckpointError(
        str(file.path),
        got=f"weights that differ from {network.architecture}{size}: {shown}",
        expected="the names and shapes of that network's weights",
        next_step=f"They fit {other}."
        if other
        else "Pass their network with --arch, and its arguments with --arch-option.",
    )


def _other_architecture(file: WeightsFile, keys: list[str]) -> str:
    """Return the options that choose an architecture of this project that fits; empty if none does."""
    for name in ARCHITECTURES:
        largest, value = max(expected_weights(name, 2).items(), key=lambda item: item[1].shape[:1])
        for key in keys:
            for tensors, _ in _variants(file.state_dicts[key]):
                if largest not in tensors or not tensors[largest].dim():
                    continue
                exact = tensors[largest].shape[0] / value.shape[0]
                for width in dict.fromkeys([*(round(exact, digits) for digits in (1, 2, 3)), exact]):
                    if 0.01 <= width <= 4 and _Network(name, {"width": width}).fits(tensors):
                        return f"--arch {name}" + (f" --arch-option width={width}" if width != 1 else "")
    return ""


def _alike(tensor: Tensor, expected: Tensor) -> bool:
    kinds = tensor.is_floating_point() == expected.is_floating_point()
    same = tensor.dtype == expected.dtype or (kinds and tensor.is_floating_point())
    return tensor.shape == expected.shape and same


def _shape(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {_kind(tensor)}"
    return f"{tuple(tensor.shape)}{kind}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
