"""Checkpoint to ONNX in FP32, FP16 and INT8, and from there to engines; each checked to be the same model.

    from alexnet_export import OnnxOptions, export_onnx

Names are imported on first use, because nearly all of them need the [export] extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cuda import CudaDevice
    from .datasets import data_trained_on
    from .engine_export import build_engines, builders_from, engine_file_name, refuse_unbuildable
    from .engines.builders import EngineBuilder
    from .engines.options import EngineOptions, profile_from, targets_from
    from .gate import GateInputs, Tolerances
    from .onnx_export import OnnxOptions, export_onnx, refuse_foreign_export
    from .onnxruntime_runner import why_no_cuda
    from .reference import gate_inputs_from_folder
    from .refusals import Refusal, raise_if_refused, refusals_of
    from .runners import (
        FloatArray,
        Outputs,
        ResidentRunner,
        Runner,
        RunnerSource,
        infer_in_batches,
        open_runner,
        runner_from_artifact,
    )
    from .statistics import paired_drop_interval, signal_to_noise_db, softmax, wilson_interval
    from .torch_runner import CompiledTorchRunner, TorchRunner

_MODULES = {
    ".cuda": ("CudaDevice",),
    ".datasets": ("data_trained_on",),
    ".engine_export": ("build_engines", "builders_from", "engine_file_name", "refuse_unbuildable"),
    ".engines.builders": ("EngineBuilder",),
    ".engines.options": ("EngineOptions", "profile_from", "targets_from"),
    ".gate": ("GateInputs", "Tolerances"),
    ".onnx_export": ("OnnxOptions", "export_onnx", "refuse_foreign_export"),
    ".onnxruntime_runner": ("why_no_cuda",),
    ".reference": ("gate_inputs_from_folder",),
    ".refusals": ("Refusal", "raise_if_refused", "refusals_of"),
    ".runners": (
        *("FloatArray", "Outputs", "ResidentRunner", "Runner", "RunnerSource"),
        *("infer_in_batches", "open_runner", "runner_from_artifact"),
    ),
    ".statistics": ("paired_drop_interval", "signal_to_noise_db", "softmax", "wilson_interval"),
    ".torch_runner": ("CompiledTorchRunner", "TorchRunner"),
}

__all__ = [
    "CompiledTorchRunner",
    "CudaDevice",
    "EngineBuilder",
    "EngineOptions",
    "FloatArray",
    "GateInputs",
    "OnnxOptions",
    "Outputs",
    "Refusal",
    "ResidentRunner",
    "Runner",
    "RunnerSource",
    "Tolerances",
    "TorchRunner",
    "build_engines",
    "builders_from",
    "data_trained_on",
    "engine_file_name",
    "export_onnx",
    "gate_inputs_from_folder",
    "infer_in_batches",
    "open_runner",
    "paired_drop_interval",
    "profile_from",
    "raise_if_refused",
    "refusals_of",
    "refuse_foreign_export",
    "refuse_unbuildable",
    "runner_from_artifact",
    "signal_to_noise_db",
    "softmax",
    "targets_from",
    "why_no_cuda",
    "wilson_interval",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
