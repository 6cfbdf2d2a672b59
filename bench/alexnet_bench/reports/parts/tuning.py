"""Tuning: the server configurations that were measured, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...figures.verdicts import Verdict
from ...schema import Report, Tuning, TuningStep
from ..comparison_rows import ComparisonRow, held_rate
from ..names import in_short
from ..table_models import Cell, Column, Group, Kind, Table, TableRow, number_cell
from .part import Highlight, Part


def _table(tunings: Sequence[Tuning], _: Verdict) -> Table:
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
    groups = (
        Group(
            f"within a p99 of {in_short(tuning.limit_p99_ms)} ms on {tuning.device}",
            tuple(_table_row(step, index == tuning.winner) for index, step in enumerate(tuning.steps)),
        )
        for tuning in tunings
    )
    return Table(TUNING.title, columns, tuple(groups))


def _table_row(step: TuningStep, is_winner: bool) -> TableRow:
    held = step.held_rate_per_s
    kind: Kind = "good" if is_winner else "plain"
    cells = (
        Cell("winner" if is_winner else "", kind=kind),
        Cell(step.precision),
        Cell(str(step.instances)),
        Cell(f"{step.queue_delay_us:,}"),
        Cell(str(step.max_batch)),
        Cell("none", kind="refused") if held is None else Cell(in_short(held), kind=kind),
        number_cell(step.p99_ms),
        Cell(step.note),
    )
    return TableRow(cells)


def _highlights(tunings: Sequence[Tuning]) -> Iterator[Highlight]:
    for tuning in tunings:
        name = f"Tuned to a p99 within {in_short(tuning.limit_p99_ms)} ms"
        if tuning.winner is None:
            yield Highlight(name, "nothing", f"on {tuning.device}: {tuning.why}")
            continue
        step = tuning.steps[tuning.winner]
        instances = f"{step.instances} instance{'' if step.instances == 1 else 's'}"
        held = "-" if step.held_rate_per_s is None else f"{in_short(step.held_rate_per_s)} images/s"
        of = f"{step.precision} on {tuning.device}, {instances}, delay {step.queue_delay_us:,} us"
        yield Highlight(name, held, of)


def _comparison_rows(report: Report) -> Iterator[ComparisonRow]:
    """Judge the winner by its rate, whatever its configuration is."""
    tuning = report.tuning
    if tuning is None or tuning.winner is None:
        return
    step = tuning.steps[tuning.winner]
    if step.held_rate_per_s is not None:
        yield ComparisonRow(
            group="tuning: the winner",
            name=f"p99 within {tuning.limit_p99_ms:g} ms",
            measure=held_rate(step.held_rate_per_s),
            p99_ms=step.p99_ms,
            run=report.verdict,
        )


TUNING: Part[Tuning] = Part(
    name="tuning",
    title="Tuning",
    table=_table,
    sentences=lambda tunings: (f"Why: {tuning.why.rstrip('.')}." for tuning in tunings),
    highlights=_highlights,
    comparison_rows=_comparison_rows,
)
