"""Which runtime serves on a GPU: on what the gate judges, and what `export` chooses if the user names none.

On a machine with a GPU, but neither Docker nor TensorRT, two runtimes can serve: ONNX Runtime, and networks
that AOTInductor compiled. Which is faster depends on the network and the GPU, so both are measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from alexnet_export import (
    CudaDevice,
    EngineBuilder,
    EngineOptions,
    Runner,
    RunnerSource,
    build_engines,
    builders_from,
    open_runner,
    refuse_unbuildable,
    runner_from_artifact,
    why_no_cuda,
)
from alexnet_model import docker
from alexnet_model.contract import Contract
from alexnet_model.errors import DockerError, EngineError, ExportError
from alexnet_model.gpus import Gpu, gpus_here
from alexnet_model.manifest import (
    Artifact,
    Manifest,
    RuntimeChoice,
    RuntimeTiming,
    write_manifest,
)
from alexnet_model.progress import Progress, silent

from .export_options import ExportOptions

ONNXRUNTIME, AOTI = "onnxruntime", "aoti"
BATCHES = (1, 8)  # the last one decides
WARM_UP_RUNS = 3  # the first one captures a CUDA graph
MOST_RUNS, SECONDS = 200, 0.5  # of one batch size


@dataclass(frozen=True, kw_only=True)
class GpuRuntimes:
    """What can compute on a GPU of this machine.

    Attributes:
        gpu: The GPU.
        device: The GPU as runners use it.
        has_onnxruntime: Whether ONNX Runtime can use it.
        builders: What compiles networks with AOTInductor; empty if that is not possible here.
    """

    gpu: Gpu
    device: CudaDevice
    has_onnxruntime: bool
    builders: tuple[EngineBuilder, ...]


def device_of_onnxruntime() -> tuple[CudaDevice | None, str]:
    """Return the GPU that ONNX Runtime would serve on here, and a sentence about where the gate judges.

    The sentence is empty if there is such a GPU. Otherwise the files are judged on the CPU.
    """
    survey = gpus_here()
    if not survey.gpus:
        return None, (
            f"The ONNX files were judged on the CPU ({survey.problem}). A server with a GPU would use it: "
            "to judge them there, export on that machine."
        )
    gpu = survey.kinds[0]
    reason = why_no_cuda()
    if not reason:
        try:
            return CudaDevice(gpu), ""
        except EngineError as error:
            reason = f"{error.subject}: {error.got}"
    else:
        reason = f"ONNX Runtime: {reason}"
    return None, f"The ONNX files were judged on the CPU, and not on {gpu.name} ({reason})."


def runtimes_to_measure(options: ExportOptions) -> tuple[GpuRuntimes | None, tuple[str, ...]]:
    """Return the runtimes to choose from if the user names none, and sentences about what is left out.

    There is nothing to choose on a machine without a GPU, and on one with Docker or TensorRT, where TensorRT
    is the fastest.

    Args:
        options: The options of the export.
    """
    if options.runtime is not None or options.image is not None or find_spec("tensorrt") is not None:
        return None, ()
    survey = gpus_here()
    if not survey.gpus or _docker_runs():
        return None, ()
    gpu = survey.kinds[0]
    try:
        device = CudaDevice(gpu)
    except EngineError as error:
        return None, (f"{gpu.name} is not used: {error}",)
    left_out = []
    reason = why_no_cuda()
    if reason:
        left_out.append(f"ONNX Runtime is left out: {reason}. Install onnxruntime-gpu in its place.")
    builders: tuple[EngineBuilder, ...] = ()
    try:
        made = builders_from(EngineOptions(runtime=AOTI))
        refuse_unbuildable(made, options.precisions or ())
        builders = made
    except (EngineError, ExportError) as error:
        left_out.append(f"AOTInductor is left out: {error}")
    if reason and not builders:
        return None, (*left_out, f"{gpu.name} is not used.")
    found = GpuRuntimes(gpu=gpu, device=device, has_onnxruntime=not reason, builders=builders)
    return found, tuple(left_out)


def with_fastest_runtime(
    manifest: Manifest,
    folder: Path,
    found: GpuRuntimes,
    options: ExportOptions,
    *,
    progress: Progress = silent,
) -> tuple[Manifest, tuple[str, ...]]:
    """Compile the accepted ONNX files, measure what the gate accepted, and record the fastest runtime.

    The runtime with the shortest time for a batch of 8 in its fastest precision wins.

    Args:
        manifest: The record of the ONNX files, judged on `found` if ONNX Runtime is among it.
        folder: Their folder, where engines are added and the record is written again.
        found: The runtimes to choose from.
        options: The options of the export.
        progress: Called with the progress of each stage.

    Returns:
        The new record, with `runtime_choice` unless nothing was accepted on the GPU; and sentences for the
        user about what failed, was measured and is chosen.
    """
    notes = []
    if found.builders and manifest.accepted:
        try:
            manifest = build_engines(
                folder,
                EngineOptions(runtime=AOTI),
                precisions=options.precisions,
                builders=found.builders,
                progress=progress,
            )
        except (EngineError, ExportError) as error:
            notes.append(f"AOTInductor is left out: {error}")
    timings = tuple(_timings(manifest, folder, found, progress))
    if not timings:
        return manifest, (*notes, f"The gate accepted nothing on {found.gpu.name}.")
    largest = max(timing.batch for timing in timings)
    fastest = min((one for one in timings if one.batch == largest), key=lambda one: one.median_ms)
    choice = RuntimeChoice(runtime=fastest.runtime, timings=timings)
    manifest = manifest.model_copy(update={"runtime_choice": choice})
    write_manifest(manifest, folder)
    return manifest, (*notes, *_in_words(choice))


def _timings(
    manifest: Manifest, folder: Path, found: GpuRuntimes, progress: Progress
) -> Iterator[RuntimeTiming]:
    batches = tuple(batch for batch in BATCHES if batch <= manifest.max_batch)
    runners = list(_runners(manifest, folder, found))
    for done, (artifact, runtime, runner) in enumerate(runners):
        progress("measuring runtimes", done, len(runners), f"{runtime} {artifact.precision}")
        with runner:
            for batch, runs in median_ms_by_batch(runner, manifest.contract, batches).items():
                yield RuntimeTiming(
                    runtime=runtime,
                    device=found.device.name,
                    precision=artifact.precision,
                    batch=batch,
                    median_ms=round(runs[0], 4),
                    runs=runs[1],
                )
    progress("measuring runtimes", len(runners), len(runners))


def _runners(manifest: Manifest, folder: Path, found: GpuRuntimes) -> Iterator[tuple[Artifact, str, Runner]]:
    """Yield what the gate accepted on the GPU, as the server runs it."""
    for artifact in manifest.accepted:
        if found.has_onnxruntime:
            yield artifact, ONNXRUNTIME, runner_from_artifact(artifact, folder, found.device)
        for engine in artifact.engines:
            passport = engine.passport
            on_this_gpu = passport.compute_capability == found.gpu.compute_capability
            if engine.accepted and on_this_gpu and passport.runtime == AOTI:
                source = RunnerSource(
                    file=folder / engine.file,
                    precision=artifact.precision,
                    contract=manifest.contract,
                    classes=len(manifest.model.class_names),
                    max_batch=passport.profile.max,
                )
                yield artifact, AOTI, open_runner(AOTI, source.on_gpu(found.device))


def median_ms_by_batch(
    runner: Runner, contract: Contract, batches: Sequence[int]
) -> dict[int, tuple[float, int]]:
    """Return the median time of a call in milliseconds and the number of calls, for each batch size.

    Each size takes about half a second.

    Args:
        runner: A runner that was entered.
        contract: The model's input contract.
        batches: The batch sizes.
    """
    found = {}
    for batch in batches:
        images = np.zeros((batch, *contract.image_shape), np.uint8)
        for _ in range(WARM_UP_RUNS):
            runner.infer(images)
        times_ms: list[float] = []
        until = time.perf_counter() + SECONDS
        while not times_ms or (len(times_ms) < MOST_RUNS and time.perf_counter() < until):
            started = time.perf_counter()
            runner.infer(images)
            times_ms.append(1000 * (time.perf_counter() - started))
        found[batch] = statistics.median(times_ms), len(times_ms)
    return found


def _in_words(choice: RuntimeChoice) -> Iterator[str]:
    """Yield each measured runtime and precision with its times, then the choice."""
    measured: dict[tuple[str, str, str], list[str]] = {}
    for one in choice.timings:
        times = measured.setdefault((one.runtime, one.precision, one.device), [])
        times.append(f"{one.median_ms:.2f} ms for {one.batch} image{'' if one.batch == 1 else 's'}")
    for (runtime, precision, device), times in measured.items():
        yield f"{runtime} {precision} on {device}: {', '.join(times)}, with copies."
    others = sorted({one.runtime for one in choice.timings} - {choice.runtime})
    overrule = f" To serve with another: --runtime {others[0]}" if others else ""
    yield f"Serving with {choice.runtime}, the fastest here; no runtime was requested.{overrule}"


def _docker_runs() -> bool:
    try:
        docker.check_docker()
    except DockerError:
        return False
    return True
