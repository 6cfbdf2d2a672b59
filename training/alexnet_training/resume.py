"""The state of an unfinished run, in a file beside its checkpoint.

Every epoch seeds its generator from the seed and the epoch's number, so no generator state is stored: the
network's state dict, Adam's moments and the records of the finished epochs are enough. The file is in the
safetensors format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexnet_model.checkpoint import write_tensors
from alexnet_model.contract import canonical_json
from alexnet_model.errors import TrainingError
from alexnet_model.extras import needs
from alexnet_model.reading import value_from_json

from .loop import Accuracy, EpochRecord

with needs("train"):
    import torch
    from safetensors import SafetensorError, safe_open
    from torch import Tensor, nn

FORMAT = "alexnet-training-state-1"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def resume_path(out: Path) -> Path:
    """Return the path of the state of an unfinished run.

    Args:
        out: the path of the run's checkpoint.
    """
    return out.with_name(f"{out.name}.resume")


def save_state(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Adam,
    *,
    run: Mapping[str, Any],
    history: Sequence[EpochRecord],
) -> None:
    """Write the state of a run after an epoch.

    Args:
        path: the file to create or replace.
        network: its parameters and buffers are stored.
        optimiser: Adam on some of the network's parameters, after at least one step.
        run: JSON that identifies the run; another run must have another value.
        history: the finished epochs.

    Raises:
        OSError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        tensors[f"weight.{name}"] = tensor
    for name, weight in network.named_parameters():
        for moment, value in optimiser.state.get(weight, {}).items():
            tensors[f"{moment}.{name}"] = value
    metadata = {
        "format": FORMAT,
        "run": canonical_json(run),
        "history": canonical_json([asdict(epoch) for epoch in history]),
    }
    write_tensors(path, tensors, metadata)


def restore_state(
    path: Path, network: nn.Module, optimiser: torch.optim.Adam, *, run: Mapping[str, Any]
) -> list[EpochRecord]:
    """Load the state of a run into a network and its optimiser.

    Args:
        path: the file that `save_state` wrote.
        network: changed in place.
        optimiser: Adam on some of the network's parameters, changed in place.
        run: JSON that identifies the run, as for `save_state`.

    Returns:
        The finished epochs, at least one.

    Raises:
        TrainingError: the file is broken, or belongs to another run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise _broken(path, f"the format {metadata.get('format')!r}")
            _refuse_other_run(path, value_from_json(metadata["run"]), run)
            history = [_epoch_from_json(epoch) for epoch in value_from_json(metadata["history"])]
            if not 0 < len(history) < run["epochs"]:
                raise _broken(path, f"{len(history)} finished epochs")
            moments: dict[int, dict[str, Tensor]] = {}
            weights = {name: file.get_tensor(f"weight.{name}") for name in network.state_dict()}
            names = {weight: name for name, weight in network.named_parameters()}
            trained = [weight for group in optimiser.param_groups for weight in group["params"]]
            stored = set(file.keys())
            for index, weight in enumerate(trained):
                name = names[weight]
                if not stored.intersection(f"{moment}.{name}" for moment in MOMENTS):
                    continue  # the forward pass does not use this parameter
                moments[index] = {moment: file.get_tensor(f"{moment}.{name}") for moment in MOMENTS}
                for moment in ("exp_avg", "exp_avg_sq"):  # Adam would notice only at its first step
                    if moments[index][moment].shape != weight.shape:
                        raise ValueError(f"{moment}.{name} has a shape other than its weight's")
        network.load_state_dict(weights)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(path, f"a broken state ({str(error).splitlines()[0]})") from error
    return history


def _epoch_from_json(values: Mapping[str, Any]) -> EpochRecord:
    return EpochRecord(**{**values, "validation": Accuracy(**values["validation"])})


def _refuse_other_run(path: Path, theirs: Any, ours: Mapping[str, Any]) -> None:
    if not isinstance(theirs, dict):
        raise ValueError("its record is not a JSON object")
    other = [name for name in ours if theirs.get(name) != ours[name]]
    if other:
        raise TrainingError(
            f"{path}: an unfinished run",
            got=", ".join(f"{name} {theirs.get(name)}" for name in other),
            expected=", ".join(str(ours[name]) for name in other),
            next_step="Use that run's options and images, or remove that file to start again.",
        )


def _broken(path: Path, got: str) -> TrainingError:
    return TrainingError(
        str(path),
        got=got,
        expected="the state of an unfinished run",
        next_step="Remove that file to start again.",
    )
