"""Cold start: from nothing to a server that is ready, and to its first answers, with warm-up and without.

    report = bench_cold_start(Path("model_repository"))

Each model is alone on an embedded server of its own, so that its time to be ready is its own; an ensemble has
the models that it is made of. What readiness waits for by warming up, first requests do not wait for later.
Every start is a repeat, and all are started in turn, every other round backwards: a machine that drifts
drifts for all of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_clients import Message, ModelConfig, ServerUrl, Transport, transport_from_url
from alexnet_model.errors import AlexnetError, RepositoryError, UsageError
from alexnet_model.gpus import gpus_here
from alexnet_model.progress import Progress, silent
from alexnet_serving import (
    CONFIG_FILE,
    DECODING_MODEL,
    EmbeddedServer,
    Server,
    models_of_repository,
)

from .calibration_workload import calibration_rate
from .figures.intervals import Figure, figure_from_repeats
from .loads.inputs import asked_from_config
from .loads.rows import Subject
from .runs import Log, report_of_run
from .schema import ColdStart, EngineLabel, LeftOut, Report

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonConfig

BATCHES = (1, 8)  # and the largest
REQUEST_TIMEOUT_S = 120.0
STAGE = "starting servers"
_Run = tuple[str, bool]  # a model, and whether with its warm-up


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What starts servers and asks them; tests bring their own."""

    server: Callable[[Path], Server] = EmbeddedServer
    transport: Callable[[ServerUrl], Transport] = transport_from_url
    now: Callable[[], float] = time.perf_counter
    calibration: Callable[[], float] = calibration_rate


def bench_cold_start(
    repository: Path,
    models: Sequence[str] | None = None,
    *,
    repeats: int = 3,
    command: str = "",
    progress: Progress = silent,
    instruments: Instruments | None = None,
) -> Report:
    """Start every model of a repository as it is configured, and without its warm-up, `repeats` times each.

    What fails once is not started again; its earlier starts, and all else, stay. So does what is measured
    when Ctrl-C ends it early.

    Raises:
        RepositoryError: the repository is missing, or holds no model.
        UsageError: one of `models` is not in it, or there is no repeat.
    """
    if repeats < 1:
        raise UsageError("repeats", got=str(repeats), expected="at least 1")
    use = instruments or Instruments()
    runs = _runs(repository.absolute(), models)

    def measure(log: Log) -> None:
        starts: dict[_Run, list[_Start]] = {run: [] for run in runs}
        try:
            _start_all(repository.absolute(), starts, repeats, log, progress, use)
        finally:  # of Ctrl-C too: rows have the repeats that there are
            log.cold_starts += [_row(run, found) for run, found in starts.items() if found]

    return report_of_run(measure, title="Cold start", command=command, calibration=use.calibration)


