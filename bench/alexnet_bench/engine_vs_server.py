"""Compare engines in process with the same engines behind a server, on the same cores.

    report = compare_with_server(manifest, folder, server.grpc_url)

In process means the runtime that serves a precision, with the options that it is served with, in this
process. Calls are timed by the engine benchmark's core, loads by the load benchmark's. Every round measures
each case once, and every other round goes backwards: a machine that slows down steadily favours no case. A
ratio is taken within each round. The server must be on this machine, and must have no other work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet_model.manifest import Manifest
from alexnet_model.model_names import network_name
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from .engines.benchmark import rows_from_sweep
from .engines.selection import onnx_engine
from .engines.sweep import Sweep, SweepPlan, SweptEngine
from .engines.timing import TimedEngine, engine_from_spec
from .figures.intervals import figure_from_repeats
from .loads.plans import ClosedLoop, Load, Timing
from .loads.results import LoadResult
from .loads.server_bench import ServerBench, open_server_bench
from .reference_predictions import ExportPredictions
from .runs import Log, report_of_run
from .schema import EngineRow, FigureRow, LoadRow, Report

# Batch and requests at a time on the server, compared with a batch in process: few large and many small.
SERVED_AND_IN_PROCESS = ((32, 2, 32), (1, 16, 16))
PRECISIONS_AT_BATCH = 32  # the batch at which every precision is compared with FP32
MARGIN = 1.3  # a served request takes longer than a call


@dataclass(frozen=True, kw_only=True)
class Case:
    """One precision at one batch.

    Attributes:
        precision: Which model.
        batch: Images a call or request.
        concurrency: Requests at a time on the server; None for calls in process.
        export: The name of the export.
    """

    precision: Precision
    batch: int
    concurrency: int | None = None
    export: str = "alexnet"

    @property
    def model(self) -> str:
        """The name of the served model."""
        return network_name(self.export, self.precision)

    @property
    def load(self) -> Load:
        """The load on the server; only of a case that is served."""
        assert self.concurrency is not None
        return Load(model=self.model, loop=ClosedLoop(concurrency=self.concurrency), batch=self.batch)

    def __str__(self) -> str:
        how = "in process" if self.concurrency is None else f"served, {self.concurrency} at a time"
        return f"{self.precision} {how}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """What a comparison measures, in about half a minute by default.

    Attributes:
        batches: Images a call, and a request.
        rounds: How often each case is measured.
        call_seconds: Length of calls in process in a round; longer if too few calls for a median would fit.
        load_seconds: Length of a load in a round; longer likewise.
        burn_in_s: Calls and requests before each of them that are not counted.

    Raises:
        UsageError: a value is out of range.
    """

    batches: tuple[int, ...] = (1, 8, 32)
    rounds: int = 3
    call_seconds: float = 0.1
    load_seconds: float = 0.3
    burn_in_s: float = 0.1

    def __post_init__(self) -> None:
        self.plan(self.batches)
        Timing(burn_in_s=self.burn_in_s, seconds=self.load_seconds)

    def plan(self, batches: Collection[int]) -> SweepPlan:
        """Plan the calls in process."""
        return SweepPlan(
            batches=tuple(sorted(batches)),
            seconds=self.call_seconds,
            repeats=self.rounds,
            burn_in_s=self.burn_in_s,
        )


@dataclass(frozen=True)
class ComparedCases:
    """The row of every measured case."""

    rows: Mapping[Case, EngineRow | LoadRow]

    def ratio(self, of: Case, against: Case, *, at_least: float | None = None) -> FigureRow:
        """Divide the throughput of one case by that of another in each round.

        Args:
            of: The case above the line.
            against: The case below it.
            at_least: The target of the ratio; None for no target.

        Raises:
            KeyError: one of the cases was not measured.
        """
        rates = zip(*(self.rows[case].throughput.repeats for case in (of, against)), strict=True)
        return FigureRow(
            name=f"{_short(of, against)} / {_short(against, of)}",
            of=f"{of} / {str(against).removeprefix(f'{of.precision} ')}",
            figure=figure_from_repeats([above / below for above, below in rates], "times"),
            engine=self.rows[of].engine,
            at_least=at_least,
            better="higher",
        )


class ServerComparison:
    """Loaded engines, and a server that serves them. `open_server_comparison` makes one."""

    def __init__(self, engines: Mapping[Precision, SweptEngine], bench: ServerBench) -> None:
        self.engines = engines
        self.bench = bench

    def measure(
        self,
        cases: Sequence[Case],
        options: ComparisonOptions,
        *,
        progress: Progress = silent,
        stage: str = "measuring",
    ) -> ComparedCases:
        """Measure all cases in alternating rounds.

        Args:
            cases: What to measure.
            options: How often and how long.
            progress: Called as the measurement proceeds.
            stage: The name of this measurement for `progress`.

        Raises:
            ClientError: the server did not reply.
            KeyboardInterrupt: a load was interrupted.
        """
        plan = options.plan({case.batch for case in cases if case.concurrency is None} or {1})
        engines = {precision: replace(one, runs={}) for precision, one in self.engines.items()}
        results: dict[Case, list[LoadResult]] = {case: [] for case in cases if case.concurrency is not None}
        seconds: dict[Case, float] = {}
        done, total = 0, len(cases) * options.rounds
        for number in range(options.rounds):
            for case in cases if number % 2 == 0 else cases[::-1]:
                progress(stage, done, total, str(case))
                done += 1
                one = engines[case.precision]
                if case.concurrency is None:
                    one.time_calls(case.batch, plan)
                    continue
                if case not in seconds:
                    seconds[case] = max(
                        options.load_seconds, MARGIN * _seconds_of_calls(one, case.batch, plan)
                    )
                timing = Timing(burn_in_s=options.burn_in_s, seconds=seconds[case], repeats=1)
                result = self.bench.run(case.load, timing=timing)
                if result.interrupted:
                    raise KeyboardInterrupt
                results[case].append(result)
        progress(stage, done, total)
        rows: dict[Case, EngineRow | LoadRow] = {}
        for case in cases:
            if case.concurrency is None:
                rows[case] = _engine_row(engines[case.precision], case.batch, plan)
            else:
                rows[case] = self.bench.measured(case.load, results[case]).row
        return ComparedCases(rows)


@contextmanager
def open_server_comparison(
    manifest: Manifest,
    folder: Path,
    url: str,
    *,
    precisions: Collection[Precision] | None = None,
    progress: Progress = silent,
) -> Iterator[ServerComparison]:
    """Load engines of an export in this process, and connect to the server that serves them.

    Args:
        manifest: The export's manifest.
        folder: The export's folder.
        url: The server's address.
        precisions: Only these; None means all that the gate accepted.
        progress: Called as engines are loaded.

    Raises:
        ManifestError: a file is missing or is not the one that was exported.
        ExportError: a file cannot be loaded in process.
    """
    artifacts = [a for a in manifest.accepted if precisions is None or a.precision in precisions]
    timed: dict[Precision, TimedEngine] = {}
    engines: dict[Precision, SweptEngine] = {}
    with ExitStack() as opened:
        for artifact in artifacts:
            progress("loading in process", len(timed), len(artifacts), artifact.precision)
            spec = onnx_engine(artifact, manifest, folder)
            engine = opened.enter_context(closing(engine_from_spec(spec, manifest.max_batch)))
            load_ms = engine.load()
            timed[artifact.precision] = engine
            engines[artifact.precision] = SweptEngine(spec, engine, load_ms, runtime=engine.describe())
        progress("loading in process", len(timed), len(timed))
        # The loaded engines compute the reference predictions, so that no file is loaded twice.
        predictions = ExportPredictions(
            manifest, folder, lambda spec: nullcontext(timed[spec.precision].runner)
        )
        bench = opened.enter_context(open_server_bench(url, reference=predictions))
        yield ServerComparison(engines, bench)


def compare_with_server(
    manifest: Manifest,
    folder: Path,
    url: str,
    *,
    options: ComparisonOptions | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Measure every accepted precision of an export, in process and through a server, and the ratios.

    Args:
        manifest: The export's manifest.
        folder: The export's folder.
        url: Address of the server that serves it.
        options: What to measure.
        command: The command line, for the report.
        progress: Called as the measurement proceeds.

    Returns:
        A report with a row for each engine and batch, a row for each load, and figures for the ratios: each
        precision to FP32 in process, and INT8 through the server to INT8 in process.

    Raises:
        ManifestError: a file is missing or is not the one that was exported.
        ExportError: a file cannot be loaded in process.
        ClientError: the server cannot be reached, or did not reply.
        KeyboardInterrupt: the measurement was interrupted.
    """
    options = options or ComparisonOptions()
    ratios = ratios_of_export(manifest)
    of_ratios = (case for ratio in ratios for case in ratio)
    cases = dict.fromkeys((*cases_of_export(manifest, options.batches), *of_ratios))
    in_order = sorted(cases, key=lambda case: case.concurrency or 0)  # a load's length follows from its calls

    def measure(log: Log) -> None:
        with open_server_comparison(manifest, folder, url, progress=progress) as comparison:
            found = comparison.measure(in_order, options, progress=progress)
        log.engines += [row for row in found.rows.values() if isinstance(row, EngineRow)]
        log.loads += [row for row in found.rows.values() if isinstance(row, LoadRow)]
        log.figures += [found.ratio(of, against) for of, against in ratios]

    title = "In process and through the server"
    report = report_of_run(measure, title=title, command=command)
    if any(reason.rule == "interrupted" for reason in report.reasons):
        raise KeyboardInterrupt
    return report


