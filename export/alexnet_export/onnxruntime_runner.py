"""ONNX Runtime: the reference for ONNX files, and the fallback where there is a GPU without TensorRT."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.manifest import RuntimeInfo

from .cuda import CudaDevice
from .runners import Outputs, RunnerSource

with needs("export"):
    import onnxruntime

# The operators that hold the multiply-adds, after ONNX Runtime's own fusions.
HEAVY_OPERATORS = frozenset(
    {"Conv", "ConvInteger", "FusedConv", "FusedGemm", "Gemm", "MatMul", "MatMulInteger", "QGemm"}
    | {"QLinearConv", "QLinearMatMul", "DynamicQuantizeMatMul"}
)
SHORT_NAMES = {"float": "f32", "float16": "f16", "uint8": "i8", "int8": "i8"}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
LOG_ERRORS_ONLY = 3  # its warnings are about its own optimisations


def runner_from_source(source: RunnerSource) -> OnnxRunner:
    """Make a runner of the ONNX file in `source.file`; its options are session configuration entries."""
    return OnnxRunner(source.file, source.contract, source.device, source.options)


class OnnxRunner:
    """Run an ONNX file on ONNX Runtime's CPU provider, or on its CUDA provider if a GPU is given.

    Args:
        path: The ONNX file.
        contract: The model's input contract, which names the tensors.
        device: The GPU to compute on. None: the CPU.
        options: Session configuration entries, such as `session.intra_op.allow_spinning`.

    Raises (on entering):
        ExportError: ONNX Runtime cannot load the file, or cannot use the GPU.
    """

    def __init__(
        self,
        path: Path,
        contract: Contract,
        device: CudaDevice | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._path = path
        self._input_name = contract.input_name
        self._output_names = [contract.probabilities_name, contract.logits_name]
        self._device = device
        self._entries = dict(options or {})
        self._session: Any = None
        self._computes_in = ""

    def __enter__(self) -> Self:
        self._session = self._load(self._session_options())
        if self._device is not None:
            self._binding = self._session.io_binding()
            for name in self._output_names:
                self._binding.bind_output(name, "cuda", self._device.index)
            self._run_options = onnxruntime.RunOptions()
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return self

    def __exit__(self, *_: object) -> None:
        self._session = self._binding = None

    @property
    def runtime(self) -> RuntimeInfo:
        """Describe the runtime. The first call loads the file once more, to profile its layers."""
        self._computes_in = self._computes_in or self._types_of_layers()
        device = "CPU" if self._device is None else self._device.name
        return RuntimeInfo(
            name="onnxruntime", device=device, computes_in=self._computes_in, options=self._entries
        )

    def infer(self, images: Uint8Array) -> Outputs:
        return Outputs(*self._session.run(self._output_names, {self._input_name: images}))

    def place(self, images: Uint8Array) -> Any:
        assert self._device is not None
        return onnxruntime.OrtValue.ortvalue_from_numpy(images, "cuda", self._device.index)

    def take(self, placed: Any) -> None:
        self._binding.bind_ortvalue_input(self._input_name, placed)

    def launch(self) -> None:
        self._session.run_with_iobinding(self._binding, self._run_options)

    def _session_options(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = LOG_ERRORS_ONLY
        for name, value in self._entries.items():
            options.add_session_config_entry(name, value)
        return options

    def _load(self, options: Any) -> Any:
        try:
            session = onnxruntime.InferenceSession(str(self._path), options, providers=self._providers())
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ExportError(
                str(self._path),
                got=str(error).strip().splitlines()[-1],
                expected="a file that ONNX Runtime can load",
            ) from error
        # If CUDA or cuDNN does not load, ONNX Runtime logs that and uses the CPU.
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
        """Return the types that the heavy layers run in, from the profile of one run."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._session_options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._load(options)
            shape = session.get_inputs()[0].shape[1:]
            session.run(self._output_names, {self._input_name: np.zeros((1, *shape), np.uint8)})
            return types_from_profile(Path(session.end_profiling()), on=CPU if self._device is None else CUDA)


def types_from_profile(profile: Path, *, on: str) -> str:
    """Return the types that the heavy layers ran in, such as `f32` or `f16+f32 on the CPU`.

    ONNX Runtime silently runs a layer on the CPU if CUDA has no kernel for it; the result names such layers.

    Args:
        profile: The JSON file that ONNX Runtime's profiler wrote.
        on: The provider that the layers were meant to run on.
    """
    types: set[str] = set()
    for event in json.loads(profile.read_text(encoding="utf-8")):
        arguments = event.get("args", {})
        if arguments.get("op_name") in HEAVY_OPERATORS and arguments.get("input_type_shape"):
            elsewhere = "" if arguments.get("provider", on) == on else " on the CPU"
            types.update(SHORT_NAMES.get(kind, kind) + elsewhere for kind in arguments["input_type_shape"][0])
    return "+".join(sorted(types))
