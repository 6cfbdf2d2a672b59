"""A labelled image dataset to a trained checkpoint. `train` comes on first use: it needs PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from alexnet_model.extras import needs

from .options import TrainingOptions

if TYPE_CHECKING:
    from .fit import TrainingReport, train
    from .loop import Accuracy

__all__ = ["Accuracy", "TrainingOptions", "TrainingReport", "train"]


def __getattr__(name: str) -> object:
    home = {"Accuracy": "loop", "TrainingReport": "fit", "train": "fit"}.get(name)
    if home:
        with needs("train"):  # first, or the ground floor asks for [export], which is not enough
            import_module("kornia")
        return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
