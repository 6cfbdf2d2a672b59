"""`engine_from_onnx`: compile an ONNX file with TensorRT 10.12+, TensorRT 11 or TensorRT-RTX.

The precision is in the file; only batches and GPUs are chosen here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexnet_model.contract import Contract
from alexnet_model.errors import EngineError
from alexnet_model.files import atomic_file
from alexnet_model.gpus import Gpu
from alexnet_model.interrupts import Interrupts, deferred_interrupts
from alexnet_model.passport import Passport, Profile
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from .options import EngineOptions, timing_cache_name
from .passports import layer_precisions_from_json, write_engine_passport
from .tensorrt_api import TensorRt, reason_from_log

# (pattern of TensorRT's message, what to do about it)
ADVICE = (
    (r"has type Int32 but must have type", "Keep biases in float: quantise with `alexnet export`."),
    (r"zero.?point", "TensorRT takes only symmetric INT8: quantise with `alexnet export`."),
    (r"Plugin not found|No importer registered", "TensorRT lacks this operator: express it with others."),
    (r"Failed to parse the ONNX model|DESERIALIZE", "The file is truncated, or no ONNX file: export again."),
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

    Args:
        api: The library to build with.
        onnx: The ONNX file.
        engine: The file to write.
        options: How to build.
        precision: The precision of the ONNX file, for the passport.
        profile: The batches that the engine takes.
        contract: The model's input contract.
        gpu: The GPU to build and inspect on. None: build for `options.targets` without inspecting.
        cuda: The newest CUDA version that the driver supports, for the passport.
        progress: Called with the progress of the build.

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
    # TensorRT calls back into Python (its logger, its monitor), and an exception raised there is lost.
    with deferred_interrupts() as interrupts:
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
        with _reported(api, config, f"building {precision} engine", progress, interrupts):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise _not_built(onnx, logger, "an engine")
    if cache is not None:
        with atomic_file(cache) as part:
            part.write_bytes(api.timing_cache_of(config))
    with atomic_file(engine) as part:
        part.write_bytes(memoryview(plan))
    seconds = time.perf_counter() - started

    return write_engine_passport(
        engine,
        onnx,
        options,
        runtime_version=api.version,
        precision=precision,
        profile=profile,
        build_seconds=seconds,
        gpu=gpu,
        cuda=cuda,
        layer_precisions=_inspect(api, engine, options, profile, contract) if gpu else None,
    )


def _builder(api: TensorRt, logger: Any, onnx: Path) -> Any:
    try:
        return api.trt.Builder(logger)
    except TypeError as error:  # the binding raises it if TensorRT returns no builder
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
def _reported(
    api: TensorRt, config: Any, stage: str, progress: Progress, interrupts: Interrupts
) -> Iterator[None]:
    """Report a build's progress; an interrupt or an error of `progress` ends it between two steps.

    No exception may pass through TensorRT's own frames, so one is kept until TensorRT has returned.
    """
    raised: list[BaseException] = []
    furthest = 0

    def report(percent: int, phase: str) -> bool:
        nonlocal furthest
        if interrupts.came:
            return False
        furthest = max(furthest, percent)  # each phase starts counting at zero
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
    if not interrupts.came:
        progress(stage, 100, 100)


def _inspect(
    api: TensorRt, engine: Path, options: EngineOptions, profile: Profile, contract: Contract
) -> dict[str, int] | None:
    """Load the engine where it was built; return what its layers compute in at the batch it is tuned for."""
    logger = api.logger()
    runtime = api.runtime(logger, version_compatible=options.version_compatible)
    loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
    if loaded is None:
        raise _not_built(engine, logger, "an engine that loads where it was built")
    context = loaded.create_execution_context()
    if context is None:
        raise _not_built(engine, logger, "enough free memory on the GPU to run it")
    context.set_input_shape(contract.input_name, (profile.opt, *contract.image_shape))
    inspector = loaded.create_engine_inspector()
    inspector.execution_context = context  # without shapes it says "N/A due to dynamic shapes"
    return layer_precisions_from_json(inspector.get_engine_information(api.trt.LayerInformationFormat.JSON))


def _not_built(path: Path, logger: Any, expected: str) -> EngineError:
    reason = reason_from_log(logger.errors[-1]) if logger.errors else "no reason given by TensorRT"
    return EngineError(
        str(path), got=reason, expected=expected, next_step="Check this machine: alexnet doctor"
    )


def advice_for(description: str) -> str:
    """Return what to do about a message of TensorRT about a graph."""
    for pattern, advice in ADVICE:
        if re.search(pattern, description, re.IGNORECASE):
            return advice
    return "Change this node, or export again with `alexnet export`."
