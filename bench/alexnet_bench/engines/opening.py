"""From a spec to a runner, in the process that measures it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from alexnet_export import CompiledTorchRunner, CudaDevice, Runner, TorchRunner
from alexnet_model.checkpoint import load_checkpoint
from alexnet_model.contract import Contract

from .specs import EngineSpec

Opening = Callable[[], Runner]


def opening_from_spec(spec: EngineSpec, device: CudaDevice | None) -> Opening:
    """Import what runs the engine; what comes back reads its file, and entering its runner loads it.

    Raises:
        MissingExtra: a library is not installed.
        EngineError: one does not load.
        ManifestError: an engine has no passport.
    """
    if spec.runtime == "openvino":
        from alexnet_export.openvino_runner import OpenVinoRunner, openvino_options

        contract = Contract.from_json(spec.contract)
        return partial(OpenVinoRunner, spec.file, contract, spec.options or openvino_options(spec.precision))
    if spec.runtime == "onnxruntime":
        from alexnet_export.onnxruntime_runner import OnnxRunner

        return partial(OnnxRunner, spec.file, Contract.from_json(spec.contract), device)
    if spec.runtime == "pytorch":
        return lambda: TorchRunner(load_checkpoint(spec.file), device)
    if spec.runtime == "torch.compile":
        return lambda: CompiledTorchRunner(load_checkpoint(spec.file), device, max_batch=spec.max_batch)
    assert device is not None
    return _built_engine(spec, device)


def _built_engine(spec: EngineSpec, device: CudaDevice) -> Opening:
    from alexnet_export.engines.tensorrt_api import tensorrt_api
    from alexnet_export.engines.tensorrt_runner import EngineRunner
    from alexnet_model.passport import passport_of

    passport = passport_of(spec.file)
    return partial(
        EngineRunner,
        spec.file,
        passport,
        api=tensorrt_api(passport.runtime),
        device=device,
        classes=spec.classes,
        contract=Contract.from_json(spec.contract),
        cuda_graphs=spec.cuda_graphs,
    )
