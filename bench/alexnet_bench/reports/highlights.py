"""The few figures that a run is remembered by, for each device. None is of an INVALID row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..figures.intervals import Figure
from ..schema import EngineRow, HeldRate, LoadRow, Report
from .names import in_short, load_in_words


@dataclass(frozen=True)
class Tile:
    """`of` says what the figure is of, with its interval."""

    name: str
    figure: str
    of: str


def tiles_from_reports(reports: Sequence[Report]) -> tuple[Tile, ...]:
    """The best of each device, in process and served, and what tuning held."""
    valid = [report for report in reports if report.verdict.is_valid]
    engines = [row for report in valid for row in report.engines if row.verdict.is_valid]
    loads = [row for report in valid for row in report.loads if row.verdict.is_valid]
    tiles: list[Tile | None] = []
    devices = [row.engine.device for row in engines] + [row.engine.device for row in loads]
    for device in dict.fromkeys(devices):
        where = "" if device == "CPU" else f", {device}"
        here = [row for row in engines if row.engine.device == device]
        served = [row for row in loads if row.engine.device == device]
        if here:
            tiles.append(_in_process(max(here, key=lambda row: row.throughput.value), where))
            tiles.append(_quickest(here, where))
        if served:
            tiles.append(_served(max(served, key=lambda row: row.throughput.value), where))
    tiles += [_held(row) for report in valid for row in report.held_rates]
    tiles += [_tuned(report) for report in valid]
    return tuple(tile for tile in tiles if tile is not None)


def _in_process(row: EngineRow, where: str) -> Tile:
    share = f", {row.share_of_limit:.0%} of the limit" if row.share_of_limit is not None else ""
    return Tile(
        f"Fastest engine{where}",
        f"{in_short(row.throughput.value)} images/s",
        f"{_interval(row.throughput)}{row.engine}, batch {row.batch}{share}",
    )


def _quickest(rows: Sequence[EngineRow], where: str) -> Tile | None:
    known = [row for row in rows if row.batch == 1 and row.latencies.p50_ms is not None]
    if not known:
        return None
    row = min(known, key=lambda row: row.latencies.p50_ms or 0.0)
    return Tile(
        f"Quickest answer for one image{where}",
        f"{in_short(row.latencies.p50_ms or 0.0)} ms",
        f"median, {row.engine}, in process",
    )


def _served(row: LoadRow, where: str) -> Tile:
    return Tile(
        f"Fastest served{where}",
        f"{in_short(row.throughput.value)} images/s",
        f"{_interval(row.throughput)}{row.model} over {row.url_scheme}, "
        f"batch {row.batch}, {load_in_words(row)}",
    )


def _held(row: HeldRate) -> Tile:
    figure = "nothing" if row.throughput is None else f"{in_short(row.throughput.value)} images/s"
    return Tile(
        f"Held within a p99 of {in_short(row.limit_p99_ms)} ms",
        figure,
        f"{row.model} over {row.url_scheme}, batch {row.batch}, open loop, on {row.engine.device}",
    )


def _tuned(report: Report) -> Tile | None:
    tuning = report.tuning
    if tuning is None:
        return None
    name = f"Tuned to a p99 within {in_short(tuning.limit_p99_ms)} ms"
    if tuning.winner is None:
        return Tile(name, "nothing", f"on {tuning.device}: {tuning.why}")
    step = tuning.steps[tuning.winner]
    instances = f"{step.instances} instance{'' if step.instances == 1 else 's'}"
    of = f"{step.precision} on {tuning.device}, {instances}, delay {step.queue_delay_us:,} us"
    held = "-" if step.held_rate_per_s is None else f"{in_short(step.held_rate_per_s)} images/s"
    return Tile(name, held, of)


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{in_short(figure.low)} to {in_short(figure.high)}; "
