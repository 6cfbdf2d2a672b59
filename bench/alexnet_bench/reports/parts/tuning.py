"""Tuning: the server configurations that were measured, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...figures.verdicts import Verdict
from ...schema import Report, Tuning, TuningStep
from ..comparison_rows import ComparisonRow, held_rate
from ..names import in_short
from ..table_models import Cell, Column, Table, table_from_items
from .part import Highlight, Part


def _table(tunings: Sequence[Tuning], _: Verdict) -> Table:
    winners = [tuning.steps[tuning.winner] for tuning in tunings if tuning.winner is not None]

    def cell_of_winner(step: TuningStep, text: str, otherwise: Cell) -> Cell:
        return Cell(text, kind="good") if any(step is winner for winner in winners) else otherwise

    def held(step: TuningStep) -> Cell:
        if step.held_rate_per_s is None:
            return Cell("none", kind="refused")
        text = in_short(step.held_rate_per_s)
        return cell_of_winner(step, text, Cell(text))

    columns: list[Column[TuningStep]] = [
        Column("", lambda step: cell_of_winner(step, "winner", Cell("")), brief=True, left=True),
        Column("precision", lambda step: step.precision, brief=True, left=True),
        Column("instances", lambda step: str(step.instances), brief=True),
        Column("delay", lambda step: f"{step.queue_delay_us:,}", "us", brief=True),
        Column("max batch", lambda step: str(step.max_batch), brief=True),
        Column("held", held, "images/s", brief=True),
        Column("p99", lambda step: step.p99_ms, "ms", brief=True),
        Column("note", lambda step: step.note, left=True, detail=True),
    ]
    items = (
        (f"within a p99 of {in_short(tuning.limit_p99_ms)} ms on {tuning.device}", tuning.steps)
        for tuning in tunings
    )
    return table_from_items(TUNING.title, columns, items)


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
    """Judge the winner by its rate, even if its configuration differs."""
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
        )


TUNING: Part[Tuning] = Part(
    name="tuning",
    title="Tuning",
    table=_table,
    sentences=lambda tunings: (f"Why: {tuning.why.rstrip('.')}." for tuning in tunings),
    highlights=_highlights,
    comparison_rows=_comparison_rows,
)
