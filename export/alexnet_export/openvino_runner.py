"""OpenVINO on the CPU: the runtime that serves ONNX files where there is no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.records import Precision

from .runners import Outputs, RunnerSource

with needs("export"):
    import openvino

# OpenVINO's layer types that hold the multiply-adds.
HEAVY_LAYERS = frozenset({"Convolution", "FullyConnected", "MatMul"})


def openvino_options(precision: Precision) -> dict[str, str]:
    """Return the options that a file of this precision is compiled with, for measuring and for serving.

    Where the CPU has bf16, OpenVINO computes FP32 files in it by default. A figure called FP32 must be FP32,
    so the hint is f32. It is f16 for an FP16 file if the CPU computes in f16.
    """
    has_f16 = "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hint = "f16" if precision == "fp16" and has_f16 else "f32"
    return {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}


def runner_from_source(source: RunnerSource) -> OpenVinoRunner:
    """Make a runner of the ONNX file in `source.file`; `source.options` are OpenVINO properties."""
    options = openvino_options(source.precision) if source.options is None else source.options
    return OpenVinoRunner(source.file, source.contract, options)


class OpenVinoRunner:
    """Run an ONNX file on OpenVINO's CPU plugin.

    OpenVINO's core releases Python's lock, so several threads may share one runner.

    Args:
        path: The ONNX file.
        contract: The model's input contract, which names the tensors.
        options: Properties that OpenVINO compiles the file with.

    Raises (on entering):
        ExportError: OpenVINO cannot compile the file.
    """

    def __init__(self, path: Path, contract: Contract, options: Mapping[str, str]) -> None:
        self._path = path
        self._contract = contract
        self._options = dict(options)
        self._compiled: Any = None
        self._request: Any = None

    def __enter__(self) -> Self:
        try:
            self._compiled = openvino.Core().compile_model(str(self._path), "CPU", self._options)
        except RuntimeError as error:
            raise ExportError(
                str(self._path),
                got=str(error).strip().splitlines()[-1],
                expected="a file that OpenVINO can compile",
            ) from error
        self._request = self._compiled.create_infer_request()
        return self

    def __exit__(self, *_: object) -> None:
        self._request = self._compiled = None

    @property
    def runtime(self) -> RuntimeInfo:
        return RuntimeInfo(
            name="openvino", device="CPU", computes_in=self._computes_in(), options=self._options
        )

    def infer(self, images: Uint8Array) -> Outputs:
        results = self._request.infer({self._contract.input_name: images}, share_inputs=True)
        return Outputs(results[self._contract.probabilities_name], results[self._contract.logits_name])

    def _computes_in(self) -> str:
        """Return the types of the compiled graph's heavy layers, as the plugin reports them."""
        types = set()
        for operation in self._compiled.get_runtime_model().get_ops():
            info = operation.get_rt_info()
            if info["layerType"].astype(str) in HEAVY_LAYERS:
                types.add(info["runtimePrecision"].astype(str))
        # A convolution after a ReLU takes unsigned activations with signed weights: both are 8-bit integers.
        return "+".join(sorted({"i8" if kind == "u8" else kind for kind in types}))
