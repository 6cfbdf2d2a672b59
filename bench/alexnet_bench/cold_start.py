"""Cold start: the time until a server is ready, and of its first requests, with warm-up and without.

    report = bench_cold_start(Path("model_repository"))

Each model is served alone by an embedded server, so that the time to be ready is its own; an ensemble is
served with the models that it consists of. Warm-up makes a server ready later, and its first requests faster.
Every start is a repeat. All models are started in turn, every other round backwards, so that a drift of the
machine affects all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from alexnet_clients import ServerUrl, transport_from_url
from alexnet_model.errors import AlexnetError, RepositoryError, UsageError
from alexnet_model.files import temporary_folder
from alexnet_model.model_names import is_decoder
from alexnet_model.progress import Progress, silent
from alexnet_model.reading import text_of_file
from alexnet_serving import CONFIG_FILE, EmbeddedServer, models_of_repository

from .figures.intervals import Figure, figure_from_repeats
from .loads.server_bench import read_model
from .loads.traffic import request_set_from_config
from .runs import Log, report_of_run
from .schema import ColdStart, EngineLabel, LeftOut, Report

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonConfig

BATCHES = (1, 8)  # and the model's largest
REQUEST_TIMEOUT_S = 120.0
_STAGE = "starting servers"


@dataclass(frozen=True)
class _Case:
    """What is started: a model, and whether with its warm-up."""

    model: str
    warm_up: bool

    def __str__(self) -> str:
        return f"{self.model}, {'with' if self.warm_up else 'without'} warm-up"


@dataclass(frozen=True)
class _Start:
    """What one start took. Requests are by their batch."""

    engine: EngineLabel
    ready_ms: float
    first_ms: dict[int, float] = field(default_factory=dict)
    second_ms: dict[int, float] = field(default_factory=dict)


def bench_cold_start(
    repository: Path,
    models: Sequence[str] | None = None,
    *,
    repeats: int = 3,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Start every model as it is configured, and without its warm-up.

    A model that fails is not started again; its earlier starts and all other models stay in the report.
    Ctrl-C ends the run early; the report has what was measured by then.

    Args:
        repository: A model repository.
        models: Names of the models to start; by default all but the image decoder.
        repeats: How often each one is started.
        command: The command line that made the report.
        progress: Called before each start.

    Raises:
        RepositoryError: the repository is missing, has no model, or a configuration cannot be read.
        UsageError: one of `models` is not in the repository, or `repeats` is below 1.
    """
    if repeats < 1:
        raise UsageError("repeats", got=str(repeats), expected="at least 1")
    repository = repository.absolute()
    starts: dict[_Case, list[_Start]] = {case: [] for case in _cases(repository, models)}

    def measure(log: Log) -> None:
        total = repeats * len(starts)
        failed: set[_Case] = set()
        try:
            for number in range(repeats):
                for index, case in enumerate(starts if number % 2 == 0 else reversed(starts)):
                    if case in failed:
                        continue
                    progress(_STAGE, number * len(starts) + index, total, str(case))
                    try:
                        starts[case].append(_start(repository, case))
                    except (AlexnetError, OSError) as error:
                        failed.add(case)
                        since = f", from start {number + 1} on" if number else ""
                        log.left_out.append(LeftOut(what=f"{case}{since}", why=str(error)))
            progress(_STAGE, total, total)
        finally:  # after Ctrl-C too, rows have the repeats so far
            log.cold_starts += [_row(case, found) for case, found in starts.items() if found]

    return report_of_run(measure, title="Cold start", command=command)


