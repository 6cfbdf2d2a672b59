"""The ground floor: what the model is. No server, no export, and nothing heavy is imported from here.

Modules that need PyTorch are imported by name: `architectures`, `checkpoint`, `classifier`, `pretrained`.
"""

from .contract import Contract, Picture
from .errors import AlexnetError
from .manifest import Manifest, Precision, manifest_from_folder
from .pictures import PictureSet, Splits, splits_from

__all__ = [
    "AlexnetError",
    "Contract",
    "Manifest",
    "Picture",
    "PictureSet",
    "Precision",
    "Splits",
    "manifest_from_folder",
    "splits_from",
]
