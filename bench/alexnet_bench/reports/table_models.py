"""The tables of a report as plain cells, which the terminal and the page both draw.

The terminal leaves out the columns that are not `brief`, Markdown a `detail` that is well. The page has all.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..figures.intervals import Figure
from ..figures.percentiles import NEEDED, Latencies
from ..figures.verdicts import Verdict
from ..schema import (
    ColdStart,
    EngineRow,
    HeldRate,
    LatencyStep,
    LoadRow,
    Proof,
    RateProbe,
    Report,
    Roof,
    Tuning,
    TuningStep,
)
from .names import in_megabytes, in_short, load_in_words, name_of_series

Kind = Literal["plain", "refused", "bad", "good"]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Column:
    """`unit` stands under the name."""

    name: str
    unit: str = ""
    brief: bool = False
    left: bool = False
    detail: bool = False


@dataclass(frozen=True)
class Cell:
    """`small` is what the text may be doubted by: an interval, or the samples that it needs."""

    text: str
    small: str = ""
    kind: Kind = "plain"


@dataclass(frozen=True)
class Line:
    """One row, and what is to be said of it."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Rows of one thing."""

    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Sheet:
    """One table."""

    title: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]


def sheets_of(report: Report) -> Iterator[Sheet]:
    """The tables of what a run measured, tuning last: its reason is to stand below it."""
    is_valid = report.verdict.is_valid
    if report.engines:
        yield engines_sheet(report.engines, () if is_valid else report.engines)
    if report.proofs:
        yield proofs_sheet(report.proofs)
    if report.roofs:
        yield roofs_sheet(report.roofs)
    if report.loads:
        yield loads_sheet(report.loads, () if is_valid else report.loads)
    if report.held_rates:
        yield held_rates_sheet(report.held_rates)
    if report.breakdown:
        yield breakdown_sheet(report.breakdown)
    if report.cold_starts:
        yield cold_starts_sheet(report.cold_starts)
    if report.tuning is not None:
        yield tuning_sheet(report.tuning)


def engines_sheet(rows: Sequence[EngineRow], doubted: Container[EngineRow] = ()) -> Sheet:
    """A group an engine, a row a batch. Those that are `doubted` are of a run that is INVALID as a whole."""
    columns = (
        Column("batch", brief=True),
        Column("verdict", left=True, detail=True),
        Column("throughput", "images/s", brief=True),
        *_latencies(of_calls=True),
        Column("first call", "ms"),
        Column("load", "ms"),
        Column("file", "MB"),
        Column("memory", "MB"),
        Column("limit", "ms"),
        Column("of limit", brief=True),
        Column("bound by", brief=True, left=True),
    )
    groups = _groups(rows, lambda row: str(row.engine), lambda row: _engine_line(row, row in doubted))
    return Sheet("Engines in process", columns, groups)


def proofs_sheet(proofs: Sequence[Proof]) -> Sheet:
    """A group for the device and the images that were judged on, a row an engine."""
    columns = (
        Column("engine", brief=True, left=True),
        Column("same model", brief=True, left=True),
        Column("to PyTorch", "dB", brief=True),
        Column("to itself", "dB, any slot", brief=True),
        Column("at batches", left=True),
        Column("agrees", "of top-1", brief=True),
        Column("top-1", brief=True),
        Column("falls by", "points"),
    )
    return Sheet(
        "Is it still the model?",
        columns,
        _groups(proofs, lambda proof: f"{proof.engine.device}, {proof.judged_on}", _proof_line),
    )


def loads_sheet(rows: Sequence[LoadRow], doubted: Container[LoadRow] = ()) -> Sheet:
    """A group a sweep, a row a load, each with its own verdict; `doubted` as of engines."""
    columns = (
        Column("load", brief=True, left=True),
        Column("verdict", brief=True, left=True),
        Column("throughput", "images/s", brief=True),
        *_latencies(),
        Column("requests"),
        Column("failed", detail=True),
        Column("sent late", "ms, p99", detail=True),
        Column("client", "of a core"),
        Column("sent", "bytes/request"),
        Column("batch", "mean", brief=True),
    )
    groups = _groups(
        rows,
        lambda row: f"{name_of_series(row)}: {row.engine}",
        lambda row: _load_line(row, row in doubted),
    )
    return Sheet("Server under load", columns, groups)


def held_rates_sheet(rows: Sequence[HeldRate]) -> Sheet:
    """A group a search, a row a rate that was tried."""
    columns = (
        Column("rate", "requests/s", brief=True),
        Column("p99", "ms", brief=True),
        Column("held", brief=True, left=True),
        Column("note", brief=True, left=True),
    )
    groups = (
        Group(
            f"{row.model} over {row.url_scheme}, batch {row.batch}: {row.engine}. "
            f"p99 within {in_short(row.limit_p99_ms)} ms: {row.words}",
            tuple(map(_probe_line, row.probes)),
        )
        for row in rows
    )
    return Sheet("Highest rate within a limit", columns, tuple(groups))


