"""The state of an unfinished run, beside its checkpoint: what the next epoch needs, and whose run it is.

Every epoch draws from a generator seeded by (seed, epoch), so no generator state has to be kept: weights,
Adam's moments and the number of finished epochs say everything. Never pickled; written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexnet_model.checkpoint import write_tensors
from alexnet_model.contract import canonical_json
from alexnet_model.errors import TrainingError
from alexnet_model.extras import needs

from .loop import Accuracy, EpochRecord

with needs("train"):
    import torch
    from safetensors import SafetensorError, safe_open
    from torch import Tensor, nn

FORMAT = "alexnet-training-state-1"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def resume_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.resume")


def save_state(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Adam,
    *,
    run: Mapping[str, Any],
    history: Sequence[EpochRecord],
) -> None:
    """Replace the state at `path`. `run` is JSON that two runs share only if they would train alike.

    Raises:
        OSError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        tensors[f"weight.{name}"] = tensor
    for name, weight in network.named_parameters():
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimiser.state[weight][moment]
    metadata = {
        "format": FORMAT,
        "run": canonical_json(run),
        "history": canonical_json([asdict(epoch) for epoch in history]),
    }
    write_tensors(path, tensors, metadata)


def restore_state(
    path: Path, network: nn.Module, optimiser: torch.optim.Adam, *, run: Mapping[str, Any]
) -> list[EpochRecord]:
    """Put the state into the network and optimiser; returns the finished epochs.

    Raises:
        TrainingError: the file is broken, or belongs to another run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise _broken(path, f"the format {metadata.get('format')!r}")
            _refuse_other_run(path, json.loads(metadata["run"]), run)
            history = [_epoch_from_json(epoch) for epoch in json.loads(metadata["history"])]
            if not 0 < len(history) < run["epochs"]:
                raise _broken(path, f"{len(history)} finished epochs")
            moments: dict[int, dict[str, Tensor]] = {}
            weights = {name: file.get_tensor(f"weight.{name}") for name in network.state_dict()}
            for index, (name, weight) in enumerate(network.named_parameters()):
                moments[index] = {moment: file.get_tensor(f"{moment}.{name}") for moment in MOMENTS}
                for moment in ("exp_avg", "exp_avg_sq"):  # Adam itself would find out at its first step
                    if moments[index][moment].shape != weight.shape:
                        raise ValueError(f"{moment}.{name} has another shape than its weight")
        network.load_state_dict(weights)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(path, f"a broken state ({str(error).splitlines()[0]})") from error
    return history


def _epoch_from_json(values: Mapping[str, Any]) -> EpochRecord:
    return EpochRecord(**{**values, "validation": Accuracy(**values["validation"])})


def _refuse_other_run(path: Path, theirs: Any, ours: Mapping[str, Any]) -> None:
    if not isinstance(theirs, dict):
        raise ValueError("its record is no mapping")
    other = [name for name in ours if theirs.get(name) != ours[name]]
    if other:
        raise TrainingError(
            f"{path}: an unfinished run",
            got=", ".join(f"{name} {theirs.get(name)}" for name in other),
            expected=", ".join(str(ours[name]) for name in other),
            next_step="Repeat it with its own options, or remove that file to start anew.",
        )


def _broken(path: Path, got: str) -> TrainingError:
    return TrainingError(
        str(path),
        got=got,
        expected="the state of an unfinished run",
        next_step="Remove that file to start anew.",
    )
