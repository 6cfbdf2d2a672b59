"""From a checkpoint to a Triton model repository in one call, and engines for a repository that exists.

    from alexnet_pipeline import ExportOptions, export_model

    result = export_model("checkpoint.safetensors", ExportOptions(calibration="digits"))

`export_model` and `ExportOptions` need the [export] extra and are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .export_options import ExportOptions
    from .local_model import LocalModel, model_from_checkpoint, model_from_export
    from .model_export import ExportResult, export_model
    from .repository_engines import engine_refusal, rebuild_engines, unpacked_export

_MODULES = {
    ".export_options": ("ExportOptions",),
    ".local_model": ("LocalModel", "model_from_checkpoint", "model_from_export"),
    ".model_export": ("ExportResult", "export_model"),
    ".repository_engines": ("engine_refusal", "rebuild_engines", "unpacked_export"),
}

__all__ = [
    "ExportOptions",
    "ExportResult",
    "LocalModel",
    "engine_refusal",
    "export_model",
    "model_from_checkpoint",
    "model_from_export",
    "rebuild_engines",
    "unpacked_export",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
