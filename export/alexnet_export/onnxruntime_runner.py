"""ONNX Runtime: the reference for ONNX files, and the fallback where there is a GPU without TensorRT."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from alexnet_model.contract import Uint8Array
from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.manifest import RuntimeInfo

from .cuda import CudaDevice
from .runners import Outputs, RunnerSource

with needs("export"):
    import onnxruntime

# What ONNX Runtime's graphs call the layers with the multiply-adds, after its own fusions.
HEAVY_OPERATORS = frozenset(
    {"Conv", "ConvInteger", "FusedConv", "FusedGemm", "Gemm", "MatMul", "MatMulInteger", "QGemm"}
    | {"QLinearConv", "QLinearMatMul", "DynamicQuantizeMatMul"}
)
SHORT_NAMES = {"float": "f32", "float16": "f16", "uint8": "i8", "int8": "i8"}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OUTPUTS = ["probabilities", "logits"]


def runner_from_source(source: RunnerSource) -> OnnxRunner:
    """Make a runner of an ONNX file."""
    return OnnxRunner(source.file, source.device)


class OnnxRunner:
    """An ONNX file on ONNX Runtime's CPU provider, or on its CUDA provider where a GPU is given.

    Raises (on entering):
        ExportError: the file cannot be loaded, or the GPU cannot be used.
    """

    def __init__(self, path: Path, device: CudaDevice | None = None) -> None:
        self._path = path
        self._device = device
        self._session: Any = None
        self._computes_in = ""

    def __enter__(self) -> Self:
        self._session = self._loaded(_options())
        if self._device is not None:
            self._binding = self._session.io_binding()
            for name in OUTPUTS:
                self._binding.bind_output(name, "cuda", self._device.index)
            self._run_options = onnxruntime.RunOptions()
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return self

    def __exit__(self, *_: object) -> None:
        self._session = self._binding = None

    @property
    def runtime(self) -> RuntimeInfo:
        """Asked for the first time, this loads the file once more, to look at its layers at work."""
        self._computes_in = self._computes_in or self._types_of_layers()
        name = "CPU" if self._device is None else self._device.name
        return RuntimeInfo(name="onnxruntime", device=name, computes_in=self._computes_in)

    def infer(self, images: Uint8Array) -> Outputs:
        return Outputs(*self._session.run(OUTPUTS, {"image": images}))

    def place(self, images: Uint8Array) -> Any:
        assert self._device is not None
        return onnxruntime.OrtValue.ortvalue_from_numpy(images, "cuda", self._device.index)

    def take(self, placed: Any) -> None:
        self._binding.bind_ortvalue_input("image", placed)

    def launch(self) -> None:
        self._session.run_with_iobinding(self._binding, self._run_options)

    def _loaded(self, options: Any) -> Any:
        try:
            session = onnxruntime.InferenceSession(str(self._path), options, providers=self._providers())
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ExportError(
                str(self._path),
                got=str(error).strip().splitlines()[-1],
                expected="a file ONNX Runtime can load",
            ) from error
        # Where CUDA or cuDNN does not load, ONNX Runtime says so in its log and takes the CPU.
        if self._device is not None and CUDA not in session.get_providers():
            raise ExportError(
                str(self._path),
                got=f"ONNX Runtime {onnxruntime.__version__} without CUDA",
                expected=f"it to use {self._device.name}",
                next_step="Install onnxruntime-gpu for this machine's CUDA in its place.",
            )
        return session

    def _providers(self) -> list[Any]:
        if self._device is None:
            return [CPU]
        options = {
            "device_id": str(self._device.index),
            "user_compute_stream": str(self._device.stream),
            "use_tf32": "0",  # on by default, and not FP32
        }
        return [(CUDA, options), CPU]

    def _types_of_layers(self) -> str:
        """In which types the layers really run, from the profile of a run."""
        with tempfile.TemporaryDirectory() as folder:
            options = _options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._loaded(options)
            shape = session.get_inputs()[0].shape[1:]
            session.run(OUTPUTS, {"image": np.zeros((1, *shape), np.uint8)})
            return types_from_profile(Path(session.end_profiling()), on=CPU if self._device is None else CUDA)


def has_cuda() -> bool:
    """Whether this ONNX Runtime was built for CUDA; whether it loads is known when a session has."""
    return CUDA in onnxruntime.get_available_providers()


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def types_from_profile(profile: Path, *, on: str) -> str:
    """In which types the heavy layers ran; with a word where it was not on the provider that was asked for.

    ONNX Runtime gives a layer to the CPU without a word where CUDA has none of its kind.
    """
    types: set[str] = set()
    for event in json.loads(profile.read_text(encoding="utf-8")):
        arguments = event.get("args", {})
        if arguments.get("op_name") in HEAVY_OPERATORS and arguments.get("input_type_shape"):
            elsewhere = "" if arguments.get("provider", on) == on else " on the CPU"
            types.update(SHORT_NAMES.get(kind, kind) + elsewhere for kind in arguments["input_type_shape"][0])
    return "+".join(sorted(types))
