"""Which runtimes would compute on this machine's GPU, with the command of each, or what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from alexnet_model.gpus import GpuSurvey
from alexnet_model.records import Record
from alexnet_model.runtimes import Runtime, runtimes

from .checks import (
    BUILD_IN_DOCKER,
    EXPORT,
    SERVE_EMBEDDED,
    Check,
    build_job,
    missing_checks,
    missing_onnxruntime_gpu,
    pytorch_lacks_cuda,
)

# The GPUs that TensorRT-RTX 1.7 builds for; the Hopper generation (9.0) is not among them.
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0", "12.1")
# Both packages have the same files, so that one must be removed.
ONNXRUNTIME_GPU = "pip uninstall --yes onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
PYTORCH_WITH_CUDA = "pip install --force-reinstall torch torchvision"

NO_DRIVER = ("NVIDIA driver", "missing")  # name and status of a check
OF_REPOSITORY = " of --repository"  # end of the names of checks of what is served now


class GpuRuntime(Record):
    """A runtime that `alexnet export` offers and that computes on GPUs.

    Attributes:
        runtime: Its name in the table of runtimes.
        title: Its name in text.
        served: Whether Triton serves it; other runtimes are for `alexnet bench engine`.
        command: The command that exports a checkpoint for it.
        runs: Whether it would run on the GPUs of this machine.
        missing: What is missing, in words; empty if it runs.
        fix: The command that fixes the first of these; empty if it runs, or if nothing fixes it.
    """

    runtime: str
    title: str
    served: bool
    command: str
    runs: bool
    missing: tuple[str, ...]
    fix: str


def gpu_runtimes(checks: Sequence[Check], survey: GpuSurvey) -> tuple[GpuRuntime, ...]:
    """Judge each runtime by the checks of the report, in the order of the table; none without a GPU."""
    if not survey.gpus:
        return ()
    offered = (runtime for runtime in runtimes() if runtime.served or runtime.builder)
    return tuple(_judged(runtime, checks, survey) for runtime in offered if "gpu" in runtime.devices)


def _judged(runtime: Runtime, checks: Sequence[Check], survey: GpuSurvey) -> GpuRuntime:
    """Judge a runtime by the way with the fewest missing parts: its library here, or Triton's image."""
    ways = []
    if runtime.backend_package or not runtime.in_stock_image:
        ways.append(list(_missing_here(runtime, checks, survey)))
    if runtime.in_stock_image:
        ways.append([(check.name, check.fix) for check in missing_checks(checks, EXPORT, BUILD_IN_DOCKER)])
    missing = min(ways, key=len)
    words = ["alexnet", "export", "CHECKPOINT", "--runtime", runtime.name]
    words += ["--build", "docker"] if runtime.in_stock_image and runtime.bound_to_machine else []
    return GpuRuntime(
        runtime=runtime.name,
        title=runtime.title,
        served=runtime.served,
        command=shlex.join(words),
        runs=not missing,
        missing=tuple(name for name, _ in missing),
        fix=next((fix for _, fix in missing if fix), ""),
    )


def _missing_here(runtime: Runtime, checks: Sequence[Check], survey: GpuSurvey) -> Iterator[tuple[str, str]]:
    """Yield what a runtime needs to compute outside Docker and is missing, each with its fix."""
    commands = [build_job(runtime) if runtime.bound_to_machine else EXPORT]
    if runtime.served:
        commands.append(SERVE_EMBEDDED)
    stopping = missing_checks(checks, *commands)
    for check in checks:
        stops = check in stopping and not check.name.endswith(OF_REPOSITORY)
        if stops or (check.name, check.status) == NO_DRIVER:
            yield check.name, check.fix
    if runtime.name == "onnxruntime" and (package := missing_onnxruntime_gpu()):
        yield package, ONNXRUNTIME_GPU
    if runtime.loads_in_python and pytorch_lacks_cuda():
        yield "PyTorch with CUDA", PYTORCH_WITH_CUDA
    if runtime.name == "tensorrt-rtx":
        unfit = [gpu for gpu in survey.gpus if gpu.compute_capability not in RTX_CAPABILITIES]
        if len(unfit) == len(survey.gpus):
            yield f"a GPU of compute capability {', '.join(RTX_CAPABILITIES)}", ""
