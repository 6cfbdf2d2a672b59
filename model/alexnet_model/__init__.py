"""The ground floor: what the model is. No server, no export, and nothing heavy is imported from here.

Modules that need PyTorch are imported by name: `architectures`, `checkpoint`, `classifier`, `pretrained`.
The manifest comes on first use, because pydantic takes longer to import than the rest of the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .contract import Contract, ImageInput
from .datasets import ImageDataset, Splits, splits_from
from .errors import AlexnetError

if TYPE_CHECKING:
    from .manifest import Manifest, Precision, manifest_from_folder

__all__ = [
    "AlexnetError",
    "Contract",
    "ImageDataset",
    "ImageInput",
    "Manifest",
    "Precision",
    "Splits",
    "manifest_from_folder",
    "splits_from",
]


def __getattr__(name: str) -> object:
    if name in ("Manifest", "Precision", "manifest_from_folder"):
        return getattr(import_module(f"{__name__}.manifest"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
