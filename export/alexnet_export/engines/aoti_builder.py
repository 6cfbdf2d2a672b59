"""Builders of AOTInductor engines: one for each kind of GPU here, or one for the CPU of a machine without."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from alexnet_model.contract import Contract
from alexnet_model.gpus import Gpu, gpus_here
from alexnet_model.passport import Passport
from alexnet_model.records import Precision

from ..cuda import CudaDevice
from ..runners import Runner
from .aoti_compiler import check_compiler, engine_from_onnx
from .aoti_runner import AotiRunner
from .builders import EngineBuilder
from .options import EngineOptions

SUFFIX = ".pt2"
LABEL = "aoti"
NOT_BUILT_FOR_GPUS: dict[Precision, str] = {
    "int8": "PyTorch computes an INT8 file in float, more slowly than FP16",
}
NOT_BUILT_FOR_CPUS: dict[Precision, str] = {
    "fp16": "PyTorch has no fast half-precision convolutions on most CPUs",
    "int8": "PyTorch computes an INT8 file in float, more slowly than FP32",
}


def builders_from(options: EngineOptions) -> tuple[EngineBuilder, ...]:
    """Make one builder for each kind of GPU here, or one for the CPU on a machine without a GPU.

    Args:
        options: How to build.

    Raises:
        EngineError: there is no C++ compiler, or PyTorch cannot use a GPU that the driver lists.
    """
    check_compiler()
    survey = gpus_here()
    if not survey.gpus:
        return (_for_cpu(options),)
    return tuple(_for_gpu(options, gpu, CudaDevice(gpu), survey.cuda) for gpu in survey.kinds)


def _for_cpu(options: EngineOptions) -> EngineBuilder:
    def run(engine: Path, passport: Passport, classes: int, contract: Contract) -> Runner:
        return AotiRunner(engine, passport, classes=classes, contract=contract)

    build = partial(engine_from_onnx, options=options)
    return EngineBuilder(f"{LABEL}-cpu", build, run, suffix=SUFFIX, not_built=NOT_BUILT_FOR_CPUS)


def _for_gpu(options: EngineOptions, gpu: Gpu, device: CudaDevice, cuda: str | None) -> EngineBuilder:
    def run(engine: Path, passport: Passport, classes: int, contract: Contract) -> Runner:
        # With graphs, as the backend runs it: a network that cannot be captured is refused here.
        return AotiRunner(
            engine, passport, device=device, classes=classes, contract=contract, cuda_graphs=True
        )

    def build(onnx: Path, engine: Path, **more: Any) -> Passport:
        return engine_from_onnx(onnx, engine, options, gpu=gpu, gpu_index=device.index, cuda=cuda, **more)

    return EngineBuilder(f"{LABEL}-{gpu.target}", build, run, suffix=SUFFIX, not_built=NOT_BUILT_FOR_GPUS)