@contextmanager
def repository_of_one(repository: Path, model: str, *, warm_up: bool) -> Iterator[Path]:
    """One model of a repository, with those that it is made of, in a repository of links and configurations.

    Raises:
        RepositoryError: a configuration cannot be read.
    """
    from alexnet_serving import text_from_config  # tritonclient is slow to import

    with tempfile.TemporaryDirectory(prefix="alexnet-cold-start-") as folder:
        for name in (model, *_parts_of(_config_of(repository, model))):
            config = _config_of(repository, name)
            if not warm_up:
                config.ClearField("model_warmup")
            copy = Path(folder) / name
            copy.mkdir()
            (copy / CONFIG_FILE).write_text(text_from_config(config), encoding="utf-8")
            for path in (repository / name).iterdir():
                if path.name != CONFIG_FILE:
                    (copy / path.name).symlink_to(path)
        yield Path(folder)


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What one start took."""

    engine: EngineLabel
    ready_ms: float
    first_ms: dict[int, float]
    second_ms: dict[int, float]


def _start_all(
    repository: Path,
    starts: dict[_Run, list[_Start]],
    repeats: int,
    log: Log,
    progress: Progress,
    use: Instruments,
) -> None:
    total = repeats * len(starts)
    failed: set[_Run] = set()
    for number in range(repeats):
        ordered = list(starts) if number % 2 == 0 else list(reversed(starts))
        for index, run in enumerate(ordered):
            if run in failed:
                continue
            progress(STAGE, number * len(starts) + index, total, _words(run))
            try:
                starts[run].append(_start(repository, run, use))
            except (AlexnetError, OSError) as error:
                failed.add(run)
                which = f", from start {number + 1} on" if number else ""
                log.left_out.append(LeftOut(what=f"{_words(run)}{which}", why=str(error)))
    progress(STAGE, total, total)


def _runs(repository: Path, models: Sequence[str] | None) -> list[_Run]:
    """Each model with its warm-up, where it has one, and without."""
    here = [model for model in models_of_repository(repository) if model != DECODING_MODEL]
    for model in models or ():
        if model not in here:
            raise UsageError(
                f"{repository}: {model}", got="no such model", expected=f"some of {', '.join(here)}"
            )
    chosen = here if models is None else list(dict.fromkeys(models))
    return [
        (model, is_warm)
        for model in chosen
        for is_warm in (True, False)
        if not is_warm or _warms(repository, model)
    ]


def _warms(repository: Path, model: str) -> bool:
    config = _config_of(repository, model)
    return any(_config_of(repository, name).model_warmup for name in (model, *_parts_of(config)))


def _parts_of(config: TritonConfig) -> Collection[str]:
    return dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step)


def _config_of(repository: Path, model: str) -> TritonConfig:
    from google.protobuf.text_format import ParseError  # type: ignore[import-untyped]

    from alexnet_serving import config_from_text

    path = repository / model / CONFIG_FILE
    try:
        return config_from_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise RepositoryError(
            str(path),
            got=next(iter(str(error).splitlines()), type(error).__name__),
            expected="a model's configuration",
            next_step=f"See what is wrong: alexnet lint {repository}",
        ) from error


def _start(repository: Path, run: _Run, use: Instruments) -> _Start:
    model, is_warm = run
    with ExitStack() as opened:
        alone = opened.enter_context(repository_of_one(repository, model, warm_up=is_warm))
        server = use.server(alone)
        started = use.now()
        opened.enter_context(server)
        ready_ms = 1e3 * (use.now() - started)
        url = ServerUrl.parse(server.grpc_url)
        transport = use.transport(url)
        opened.callback(transport.close)
        config = _asked(transport, model)  # over the connection that the first request finds
        network = _asked(transport, config.steps[-1]) if config.steps else config
        subject = Subject(url=url, config=config, network=network, device=_device_of(network))
        first_ms: dict[int, float] = {}
        second_ms: dict[int, float] = {}
        for batch in sorted({*(b for b in BATCHES if b <= config.max_batch), max(config.max_batch, 1)}):
            requests = asked_from_config(config, batch).requests()
            first, second = transport.prepare(requests[0]), transport.prepare(requests[-1])
            first_ms[batch] = _answered_ms(transport, first)
            second_ms[batch] = _answered_ms(transport, second)
        return _Start(engine=subject.engine, ready_ms=ready_ms, first_ms=first_ms, second_ms=second_ms)


def _row(run: _Run, starts: Sequence[_Start]) -> ColdStart:
    model, is_warm = run
    return ColdStart(
        model=model,
        engine=starts[0].engine,
        warmed_up=is_warm,
        ready_ms=figure_from_repeats([start.ready_ms for start in starts], "ms"),
        first_ms=_by_batch([start.first_ms for start in starts]),
        second_ms=_by_batch([start.second_ms for start in starts]),
    )


def _by_batch(repeats_ms: Sequence[dict[int, float]]) -> dict[int, Figure]:
    return {
        batch: figure_from_repeats([of_start[batch] for of_start in repeats_ms], "ms")
        for batch in repeats_ms[0]
    }


def _asked(transport: Transport, model: str) -> ModelConfig:
    return transport.model_config(model, timeout_s=REQUEST_TIMEOUT_S).result()


def _answered_ms(transport: Transport, message: Message) -> float:
    return transport.submit(message, timeout_s=REQUEST_TIMEOUT_S).result().latency_ms


def _device_of(network: ModelConfig) -> str:
    """The embedded server is here. Instances that leave it to Triton take a GPU only where there is one."""
    if network.device == "CPU":
        return "CPU"
    gpus = dict.fromkeys(gpu.name for gpu in gpus_here().gpus)
    if network.device == "GPU":
        return " + ".join(gpus) or "GPU"
    return "unknown" if gpus else "CPU"


def _words(run: _Run) -> str:
    model, is_warm = run
    return f"{model}, {'with' if is_warm else 'without'} warm-up"
