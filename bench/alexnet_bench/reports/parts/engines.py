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
    TableRow,
    figure_cell,
    grouped,
    latency_cells,
    latency_columns,
    number_cell,
    verdict_cell,
)
from .part import Highlight, Part, interval_in_words, on_other_device


def _table(rows: Sequence[EngineRow], run: Verdict) -> Table:
    columns = (
        Column("batch", brief=True),
        Column("verdict", left=True, detail=True),
        Column("throughput", "images/s", brief=True),
        *latency_columns(of_calls=True),
        Column("first call", "ms"),
        Column("load", "ms"),
        Column("file", "MB"),
        Column("memory", "MB"),
        Column("limit", "ms"),
        Column("of limit", brief=True),
        Column("bound by", brief=True, left=True),
    )
    groups = grouped(rows, lambda row: str(row.engine), lambda row: _table_row(row, run))
    return Table("Engines in process", columns, groups)


def _table_row(row: EngineRow, run: Verdict) -> TableRow:
    share = row.share_of_limit
    cells = (
        Cell(str(row.batch)),
        verdict_cell(row.verdict, run),
        figure_cell(row.throughput),
        *latency_cells(row.latencies),
        number_cell(row.first_call_ms),
        number_cell(row.load_ms),
        Cell(in_megabytes(row.size_bytes)),
        Cell(in_megabytes(row.peak_memory_bytes)),
        number_cell(row.limit_ms),
        Cell("-" if share is None else f"{share:.0%}"),
        Cell(row.bound_by),
    )
    return TableRow(cells, tuple(map(str, row.verdict.reasons)))


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
    has_room = all(len(str(row.engine)) <= LONGEST_NAME for row in rows)
    found = []
    for engine in dict.fromkeys(row.engine for row in rows):
        ordered = sorted((row for row in rows if row.engine == engine), key=lambda row: row.batch)
        colour, marker = styles.next_for(engine.precision)
        # All rows of a plot are on one device: its name can be left out.
        name = str(engine) if has_room else str(engine).replace(f"({engine.device}, ", "(", 1)
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
    where = on_other_device(rows[0].engine.device)
    best = max(rows, key=lambda row: row.throughput.value)
    share = f", {best.share_of_limit:.0%} of the limit" if best.share_of_limit is not None else ""
    yield Highlight(
        f"Fastest engine{where}",
        f"{in_short(best.throughput.value)} images/s",
        f"{interval_in_words(best.throughput)}{best.engine}, batch {best.batch}{share}",
    )
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
            run=report.verdict,
        )


def _proofs_table(proofs: Sequence[Proof], _: Verdict) -> Table:
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
    groups = grouped(proofs, lambda proof: f"{proof.engine.device}, {proof.judged_on}", _proof_row)
    return Table(PROOFS.title, columns, groups)


def _proof_row(proof: Proof) -> TableRow:
    """Signal-to-noise ratios of logits: the worst of batches, slots and neighbours; 200 dB means equal."""
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
    return TableRow(cells, () if proof.accepted else (proof.reason,))


def _ceilings_table(roofs: Sequence[Roof], _: Verdict) -> Table:
    columns = (
        Column("computes in", brief=True, left=True),
        Column("operations", "10^9/s", brief=True),
        Column("memory", "GB/s", brief=True),
    )

    def row(roof: Roof) -> TableRow:
        rates = (roof.operations_per_s, roof.bytes_per_s)
        return TableRow((Cell(roof.computes_in), *(Cell(in_short(rate / 1e9)) for rate in rates)))

    return Table(CEILINGS.title, columns, grouped(roofs, lambda roof: roof.device, row))


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
