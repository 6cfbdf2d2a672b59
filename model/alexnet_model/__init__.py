"""What all packages share: architectures, input contract, datasets, checkpoints, manifest, errors.

`import alexnet_model` imports neither PyTorch, pydantic nor the datasets: such names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .contract import Contract, ImageInput, Uint8Array
from .contract_sources import contract_from_file, contract_from_timm_config
from .errors import AlexnetError

if TYPE_CHECKING:
    from .architectures import build, multiply_adds, parameter_count
    from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from .datasets import splits_from
    from .image_table import LabelledImage
    from .labelled_images import ImageDataset, Splits
    from .manifest import Manifest, Precision, manifest_from_folder
    from .prepared_images import PreparedImages, prepared_from_set
    from .pretrained import WeightsOptions, checkpoint_from

__all__ = [
    "AlexnetError",
    "Checkpoint",
    "Contract",
    "ImageDataset",
    "ImageInput",
    "LabelledImage",
    "Manifest",
    "Precision",
    "PreparedImages",
    "Splits",
    "Uint8Array",
    "WeightsOptions",
    "build",
    "checkpoint_from",
    "contract_from_file",
    "contract_from_timm_config",
    "load_checkpoint",
    "manifest_from_folder",
    "multiply_adds",
    "parameter_count",
    "prepared_from_set",
    "save_checkpoint",
    "splits_from",
]

_LOADED_ON_FIRST_USE = {
    "architectures": ("build", "multiply_adds", "parameter_count"),
    "checkpoint": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "datasets": ("splits_from",),
    "image_table": ("LabelledImage",),
    "labelled_images": ("ImageDataset", "Splits"),
    "manifest": ("Manifest", "Precision", "manifest_from_folder"),
    "prepared_images": ("PreparedImages", "prepared_from_set"),
    "pretrained": ("WeightsOptions", "checkpoint_from"),
}


def __getattr__(name: str) -> object:
    for module, names in _LOADED_ON_FIRST_USE.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