def breakdown_sheet(breakdown: Sequence[LatencyStep]) -> Sheet:
    """A group for what was asked, a row a step on the way to it."""
    columns = (
        Column("step", brief=True, left=True),
        Column("adds", "ms", brief=True),
        Column("up to here", "ms, median", brief=True),
        Column("sent", "bytes/request", brief=True),
        Column("known from", brief=True, left=True),
    )
    return Sheet(
        "From the engine to the image",
        columns,
        _groups(breakdown, lambda r: f"{r.of}: {r.engine}", _step_line),
    )


def tuning_sheet(tuning: Tuning) -> Sheet:
    """A row a configuration; the winner's is marked."""
    columns = (
        Column("", brief=True, left=True),
        Column("precision", brief=True, left=True),
        Column("instances", brief=True),
        Column("delay", "us", brief=True),
        Column("max batch", brief=True),
        Column("held", "images/s", brief=True),
        Column("p99", "ms", brief=True),
        Column("note", left=True, detail=True),
    )
    lines = tuple(_tuning_line(step, index == tuning.winner) for index, step in enumerate(tuning.steps))
    limit = f"within a p99 of {in_short(tuning.limit_p99_ms)} ms on {tuning.device}"
    return Sheet("Tuning", columns, (Group(limit, lines),))


def cold_starts_sheet(rows: Sequence[ColdStart]) -> Sheet:
    """A group a model, a row a batch: its first request, and the one after it."""
    columns = (
        Column("warm-up", brief=True, left=True),
        Column("ready", "ms", brief=True),
        Column("batch", brief=True),
        Column("first", "ms", brief=True),
        Column("second", "ms", brief=True),
    )
    of_batches = [(row, batch) for row in rows for batch in sorted(row.first_ms)]
    groups = _groups(of_batches, lambda of: f"{of[0].model}: {of[0].engine}", lambda of: _cold_line(*of))
    return Sheet("Cold start", columns, groups)


def roofs_sheet(roofs: Sequence[Roof]) -> Sheet:
    """The ceilings that shares of the limit are shares of."""
    columns = (
        Column("computes in", brief=True, left=True),
        Column("operations", "10^9/s", brief=True),
        Column("memory", "GB/s", brief=True),
    )
    return Sheet("Ceilings, measured in this run", columns, _groups(roofs, lambda r: r.device, _roof_line))


def _engine_line(row: EngineRow, is_doubted: bool) -> Line:
    share = row.share_of_limit
    cells = (
        Cell(str(row.batch)),
        verdict_cell(row.verdict, is_doubted),
        figure_cell(row.throughput),
        *latency_cells(row.latencies),
        Cell(in_short(row.first_call_ms)),
        Cell(in_short(row.load_ms)),
        Cell(in_megabytes(row.size_bytes)),
        Cell(in_megabytes(row.peak_memory_bytes)),
        Cell("-" if row.limit_ms is None else in_short(row.limit_ms)),
        Cell("-" if share is None else f"{share:.0%}"),
        Cell(row.bound_by),
    )
    return Line(cells, tuple(map(str, row.verdict.reasons)))


def _proof_line(proof: Proof) -> Line:
    """Signal to noise of logits, 200 dB if equal; of batches, slots and neighbours the worst counts."""
    report, engine = proof.report, proof.engine
    drop = report.top1_drop
    options = f", {engine.options}" if engine.options else ""
    cells = (
        Cell(f"{engine.precision} {engine.runtime}{options}"),
        Cell("yes", kind="good") if proof.accepted else Cell("NO", kind="bad"),
        Cell(f"{report.signal_to_noise_db:.1f}"),
        Cell(f"{min(row.against_alone_db for row in report.parity):.1f}"),
        Cell(", ".join(str(row.batch) for row in report.parity)),
        Cell(f"{report.agreement:.1%}"),
        Cell("-" if report.top1 is None else f"{report.top1:.1%}"),
        Cell("-" if drop is None else f"{100 * drop:.2f}"),
    )
    return Line(cells, () if proof.accepted else (proof.reason,))


def _load_line(row: LoadRow, is_doubted: bool) -> Line:
    mean = mean_batch(row.executions_by_batch)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in row.failed_by_kind.items())
    cells = (
        Cell(load_in_words(row)),
        verdict_cell(row.verdict, is_doubted),
        figure_cell(row.throughput),
        *latency_cells(row.latencies),
        Cell(f"{row.requests:,}"),
        Cell(f"{row.failed:,}", kinds, "bad" if row.failed else "plain"),
        Cell("-" if row.late_p99_ms is None else in_short(row.late_p99_ms)),
        Cell(f"{row.client_cpu_share:.0%}"),
        Cell(f"{row.request_bytes:,}"),
        Cell("-" if mean is None else in_short(mean)),
    )
    return Line(cells, tuple(map(str, row.verdict.reasons)))


