"""Engine builders: one for each kind of GPU here, or one for the targets of TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from alexnet_model import docker
from alexnet_model.contract import Contract
from alexnet_model.errors import EngineError, UsageError
from alexnet_model.gpus import Gpu, GpuSurvey, gpus_here
from alexnet_model.passport import Passport, Profile
from alexnet_model.progress import Progress
from alexnet_model.records import Precision
from alexnet_model.triton_image import MINIMUM_DRIVER, driver_is_too_old

from ..cuda import CudaDevice, Device
from ..runners import Runner
from .options import EngineOptions
from .tensorrt_api import TensorRt, tensorrt_api
from .tensorrt_compiler import engine_from_onnx
from .tensorrt_runner import EngineRunner
from .trtexec import TrtexecRunner, engine_from_onnx_in_docker


class Build(Protocol):
    """Build one engine and write its passport beside it."""

    def __call__(
        self,
        onnx: Path,
        engine: Path,
        *,
        precision: Precision,
        profile: Profile,
        contract: Contract,
        progress: Progress,
    ) -> Passport: ...


@dataclass(frozen=True)
class EngineBuilder:
    """Builds engines for one kind of GPU, and runs them.

    Attributes:
        label: Part of the engines' file names, such as `sm90`.
        build: Builds one engine.
        run: Makes a runner from the engine, its passport, the number of classes and the contract. None if no
            GPU of this machine can run the engines.
        suffix: How the engines' file names end.
        not_built: Why a precision is not built, by precision; empty if all are.
    """

    label: str
    build: Build
    run: Callable[[Path, Passport, int, Contract], Runner] | None
    suffix: str = ".plan"
    not_built: Mapping[Precision, str] = field(default_factory=dict)


def builders_from(options: EngineOptions) -> tuple[EngineBuilder, ...]:
    """Make one builder for each kind of GPU here, or one for the targets of TensorRT-RTX.

    This checks all that can be known before a build, since a build and its check by the gate take minutes.

    Args:
        options: How to build.

    Raises:
        EngineError: there is no GPU where one is needed, PyTorch cannot use it, its driver is too old, or
            Triton's image would not load the engines.
        DockerError: no Docker engine, or no such image.
        MissingExtra: the library is not installed.
        UsageError: RTX has neither a target nor a GPU, or does not build for it.
    """
    survey = gpus_here()
    if options.runtime == "tensorrt-rtx" and options.targets:
        return (_for_targets(options, survey),)
    if not survey.gpus:
        raise _no_gpu(options, survey)
    if options.runtime != "tensorrt-rtx":
        _check_gpus(options, survey)
    if options.build == "docker":
        docker.tensorrt_of_image(options.image)
        return tuple(_in_docker(options, gpu, survey.cuda) for gpu in survey.kinds)
    api = tensorrt_api(options.runtime)
    if options.runtime == "tensorrt":
        _check_version(options, api)
    else:
        api.check_targets(tuple(gpu.target for gpu in survey.kinds))
    return tuple(
        on_gpu(api, CudaDevice(gpu), options, gpu, survey.cuda, prefix=_prefix(options))
        for gpu in survey.kinds
    )


def on_gpu(
    api: TensorRt, device: Device, options: EngineOptions, gpu: Gpu, cuda: str | None, *, prefix: str = ""
) -> EngineBuilder:
    """Make a builder whose engines are built, inspected and run on one GPU of this machine.

    Args:
        api: The library to build with.
        device: The GPU's memory and stream.
        options: How to build.
        gpu: The GPU.
        cuda: The newest CUDA version that the driver supports.
        prefix: The start of the builder's label.
    """

    def run(engine: Path, passport: Passport, classes: int, contract: Contract) -> Runner:
        return EngineRunner(engine, passport, api=api, device=device, classes=classes, contract=contract)

    def build(onnx: Path, engine: Path, **more: Any) -> Passport:
        device.make_current()
        return engine_from_onnx(api, onnx, engine, options, gpu=gpu, cuda=cuda, **more)

    return EngineBuilder(f"{prefix}{gpu.target}", build, run)


def _for_targets(options: EngineOptions, survey: GpuSurvey) -> EngineBuilder:
    """Make a builder for the named GPUs, which runs the engines if this machine has one of them."""
    label = _prefix(options) + "-".join(options.targets)
    api = tensorrt_api("tensorrt-rtx")
    api.check_targets(options.targets)
    here = next((gpu for gpu in survey.kinds if gpu.target in options.targets), None)
    if here is not None:
        builder = on_gpu(api, CudaDevice(here), options, here, survey.cuda)
        return EngineBuilder(label, builder.build, builder.run)
    return EngineBuilder(label, partial(engine_from_onnx, api, options=options), None)


def _in_docker(options: EngineOptions, gpu: Gpu, cuda: str | None) -> EngineBuilder:
    def run(engine: Path, passport: Passport, _: int, contract: Contract) -> Runner:
        return TrtexecRunner(engine, passport, gpu=gpu, contract=contract)

    build = partial(engine_from_onnx_in_docker, options=options, gpu=gpu, cuda=cuda)
    return EngineBuilder(gpu.target, build, run)


def _check_gpus(options: EngineOptions, survey: GpuSurvey) -> None:
    for gpu in survey.gpus:
        if driver_is_too_old(gpu):
            raise EngineError(
                f"driver of {gpu.name}",
                got=gpu.driver,
                expected=f"{MINIMUM_DRIVER} or newer, as Triton's image needs",
                next_step="Update it: https://www.nvidia.com/drivers",
            )
        one = next(kind for kind in survey.kinds if kind.compute_capability == gpu.compute_capability)
        if options.hardware_compatibility == "none" and gpu.name != one.name:
            raise EngineError(
                f"{one.name} and {gpu.name}",
                got=f"two GPU models with compute capability {gpu.compute_capability}",
                expected="engines that load on both, since Triton chooses by capability",
                next_step="Add --hardware-compatibility same-compute-capability.",
            )


def _check_version(options: EngineOptions, api: TensorRt) -> None:
    """Compare the library with the image that will serve, if that image is on this machine."""
    served = docker.tensorrt_of_image_here(options.image)
    if served not in (None, api.version) and not options.version_compatible:
        raise EngineError(
            "tensorrt",
            got=api.version,
            expected=f"{served}, the version in {options.image}, which loads only its own engines",
            next_step=f"Run: pip install tensorrt=={served}, or add --build docker.",
        )


def _prefix(options: EngineOptions) -> str:
    return "rtx-" if options.runtime == "tensorrt-rtx" else ""


def _no_gpu(options: EngineOptions, survey: GpuSurvey) -> EngineError | UsageError:
    if options.runtime == "tensorrt-rtx":
        return UsageError(
            "target",
            got=f"none, and no GPU here: {survey.problem}",
            expected="the GPUs to build for",
            next_step="Set them: --target sm89",
        )
    return EngineError(
        f"--runtime {options.runtime}",
        got=f"no GPU: {survey.problem}",
        expected="the GPU that the engine is for",
        next_step="Build where it will be served, or without a GPU: --runtime tensorrt-rtx --target sm89",
    )
