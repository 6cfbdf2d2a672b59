"""`engine_from_onnx`: one function over TensorRT 10.12+, TensorRT 11 and TensorRT-RTX.

The precision is in the file, so nothing is chosen here but batches and GPUs.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from alexnet_model.contract import Contract
from alexnet_model.errors import EngineError
from alexnet_model.files import atomic_file, sha256_of_file
from alexnet_model.gpus import Gpu
from alexnet_model.passport import Passport, Profile, write_passport
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from .options import EngineOptions, timing_cache_name
from .passports import layer_precisions_from_json
from .tensorrt_api import TensorRt, reason_from_log

# (what TensorRT says, what to do about it)
ADVICE = (
    (r"has type Int32 but must have type", "A bias must stay float: quantise with `alexnet export`."),
    (r"zero.?point", "TensorRT takes symmetric INT8 alone: quantise with `alexnet export`."),
    (r"Plugin not found|No importer registered", "TensorRT has no such operator: express it in others."),
    (r"Failed to parse the ONNX model|DESERIALIZE", "It is truncated, or no ONNX file: export again."),
)


def engine_from_onnx(
    api: TensorRt,
    onnx: Path,
    engine: Path,
    options: EngineOptions,
    *,
    precision: Precision,
    profile: Profile,
    contract: Contract,
    gpu: Gpu | None = None,
    cuda: str | None = None,
    progress: Progress = silent,
) -> Passport:
    """Build an engine, and write it with its passport beside it; neither on an error or interrupt.

    `gpu`: the one to build on and to inspect on; None builds RTX engines for `options.targets`, unseen.

    Raises:
        EngineError: TensorRT cannot parse the file (node and operator named) or cannot build it.
        UsageError: a target that this version does not know.
        OSError: the engine cannot be written.
    """
    started = time.perf_counter()
    cache = None
    if gpu is not None and api.runtime_name != "tensorrt-rtx":  # whose timing caches do nothing
        cache = options.timing_caches / timing_cache_name(api.runtime_name, api.version, gpu)
    logger = api.logger()
    with _interrupts_held() as interrupted:
        builder = _builder(api, logger, onnx)
        network = api.network(builder)
        _parse(api, network, logger, onnx)
        config = api.config(
            builder, options.hardware_compatibility, version_compatible=options.version_compatible
        )
        if options.targets:
            api.set_targets(config, options.targets)
        config.add_optimization_profile(_shapes(builder, profile, contract))
        if cache is not None:
            api.use_timing_cache(config, cache.read_bytes() if cache.is_file() else b"")
        with _watched(api, config, f"building {precision} engine", progress, interrupted):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise _not_built(onnx, logger, "an engine")
    if cache is not None:
        with atomic_file(cache) as part:
            part.write_bytes(api.timing_cache_of(config))
    with atomic_file(engine) as part:
        part.write_bytes(memoryview(plan))
    seconds = time.perf_counter() - started

    passport = Passport(
        runtime=api.runtime_name,
        runtime_version=api.version,
        precision=precision,
        profile=profile,
        onnx_sha256=sha256_of_file(onnx),
        engine_sha256=sha256_of_file(engine),
        engine_size_bytes=engine.stat().st_size,
        gpu_name=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        targets=options.targets,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        driver=gpu.driver if gpu else None,
        cuda=cuda,
        layer_precisions=_inspected(api, engine, options, profile, contract) if gpu else None,
        build_seconds=round(seconds, 2),
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_passport(passport, engine)
    return passport


def _builder(api: TensorRt, logger: Any, onnx: Path) -> Any:
    try:
        return api.trt.Builder(logger)
    except TypeError as error:  # how the binding says that there was no builder to give
        raise _not_built(onnx, logger, "a GPU to build on, and its driver") from error


def _parse(api: TensorRt, network: Any, logger: Any, onnx: Path) -> None:
    parser = api.trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx)):
        return
    if parser.num_errors == 0:
        raise _not_built(onnx, logger, "a graph that TensorRT can parse")
    error = parser.get_error(0)
    node = f": node {error.node_name()} ({error.node_operator()})" if error.node_name() else ""
    description = error.desc()
    raise EngineError(
        f"{onnx}{node}",
        got=reason_from_log(description),
        expected="a graph that TensorRT can parse",
        next_step=advice_for(description),
    )


def _shapes(builder: Any, profile: Profile, contract: Contract) -> Any:
    shapes = builder.create_optimization_profile()
    batches = (profile.min, profile.opt, profile.max)
    shapes.set_shape(contract.input_name, *((batch, *contract.image_shape) for batch in batches))
    return shapes


@contextmanager
def _watched(
    api: TensorRt, config: Any, stage: str, progress: Progress, interrupted: Callable[[], bool]
) -> Iterator[None]:
    """Show a build's progress, and let an interrupt or an error of `progress` end it between two steps.

    No exception may pass through TensorRT's own frames, so they are kept until it has returned.
    """
    raised: list[BaseException] = []
    furthest = 0

    def report(percent: int, phase: str) -> bool:
        nonlocal furthest
        if interrupted():
            return False
        furthest = max(furthest, percent)  # a phase that starts counts from nothing again
        try:
            progress(stage, furthest, 100, phase)
        except BaseException as error:
            raised.append(error)
        return not raised

    monitor = api.monitor(report)  # TensorRT does not keep it alive
    config.progress_monitor = monitor
    progress(stage, 0, 100)
    yield
    config.progress_monitor = None
    if raised:
        raise raised[0]
    if not interrupted():
        progress(stage, 100, 100)


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C and SIGTERM back; give a function that tells whether one came, and let it through after.

    TensorRT calls back into Python (its logger, its monitor), and what is raised there is lost in its frames.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals are the main thread's alone
        return

    def hold(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:  # above whatever the interrupted build had to say
            signal.raise_signal(came[0])


def _inspected(
    api: TensorRt, engine: Path, options: EngineOptions, profile: Profile, contract: Contract
) -> dict[str, int] | None:
    """Load the engine where it was built, and ask what its layers compute in at the batch it is tuned for."""
    logger = api.logger()
    runtime = api.runtime(logger, version_compatible=options.version_compatible)
    loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
    if loaded is None:
        raise _not_built(engine, logger, "an engine that loads where it was built")
    context = loaded.create_execution_context()
    if context is None:
        raise _not_built(engine, logger, "room on the GPU to run it")
    context.set_input_shape(contract.input_name, (profile.opt, *contract.image_shape))
    inspector = loaded.create_engine_inspector()
    inspector.execution_context = context  # without shapes it says "N/A due to dynamic shapes"
    return layer_precisions_from_json(inspector.get_engine_information(api.trt.LayerInformationFormat.JSON))


def _not_built(path: Path, logger: Any, expected: str) -> EngineError:
    said = reason_from_log(logger.errors[-1]) if logger.errors else "no reason given by TensorRT"
    return EngineError(str(path), got=said, expected=expected, next_step="Check this machine: alexnet doctor")


def advice_for(description: str) -> str:
    """What to do about something that TensorRT said of a graph."""
    for pattern, advice in ADVICE:
        if re.search(pattern, description, re.IGNORECASE):
            return advice
    return "Change this node, or export again with `alexnet export`."
