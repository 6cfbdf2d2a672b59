"""Engines in process: figures by batch, whether each is still the model, and the limits of the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ...figures.verdicts import Verdict
from ...schema import EngineRow, Proof, Report, Roof
from ..comparison_rows import ComparisonRow, throughput
from ..names import in_megabytes, in_short, name_of_engine_row
from ..plots import LONGEST_NAME, Plot, Series, Styles, line_plot
from ..table_models import (
    Cell,
    Column,
    Table,
    figure_cell,
    latency_columns,
    table_from_items,
    verdict_cell,
    yes_cell,
)
from .part import Highlight, Part, best_throughput, on_other_device

_NO = Cell("NO", kind="bad")


def _table(rows: Sequence[EngineRow], run: Verdict) -> Table:
    columns: list[Column[EngineRow]] = [
        Column("batch", lambda row: str(row.batch), brief=True),
        Column("verdict", lambda row: verdict_cell(row.verdict, run), left=True, detail=True),
        Column("throughput", lambda row: figure_cell(row.throughput), "images/s", brief=True),
        *latency_columns(of_calls=True),
        Column("first call", lambda row: row.first_call_ms, "ms"),
        Column("load", lambda row: row.load_ms, "ms"),
        Column("file", lambda row: in_megabytes(row.size_bytes), "MB"),
        Column("memory", lambda row: in_megabytes(row.peak_memory_bytes), "MB"),
        Column("limit", lambda row: row.limit_ms, "ms"),
        Column("of limit", lambda row: _percent(row.share_of_limit), brief=True),
        Column("bound by", lambda row: row.bound_by, brief=True, left=True),
    ]
    items = ((str(row.engine), [row]) for row in rows)
    return table_from_items(ENGINES.title, columns, items, _notes)


def _notes(row: EngineRow) -> Iterator[object]:
    yield from row.verdict.reasons
    if row.is_int8_in_float_on_gpu:
        yield f"{row.engine.runtime} computes INT8 files in float on a GPU, so INT8 is no speed-up here."
    if row.memory_of == "device":
        yield (
            "Its memory is what the whole GPU had less free: the driver does not list this process, as in a "
            "container with process ids of its own."
        )


def _percent(share: float | None, digits: int = 0) -> str:
    return "-" if share is None else f"{share:.{digits}%}"


def _plots(rows: Sequence[EngineRow]) -> Iterator[Plot]:
    """Throughput by batch, and the share of the roofline limit if it is known."""
    hollow = "" if all(row.verdict.is_valid for row in rows) else " Hollow is INVALID."
    yield line_plot(
        "engine-throughput",
        "Throughput by batch",
        f"Higher is better. Whiskers are 95% intervals.{hollow}",
        _series(rows, lambda row: row.throughput.value, whiskers=True),
        x_label="batch",
        y_label="images/s",
        x_ticks=_batch_ticks(rows),
    )
    limited = [row for row in rows if row.share_of_limit is not None]
    if limited:
        yield line_plot(
            "engine-limit",
            "Share of the limit",
            f"The limit is the larger of compute and memory time, measured in this run.{hollow}",
            _series(limited, lambda row: row.share_of_limit or 0.0),
            x_label="batch",
            y_label="of the roofline",
            x_ticks=_batch_ticks(limited),
            limit=(1.0, "the limit: no call can be shorter"),
            y_percent=True,
        )


def _series(
    rows: Sequence[EngineRow], y: Callable[[EngineRow], float], *, whiskers: bool = False
) -> list[Series]:
    """One line for each engine, the best first."""
    styles = Styles()
    fits = all(len(str(row.engine)) <= LONGEST_NAME for row in rows)
    found = []
    for engine in dict.fromkeys(row.engine for row in rows):
        ordered = sorted((row for row in rows if row.engine == engine), key=lambda row: row.batch)
        colour, marker = styles.next_for(engine.precision)
        # All rows of a plot are on one device: its name can be left out.
        name = str(engine) if fits else str(engine).replace(f"({engine.device}, ", "(", 1)
        found.append(
            Series(
                name,
                x=tuple(math.log2(row.batch) for row in ordered),
                y=tuple(map(y, ordered)),
                colour=colour,
                marker=marker,
                firm=tuple(row.verdict.is_valid for row in ordered),
                low=tuple(row.throughput.low for row in ordered) if whiskers else (),
                high=tuple(row.throughput.high for row in ordered) if whiskers else (),
            )
        )
    return sorted(found, key=lambda line: -max(line.y))


def _batch_ticks(rows: Sequence[EngineRow]) -> list[tuple[float, str]]:
    return [(math.log2(batch), str(batch)) for batch in sorted({row.batch for row in rows})]


def _highlights(rows: Sequence[EngineRow]) -> Iterator[Highlight]:
    rows = [row for row in rows if not row.is_int8_in_float_on_gpu]
    if not rows:
        return
    where = on_other_device(rows[0].engine.device)
    best, figure, interval = best_throughput(rows)
    share = f", {_percent(best.share_of_limit)} of the limit" if best.share_of_limit is not None else ""
    yield Highlight(f"Fastest engine{where}", figure, f"{interval}{best.engine}, batch {best.batch}{share}")
    single = [
        (row.latencies.p50_ms, row) for row in rows if row.batch == 1 and row.latencies.p50_ms is not None
    ]
    if single:
        latency_ms, row = min(single, key=lambda pair: pair[0])
        yield Highlight(
            f"Shortest latency of one image{where}",
            f"{in_short(latency_ms)} ms",
            f"median, {row.engine}, in process",
        )


def _comparison_rows(report: Report) -> Iterator[ComparisonRow]:
    """Judge engines by throughput."""
    for row in report.engines:
        yield ComparisonRow(
            group=f"in process: {row.engine}",
            name=f"batch {row.batch}",
            measure=throughput(row.throughput),
            p99_ms=row.latencies.p99_ms,  # of calls, of which no histogram is kept
            verdict=row.verdict,
        )


def _proofs_table(proofs: Sequence[Proof], _: Verdict) -> Table:
    """Signal-to-noise ratios of logits: the worst of batches, slots and neighbours; 200 dB means equal."""
    columns: list[Column[Proof]] = [
        Column("engine", _engine_in_short, brief=True, left=True),
        Column("same model", lambda proof: yes_cell(proof.accepted, _NO), brief=True, left=True),
        Column("to PyTorch", lambda proof: f"{proof.report.signal_to_noise_db:.1f}", "dB", brief=True),
        Column("to itself", _to_itself, "dB, any slot", brief=True),
        Column(
            "at batches", lambda proof: ", ".join(str(row.batch) for row in proof.report.parity), left=True
        ),
        Column("agrees", lambda proof: _percent(proof.report.agreement, 1), "of top-1", brief=True),
        Column("top-1", lambda proof: _percent(proof.report.top1, 1), brief=True),
        Column("falls by", lambda proof: _points(proof.report.top1_drop), "points"),
    ]
    items = ((f"{proof.engine.device}, {proof.judged_on}", [proof]) for proof in proofs)
    return table_from_items(
        PROOFS.title, columns, items, lambda proof: () if proof.accepted else (proof.reason,)
    )


def _engine_in_short(proof: Proof) -> str:
    engine = proof.engine
    return f"{engine.precision} {engine.runtime}{f', {engine.options}' if engine.options else ''}"


def _to_itself(proof: Proof) -> str:
    return f"{min(row.against_alone_db for row in proof.report.parity):.1f}"


def _points(drop: float | None) -> str:
    return "-" if drop is None else f"{100 * drop:.2f}"


def _ceilings_table(roofs: Sequence[Roof], _: Verdict) -> Table:
    columns: list[Column[Roof]] = [
        Column("computes in", lambda roof: roof.computes_in, brief=True, left=True),
        Column("operations", lambda roof: roof.operations_per_s / 1e9, "10^9/s", brief=True),
        Column("memory", lambda roof: roof.bytes_per_s / 1e9, "GB/s", brief=True),
    ]
    return table_from_items(CEILINGS.title, columns, ((roof.device, [roof]) for roof in roofs))


ENGINES: Part[EngineRow] = Part(
    name="engines",
    title="Engines in process",
    table=_table,
    plots=_plots,
    highlights=_highlights,
    comparison_rows=_comparison_rows,
    row_name=name_of_engine_row,
)
PROOFS: Part[Proof] = Part(name="proofs", title="Is it still the model?", table=_proofs_table)
CEILINGS: Part[Roof] = Part(name="roofs", title="Ceilings, measured in this run", table=_ceilings_table)
