"""OpenVINO: what a CPU serves with. Its C++ core holds no lock, so threads may share a runner's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from alexnet_model.contract import Uint8Array
from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.manifest import Precision, RuntimeInfo

from .runners import Outputs, RunnerSource

with needs("export"):
    import openvino

# The names of OpenVINO's layers that carry the multiply-adds.
HEAVY_LAYERS = frozenset({"Convolution", "FullyConnected", "MatMul"})


def openvino_options(precision: Precision) -> dict[str, str]:
    """How a file of this precision is compiled, for measuring and for serving alike.

    OpenVINO computes FP32 files in bf16 where the CPU has it; a figure called FP32 must not be that, so the
    float layers of every file are held to f32. An FP16 file gets f16 only where the CPU computes in it.
    """
    has_f16 = "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hint = "f16" if precision == "fp16" and has_f16 else "f32"
    return {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}


def runner_from_source(source: RunnerSource) -> OpenVinoRunner:
    """Make a runner of an ONNX file."""
    options = openvino_options(source.precision) if source.options is None else dict(source.options)
    return OpenVinoRunner(source.file, options)


class OpenVinoRunner:
    """An ONNX file on OpenVINO's CPU plugin.

    Raises (on entering):
        ExportError: the file cannot be compiled.
    """

    def __init__(self, path: Path, options: dict[str, str]) -> None:
        self._path = path
        self._options = options
        self._compiled: Any = None
        self._request: Any = None

    def __enter__(self) -> Self:
        try:
            self._compiled = openvino.Core().compile_model(str(self._path), "CPU", self._options)
        except RuntimeError as error:
            raise ExportError(
                str(self._path),
                got=str(error).strip().splitlines()[-1],
                expected="a file OpenVINO can compile",
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
        results = self._request.infer({"image": images}, share_inputs=True)
        return Outputs(results["probabilities"], results["logits"])

    def _computes_in(self) -> str:
        """The types of the compiled graph's heavy layers, as the plugin itself reports them."""
        types = set()
        for operation in self._compiled.get_runtime_model().get_ops():
            info = operation.get_rt_info()
            if info["layerType"].astype(str) in HEAVY_LAYERS:
                types.add(info["runtimePrecision"].astype(str))
        # A convolution after a ReLU takes unsigned activations with signed weights: both are 8-bit integers.
        return "+".join(sorted({"i8" if kind == "u8" else kind for kind in types}))