def _probe_line(probe: RateProbe) -> Line:
    cells = (
        Cell(in_short(probe.rate_per_s)),
        Cell("-" if probe.p99_ms is None else in_short(probe.p99_ms)),
        Cell("yes", kind="good") if probe.held else Cell("no"),
        Cell(probe.note),
    )
    return Line(cells)


def _step_line(step: LatencyStep) -> Line:
    cells = (
        Cell(step.name),
        Cell(in_short(step.added_ms)),
        figure_cell(step.total),
        Cell(f"{step.request_bytes:,}"),
        Cell(step.source),
    )
    return Line(cells)


def _tuning_line(step: TuningStep, is_winner: bool) -> Line:
    held = step.held_rate_per_s
    kind: Kind = "good" if is_winner else "plain"
    cells = (
        Cell("winner" if is_winner else "", kind=kind),
        Cell(step.precision),
        Cell(str(step.instances)),
        Cell(f"{step.queue_delay_us:,}"),
        Cell(str(step.max_batch)),
        Cell("none", kind="refused") if held is None else Cell(in_short(held), kind=kind),
        Cell("-" if step.p99_ms is None else in_short(step.p99_ms)),
        Cell(step.note),
    )
    return Line(cells)


def _cold_line(row: ColdStart, batch: int) -> Line:
    """A server is ready once, however many batches it is asked for after."""
    cells = (
        Cell("yes" if row.warmed_up else "no"),
        figure_cell(row.ready_ms) if batch == min(row.first_ms) else Cell(""),
        Cell(str(batch)),
        figure_cell(row.first_ms[batch]),
        figure_cell(row.second_ms[batch]) if batch in row.second_ms else Cell("-"),
    )
    return Line(cells)


def _roof_line(roof: Roof) -> Line:
    cells = (
        Cell(roof.computes_in),
        Cell(in_short(roof.operations_per_s / 1e9)),
        Cell(in_short(roof.bytes_per_s / 1e9)),
    )
    return Line(cells)


def _latencies(*, of_calls: bool = False) -> tuple[Column, ...]:
    """A column for each of `latency_cells`. Calls in process are few: their p90 is a detail."""
    return (
        Column("p50", "ms", brief=True),
        Column("p90", "ms", detail=of_calls),
        Column("p95", "ms", detail=True),
        Column("p99", "ms", brief=True),
        Column("p99.9", "ms", detail=True),
        Column("mean", "ms", detail=True),
        Column("max", "ms", detail=True),
        Column("samples", detail=True),
    )


def figure_cell(figure: Figure) -> Cell:
    """The figure, with its interval where it has one."""
    if figure.low is None or figure.high is None:
        repeats = len(figure.repeats)
        return Cell(in_short(figure.value), "1 repeat" if repeats == 1 else "no interval")
    return Cell(in_short(figure.value), f"{in_short(figure.low)} to {in_short(figure.high)}")


def latency_cells(latencies: Latencies) -> tuple[Cell, ...]:
    """One for each of the columns that every kind of row has; a refused percentile says what it needs."""
    percentiles = zip(
        NEEDED.values(),
        (latencies.p50_ms, latencies.p90_ms, latencies.p95_ms, latencies.p99_ms, latencies.p99_9_ms),
        strict=True,
    )
    return (
        *(
            Cell(f"needs {needed:,}", "samples", "refused") if value is None else Cell(in_short(value))
            for needed, value in percentiles
        ),
        Cell(in_short(latencies.mean_ms)),
        Cell(in_short(latencies.max_ms)),
        Cell(f"{latencies.samples:,}"),
    )


def verdict_cell(verdict: Verdict, is_doubted: bool) -> Cell:
    """VALID or INVALID. In a run that is INVALID no row is well, though nothing speak against it alone."""
    if verdict.is_valid and is_doubted:
        return Cell(verdict.word, "run INVALID")
    return Cell(verdict.word, kind="good" if verdict.is_valid else "bad")


def mean_batch(executions_by_batch: dict[int, int]) -> float | None:
    """Images an execution; None where the server counted none."""
    executions = sum(executions_by_batch.values())
    if not executions:
        return None
    return sum(batch * count for batch, count in executions_by_batch.items()) / executions


def _groups(
    rows: Iterable[Row], name: Callable[[Row], str], line: Callable[[Row], Line]
) -> tuple[Group, ...]:
    found: dict[str, list[Line]] = {}
    for row in rows:
        found.setdefault(name(row), []).append(line(row))
    return tuple(Group(group, tuple(lines)) for group, lines in found.items())
