"""A runtime from another distribution: ONNX Runtime without graph optimisations, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from alexnet_model.runtimes import Runtime

if TYPE_CHECKING:
    from alexnet_export import Outputs, RunnerSource
    from alexnet_model.contract import Uint8Array
    from alexnet_model.manifest import RuntimeInfo

RUNTIME = Runtime(
    name="plain",
    title="Plain ONNX Runtime",
    source="onnx",
    devices=("cpu",),
    runner="plain_runtime:PlainRunner",
    backend="plain",
    backend_package="plain_runtime",
)


class PlainRunner:
    """Run an ONNX file without graph optimisations.

    Args:
        source: The ONNX file and its contract.
    """

    def __init__(self, source: RunnerSource) -> None:
        self._source = source

    def __enter__(self) -> Self:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session: Any = onnxruntime.InferenceSession(
            self._source.file, options, providers=["CPUExecutionProvider"]
        )
        return self

    def __exit__(self, *_: object) -> None:
        del self._session

    @property
    def runtime(self) -> RuntimeInfo:
        from alexnet_model.manifest import RuntimeInfo

        return RuntimeInfo(name="plain", device="CPU", computes_in="f32")

    def infer(self, images: Uint8Array) -> Outputs:
        from alexnet_export import Outputs

        contract = self._source.contract
        names = [contract.probabilities_name, contract.logits_name]
        return Outputs(*self._session.run(names, {contract.input_name: images}))
