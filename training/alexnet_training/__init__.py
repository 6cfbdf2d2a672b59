"""Train a network on a labelled image dataset and write its checkpoint.

`import alexnet_training` does not import PyTorch; the first use of `train`, `TrainingReport`,
`Accuracy` or `EpochRecord` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from alexnet_model.extras import needs

from .options import TrainingOptions
from .recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from .fit import TrainingReport, train
    from .resume import resume_path
    from .state import Accuracy, EpochRecord

__all__ = [
    "RECIPES",
    "Accuracy",
    "EpochRecord",
    "Recipe",
    "TrainingOptions",
    "TrainingReport",
    "resume_path",
    "train",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        with needs("train"):  # before `alexnet_model` names the extra [export], which is not enough
            import_module("kornia")
        return getattr(import_module(f"{__name__}.fit"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