@contextmanager
def repository_of_one(repository: Path, model: str, *, warm_up: bool) -> Iterator[Path]:
    """Make a temporary repository of one model and the models that it consists of, by links.

    Args:
        repository: The repository that the model is in.
        model: The model's name.
        warm_up: Whether the models keep the warm-up of their configuration.

    Raises:
        RepositoryError: a configuration cannot be read.
    """
    from alexnet_serving import text_from_config  # tritonclient is slow to import

    with temporary_folder("alexnet-cold-start-") as folder:
        for name, config in _configs_of(repository, model).items():
            if not warm_up:
                config.ClearField("model_warmup")
            copy = folder / name
            copy.mkdir()
            (copy / CONFIG_FILE).write_text(text_from_config(config), encoding="utf-8")
            for path in (repository / name).iterdir():
                if path.name != CONFIG_FILE:
                    (copy / path.name).symlink_to(path)
        yield folder


def _cases(repository: Path, models: Sequence[str] | None) -> list[_Case]:
    """Each model with its warm-up, if it has one, and without."""
    here = [model for model in models_of_repository(repository) if not is_decoder(model)]
    for model in models or ():
        if model not in here:
            raise UsageError(
                f"{repository}: {model}", got="no such model", expected=f"some of {', '.join(here)}"
            )
    cases = []
    for model in here if models is None else dict.fromkeys(models):
        if any(config.model_warmup for config in _configs_of(repository, model).values()):
            cases.append(_Case(model, True))
        cases.append(_Case(model, False))
    return cases


def _configs_of(repository: Path, model: str) -> dict[str, TritonConfig]:
    """Configurations of a model and of the models that it consists of."""
    config = _config_of(repository, model)
    steps = {step.model_name for step in config.ensemble_scheduling.step}
    return {model: config, **{name: _config_of(repository, name) for name in steps}}


def _config_of(repository: Path, model: str) -> TritonConfig:
    from google.protobuf.text_format import ParseError  # type: ignore[import-untyped]

    from alexnet_serving import config_from_text

    path = repository / model / CONFIG_FILE
    try:
        return config_from_text(text_of_file(path))
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise RepositoryError(
            str(path),
            got=next(iter(str(error).splitlines()), type(error).__name__),
            expected="a model's configuration",
            next_step=f"See what is wrong: alexnet lint {quote(str(repository))}",
        ) from error


def _start(repository: Path, case: _Case) -> _Start:
    """Start a server for one case, and send two requests of each batch, the smallest batch first."""
    with ExitStack() as opened:
        alone = opened.enter_context(repository_of_one(repository, case.model, warm_up=case.warm_up))
        server = EmbeddedServer(alone)
        started = time.perf_counter()
        opened.enter_context(server)
        ready_ms = 1e3 * (time.perf_counter() - started)
        url = ServerUrl.parse(server.grpc_url)
        transport = opened.enter_context(closing(transport_from_url(url)))
        # This also connects, so that the first request does not.
        tested = read_model(transport, url, case.model, timeout_s=REQUEST_TIMEOUT_S)
        most = max(tested.config.max_batch, 1)
        start = _Start(tested.engine, ready_ms)
        for batch in sorted({*(b for b in BATCHES if b <= most), most}):
            requests = request_set_from_config(tested.config, batch).requests()
            messages = [transport.prepare(request) for request in (requests[0], requests[-1])]
            for message, took_ms in zip(messages, (start.first_ms, start.second_ms), strict=True):
                reply = transport.submit(message, timeout_s=REQUEST_TIMEOUT_S).result()
                took_ms[batch] = reply.latency_ms
        return start


def _row(case: _Case, starts: Sequence[_Start]) -> ColdStart:
    def figures(by_start: Sequence[dict[int, float]]) -> dict[int, Figure]:
        return {batch: figure_from_repeats([ms[batch] for ms in by_start], "ms") for batch in by_start[0]}

    return ColdStart(
        model=case.model,
        engine=starts[0].engine,
        warmed_up=case.warm_up,
        ready_ms=figure_from_repeats([start.ready_ms for start in starts], "ms"),
        first_ms=figures([start.first_ms for start in starts]),
        second_ms=figures([start.second_ms for start in starts]),
    )
