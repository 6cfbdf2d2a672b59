"""The state of an unfinished run, in a file beside its checkpoint.

The file is in the safetensors format. It holds the weights, their moving average, the optimiser's moments,
the gradient scaler, and the position in the epoch. Random numbers are drawn from a seed for each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexnet_model.checkpoint import write_tensors
from alexnet_model.contract import canonical_json
from alexnet_model.errors import TrainingError
from alexnet_model.extras import needs
from alexnet_model.reading import value_from_json

from .state import Accuracy, EpochRecord, Position, TrainingState

with needs("train"):
    import torch
    from safetensors import SafetensorError, safe_open
    from torch import Tensor

FORMAT = "alexnet-training-state-3"
ADAM_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def resume_path(out: Path) -> Path:
    """Return the path of the state of an unfinished run.

    Args:
        out: the path of the run's checkpoint.
    """
    return out.with_name(f"{out.name}.resume")


def save_state(path: Path, state: TrainingState, *, run: Mapping[str, Any]) -> None:
    """Write the state of a run.

    Args:
        path: the file to create or replace.
        state: after at least one step.
        run: JSON that identifies the run; another run must have another value.

    Raises:
        OSError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.network.state_dict().items():
        tensors[f"weight.{name}"] = tensor
    for name, tensor in (state.average.network.state_dict() if state.average else {}).items():
        tensors[f"average.{name}"] = tensor
    for name, weight in state.network.named_parameters():
        for moment, value in state.optimiser.state.get(weight, {}).items():
            tensors[f"{moment}.{name}"] = value
    metadata = {
        "format": FORMAT,
        "run": canonical_json(run),
        "history": canonical_json([asdict(epoch) for epoch in state.history]),
        "position": canonical_json(asdict(state.position)),
        "scaler": canonical_json(state.scaler.state_dict()),
    }
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, on_cpu, metadata)


def restore_state(path: Path, state: TrainingState, *, run: Mapping[str, Any]) -> None:
    """Load what `save_state` wrote.

    Args:
        path: the file.
        state: a state of the same run before its first step, changed in place.
        run: JSON that identifies the run, as for `save_state`.

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
            position = Position(**value_from_json(metadata["position"]))
            if len(history) > run["epochs"] or not (history or position.step):
                raise _broken(path, f"{len(history)} finished epochs")
            stored = set(file.keys())
            names = state.network.state_dict()
            weights = {name: file.get_tensor(f"weight.{name}") for name in names}
            averages = {name: file.get_tensor(f"average.{name}") for name in names} if state.average else {}
            moments = _moments(state, {name: file.get_tensor(name) for name in stored if _is_moment(name)})
        state.network.load_state_dict(weights)
        if state.average:
            state.average.network.load_state_dict(averages)
        state.optimiser.load_state_dict({**state.optimiser.state_dict(), "state": moments})
        scaler = value_from_json(metadata["scaler"])
        if state.scaler.is_enabled() and scaler:  # empty if the run was on a device with bf16
            state.scaler.load_state_dict(scaler)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(path, f"a broken state ({str(error).splitlines()[0]})") from error
    state.history[:], state.position = history, position


def _is_moment(name: str) -> bool:
    return not name.startswith(("weight.", "average."))


def _moments(state: TrainingState, stored: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return the optimiser's moments by the index of the weight, in memory as their weight.

    Raises:
        ValueError: a weight has only some of them, or one of another shape.
    """
    kinds = ("momentum_buffer",) if isinstance(state.optimiser, torch.optim.SGD) else ADAM_MOMENTS
    names = {weight: name for name, weight in state.network.named_parameters()}
    trained = [weight for group in state.optimiser.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for index, weight in enumerate(trained):
        found = {
            kind: stored[f"{kind}.{names[weight]}"] for kind in kinds if f"{kind}.{names[weight]}" in stored
        }
        if not found:
            continue  # the forward pass does not use this parameter
        if len(found) < len(kinds):
            raise ValueError(f"{names[weight]} has only {', '.join(found)}")
        for kind, value in found.items():
            if kind != "step" and value.shape != weight.shape:  # the optimiser would notice only at its step
                raise ValueError(f"{kind}.{names[weight]} has a shape other than its weight's")
        moments[index] = {
            kind: value if kind == "step" else torch.empty_like(weight).copy_(value)
            for kind, value in found.items()
        }
    return moments


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