def cases_of_export(manifest: Manifest, batches: Sequence[int]) -> tuple[Case, ...]:
    """List every accepted precision at every batch that it takes, in process and one request at a time."""
    return tuple(
        Case(precision=artifact.precision, batch=batch, concurrency=concurrency, export=manifest.model.name)
        for artifact in manifest.accepted
        for concurrency in (None, 1)
        for batch in batches
        if batch <= manifest.max_batch
    )


def ratios_of_export(manifest: Manifest) -> tuple[tuple[Case, Case], ...]:
    """List which cases are compared: precisions with FP32, and INT8 on the server with INT8 in process.

    INT8 is the fastest to compute, so that the server's share is the largest.
    """
    accepted = [artifact.precision for artifact in manifest.accepted]

    def case(precision: Precision, batch: int, concurrency: int | None = None) -> Case:
        batch = min(batch, manifest.max_batch)
        return Case(precision=precision, batch=batch, concurrency=concurrency, export=manifest.model.name)

    at = PRECISIONS_AT_BATCH
    others = [precision for precision in accepted if precision != "fp32"] if "fp32" in accepted else []
    served = SERVED_AND_IN_PROCESS if "int8" in accepted else ()
    return (
        *((case(precision, at), case("fp32", at)) for precision in others),
        *((case("int8", batch, concurrency), case("int8", alone)) for batch, concurrency, alone in served),
    )


def _seconds_of_calls(one: SweptEngine, batch: int, plan: SweepPlan) -> float:
    """Return how long the fewest calls of a round take, if the batch was measured in process."""
    run = one.runs.get(batch)
    return 0.0 if run is None else plan.calls * batch / run.repeats[0].throughput_per_s


def _engine_row(one: SweptEngine, batch: int, plan: SweepPlan) -> EngineRow:
    """Make a row without memory: this process holds several engines."""
    (row,) = rows_from_sweep(Sweep(plan, [replace(one, runs={batch: one.runs[batch]})]), {}, ())
    return row.model_copy(update={"peak_memory_bytes": None})


def _short(case: Case, other: Case) -> str:
    """Name what distinguishes a case from the one that it is compared with."""
    if case.precision != other.precision:
        return case.precision
    return "in process" if case.concurrency is None else "served"
