"""What was measured on one device, part by part: the same in the page and in Markdown.

Figures of different devices are never in one plot or table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..schema import EngineLabel, EngineRow, LoadRow, Report
from .breakdown_text import breakdown_in_words
from .plots import (
    Plot,
    batch_plots,
    breakdown_plot,
    latency_plots,
    percentile_plots,
    roof_plot,
    sweep_plot,
)
from .table_models import (
    Sheet,
    breakdown_sheet,
    cold_starts_sheet,
    engines_sheet,
    held_rates_sheet,
    loads_sheet,
    proofs_sheet,
    roofs_sheet,
)


@dataclass(frozen=True)
class Section:
    """Images, then tables. Wide ones have many words beside them."""

    title: str
    note: str = ""
    images: tuple[Plot, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    is_wide: bool = False


class _OfAnEngine(Protocol):
    @property
    def engine(self) -> EngineLabel: ...


_Row = TypeVar("_Row", bound=_OfAnEngine)
_Judged = TypeVar("_Judged", EngineRow, LoadRow)


def devices_of(reports: Sequence[Report]) -> list[str]:
    """In the order in which they were measured."""
    found: list[str] = []
    for report in reports:
        found += [row.engine.device for row in report.engines]
        found += [row.engine.device for row in report.loads]
        found += [row.engine.device for row in report.held_rates]
        found += [step.engine.device for step in report.breakdown]
        found += [row.engine.device for row in report.cold_starts]
        found += [roof.device for roof in report.roofs]
    return list(dict.fromkeys(found))


def sections_of(reports: Sequence[Report], device: str) -> Iterator[Section]:
    """What the reports have of the device, in the order in which it is read.

    Raises:
        ReportError: a histogram is broken.
    """

    def here(rows_of: Callable[[Report], Sequence[_Row]]) -> list[_Row]:
        return [row for report in reports for row in rows_of(report) if row.engine.device == device]

    engines, proofs = here(lambda report: report.engines), here(lambda report: report.proofs)
    roofs = [roof for report in reports for roof in report.roofs if roof.device == device]
    if engines or proofs or roofs:
        doubted = here(lambda report: report.engines if report.reasons else ())
        drawn = here(lambda report: _as_its_run(report, report.engines))
        sheets = [engines_sheet(engines, doubted)] if engines else []
        sheets += [proofs_sheet(proofs)] if proofs else []
        sheets += [roofs_sheet(roofs)] if roofs else []
        images = _drawn(sweep_plot(drawn), roof_plot(drawn)) if engines else ()
        yield Section("Engines in process", images=images, sheets=tuple(sheets), is_wide=True)
    if loads := here(lambda report: report.loads):
        doubted_loads = here(lambda report: report.loads if report.reasons else ())
        drawn_loads = here(lambda report: _as_its_run(report, report.loads))
        yield Section(
            "Server under load",
            images=latency_plots(drawn_loads),
            sheets=(loads_sheet(loads, doubted_loads),),
            is_wide=True,
        )
        yield Section("The tail of the latencies", images=percentile_plots(drawn_loads))
        yield Section("Did batching happen?", images=batch_plots(drawn_loads))
    if held_rates := here(lambda report: report.held_rates):
        yield Section("What load is held within a limit?", sheets=(held_rates_sheet(held_rates),))
    if breakdown := here(lambda report: report.breakdown):
        images = _drawn(breakdown_plot(breakdown))
        yield Section(
            "From the engine to the image",
            " ".join(breakdown_in_words(breakdown)),
            images,
            (breakdown_sheet(breakdown),),
            is_wide=True,
        )
    if cold_starts := here(lambda report: report.cold_starts):
        note = "The first request of each batch, and the one after it. Every start of a server is a repeat."
        yield Section("Cold start", note, sheets=(cold_starts_sheet(cold_starts),))


def _as_its_run(report: Report, rows: Sequence[_Judged]) -> Sequence[_Judged]:
    """As they are drawn: of a run that is INVALID every one is."""
    if report.verdict.is_valid:
        return rows
    return [row.model_copy(update={"verdict": report.verdict}) for row in rows]


def _drawn(*images: Plot | None) -> tuple[Plot, ...]:
    return tuple(image for image in images if image is not None)


def day_in_words(date: str) -> str:
    """A run's date to the minute."""
    return f"{date[:16].replace('T', ' ')} UTC"
