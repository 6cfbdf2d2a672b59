"""From a checkpoint to a Triton model repository in one call, and what runs a model without a server.

    from alexnet_pipeline import ExportOptions, export_model

    result = export_model("checkpoint.safetensors", ExportOptions(calibration="digits"))

All names are imported on first use, because they need extras: [export], and [bulk] for `classify_in_bulk`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bulk import BulkModel, BulkResult, bulk_model_from_export, classify_in_bulk
    from .bulk_inputs import names_at_url, names_in_list
    from .export_options import ExportOptions
    from .local_model import LocalModel, model_from_checkpoint, model_from_export
    from .model_export import ExportResult, export_model
    from .repository_engines import engine_refusal, rebuild_engines, unpacked_export

_MODULES = {
    ".bulk": ("BulkModel", "BulkResult", "bulk_model_from_export", "classify_in_bulk"),
    ".bulk_inputs": ("names_at_url", "names_in_list"),
    ".export_options": ("ExportOptions",),
    ".local_model": ("LocalModel", "model_from_checkpoint", "model_from_export"),
    ".model_export": ("ExportResult", "export_model"),
    ".repository_engines": ("engine_refusal", "rebuild_engines", "unpacked_export"),
}

__all__ = [
    "BulkModel",
    "BulkResult",
    "ExportOptions",
    "ExportResult",
    "LocalModel",
    "bulk_model_from_export",
    "classify_in_bulk",
    "engine_refusal",
    "export_model",
    "model_from_checkpoint",
    "model_from_export",
    "names_at_url",
    "names_in_list",
    "rebuild_engines",
    "unpacked_export",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
