"""The ways in which people save the weights of a network, each as a function that writes a file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

StateDict: TypeAlias = Mapping[str, Tensor]
Way: TypeAlias = Callable[[StateDict, Path], Path]


def _saved(
    content: Callable[[StateDict], Any], suffix: str, state: StateDict, folder: Path, **more: Any
) -> Path:
    path = folder / f"weights{suffix}"
    torch.save(content(state), path, **more)
    return path


def _safetensors(state: StateDict, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file(dict(state), path, metadata={"format": "pt"})
    return path


def _prefixed(prefix: str, state: StateDict) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _training_checkpoint(state: StateDict) -> dict[str, Any]:
    """As of the scripts of PyTorch's examples and of timm, after a step of Adam."""
    weight = nn.Parameter(torch.ones(3, 2))
    optimiser = torch.optim.Adam([weight])
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return {
        "epoch": 7,
        "arch": "lenet",
        "state_dict": _prefixed("module.", state),
        "best_acc1": torch.tensor(81.5),
        "best_loss": np.float64(0.25),
        "optimizer": optimiser.state_dict(),
        "history": [{"epoch": 1, "loss": 2.5}],
        "args": Namespace(lr=0.1, data="images"),
    }


def _averaged(state: StateDict) -> dict[str, Tensor]:
    """As of torch.optim.swa_utils.AveragedModel."""
    return {"n_averaged": torch.tensor(3), **_prefixed("module.", state)}


def _lightning(state: StateDict) -> dict[str, Any]:
    """As of a Lightning module that has the network and a loss with weights of its own."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "state_dict": {"loss.weight": torch.ones(5), **_prefixed("model.", state)},
        "callbacks": {},
    }


def _as(dtype: torch.dtype, state: StateDict) -> dict[str, Tensor]:
    """As after `network.to(dtype)`, which leaves whole numbers as they are."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def _inner(state: StateDict) -> dict[str, Tensor]:
    """As after torch.compile or DataParallel of a part of the network."""
    return {name.replace(".", "._orig_mod.", 1): tensor for name, tensor in state.items()}


def _way(content: Callable[[StateDict], Any], suffix: str = ".pth", **more: Any) -> Way:
    return partial(_saved, content, suffix, **more)


PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.model.",
    "model.module.",
)
KEYS = ("state_dict", "model_state_dict", "model", "net", "ema")
WAYS: dict[str, Way] = {
    **{suffix: _way(dict, suffix) for suffix in (".pth", ".pt", ".bin", ".pth.tar")},
    ".safetensors": _safetensors,
    "legacy": _way(dict, _use_new_zipfile_serialization=False),
    "parameters": _way(lambda state: {name: nn.Parameter(value) for name, value in state.items()}),
    "reversed": _way(lambda state: dict(reversed(list(state.items())))),
    "beside": _way(lambda state: {"epoch": 3, "classes": ["a", "b"], **state}),
    **{key: _way(lambda state, key=key: {"epoch": 1, key: dict(state)}) for key in KEYS},  # type: ignore[misc]
    "nested": _way(lambda state: {"ema": {"decay": 0.9, "state_dict": dict(state)}}),
    **{prefix: _way(partial(_prefixed, prefix)) for prefix in PREFIXES},
    "half": _way(partial(_as, torch.float16)),
    "bfloat16": _way(partial(_as, torch.bfloat16)),
    "double": _way(partial(_as, torch.float64)),
    "training": _way(_training_checkpoint, ".pth.tar"),
    "averaged": _way(_averaged),
    "lightning": _way(_lightning, ".ckpt"),
    "inner": _way(_inner),
}


def rounded(state: StateDict) -> dict[str, Tensor]:
    """Round the weights so that half precision and bfloat16 hold them without loss."""
    return {
        name: value.bfloat16().half().float() if value.is_floating_point() else value
        for name, value in state.items()
    }
