"""Two reports against each other: what got slower or faster, by how much, and what else is not the same.

    comparison = comparison_of(report_from_file(before), report_from_file(after), tolerance=0.05)

A row is judged by one figure: an engine and a closed loop by throughput, an open loop, whose throughput is
what it was told to be, by the median latency. INVALID rows are shown, and count neither way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from alexnet_model.errors import UsageError
from alexnet_model.records import Record

from ..figures.intervals import CONFIDENCE, RESAMPLES, Figure, difference
from ..figures.verdicts import MOST_CONTROL_CHANGE, Verdict
from .distributions import distribution_of
from .environments import differences_of
from .names import load_in_words, name_of_series
from .schema import Engine, EngineRow, HeldRate, LoadRow, Report

Found = Literal["slower", "faster", "no difference", "not judged"]
_FEWEST_REPEATS = 2
_NOTHING_JUDGED = 2  # the exit code, as of wrong usage: CI has learnt nothing
_SLOWER = 1


class Compared(Record):
    """One figure in both. `ratio` is after / before, with its interval where there is one."""

    group: str  # engine or sweep
    row: str  # batch or load
    figure: str
    unit: str
    before: float
    after: float
    ratio: float | None
    low: float | None
    high: float | None
    p99_before_ms: float | None
    p99_after_ms: float | None
    invalid_before: bool
    invalid_after: bool
    found: Found
    why_not: tuple[str, ...] = ()  # it was not judged, as far as that is of this row alone


class Changed(Record):
    """One fact of the environment that is not the same."""

    name: str
    before: str
    after: str


class Comparison(Record):
    """All of it. `exit_code`: 0 is no difference or faster, 1 slower, 2 that nothing could be judged."""

    before: str
    after: str
    tolerance: float
    environment: tuple[Changed, ...]
    control_ratio: float | None  # how fast the machine itself was
    against: tuple[str, ...]  # why a whole run is INVALID
    rows: tuple[Compared, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    verdict: str
    exit_code: int


def comparison_of(
    before: Report, after: Report, *, tolerance: float, across_devices: bool = False
) -> Comparison:
    """Match rows by what they are figures of, and judge each pair.

    Raises:
        UsageError: the tolerance cannot be, or the devices differ and that was not asked for.
        ReportError: a histogram is broken.
    """
    if not 0 <= tolerance < 1:
        raise UsageError("tolerance", got=f"{tolerance:g}", expected="0 or more, below 1")
    devices = [" + ".join(report.environment.devices) for report in (before, after)]
    if devices[0] != devices[1] and not across_devices:
        raise UsageError(
            "reports",
            got=f"figures of different devices, {devices[0]} and {devices[1]}",
            expected="one device",
            next_step="Measure both on one, or see the ratios all the same: --across-devices.",
        )
    firsts, seconds = (_rows_of(report, across_devices) for report in (before, after))
    rows = [
        first.against(second, tolerance) for name, first in firsts.items() if (second := seconds.get(name))
    ]
    control = after.control_after / before.control_after if before.control_after else None
    verdict, exit_code = _verdict(rows, tolerance, control)
    return Comparison(
        before=_title(before),
        after=_title(after),
        tolerance=tolerance,
        environment=tuple(
            Changed(name=name, before=old, after=new)
            for name, old, new in differences_of(before.environment, after.environment)
        ),
        control_ratio=control,
        against=tuple(
            f"INVALID {when}: {reason}"
            for when, report in (("before", before), ("after", after))
            for reason in report.reasons
        ),
        rows=tuple(rows),
        only_before=_only(firsts, seconds),
        only_after=_only(seconds, firsts),
        verdict=verdict,
        exit_code=exit_code,
    )


@dataclass(frozen=True)
class _Row:
    """What is compared of one row. Only an open loop's has `load`, only a search's is never judged."""

    group: str
    row: str
    throughput: Figure
    p99_ms: float | None
    verdict: Verdict  # its own
    whole: Verdict  # and its run's
    load: LoadRow | None = None
    why_never: str = ""

    @property
    def is_valid(self) -> bool:
        return self.verdict.is_valid and self.whole.is_valid

    def against(self, other: _Row, tolerance: float) -> Compared:
        why_not = [f"INVALID {when}: {reason}" for when, reason in _reasons(self, other)]
        if self.why_never:
            why_not.append(self.why_never)
        if self.load is not None and other.load is not None:
            name, unit = "median latency", "ms"
            values, ends = _medians(self.load, other.load, why_not)
        else:
            name, unit = "throughput", self.throughput.unit
            values, ends = _throughputs(self.throughput, other.throughput, why_not)
        ratio = values[1] / values[0] if values[0] else None
        if ratio is None:
            why_not.append("nothing was answered before")
        found: Found = "not judged"
        is_valid = self.is_valid and other.is_valid
        if is_valid and not why_not and ratio is not None and ends is not None:
            found = _found(ratio, ends, tolerance, higher_is_better=self.load is None)
        return Compared(
            group=self.group,
            row=self.row,
            figure=name,
            unit=unit,
            before=values[0],
            after=values[1],
            ratio=ratio,
            low=None if ends is None else ends[0],
            high=None if ends is None else ends[1],
            p99_before_ms=self.p99_ms,
            p99_after_ms=other.p99_ms,
            invalid_before=not self.is_valid,
            invalid_after=not other.is_valid,
            found=found,
            why_not=tuple(why_not),
        )


def _rows_of(report: Report, across_devices: bool) -> dict[tuple[str, str, int], _Row]:
    """By name; rows of one name, such as a rate that was tried twice, by their turn too."""
    found: dict[tuple[str, str, int], _Row] = {}
    whole = report.verdict
    for row in (
        *(_of_engine(row, whole, across_devices) for row in report.engines),
        *(_of_load(row, whole, across_devices) for row in report.loads),
        *(_of_held_rate(row, whole, across_devices) for row in report.held_rates if row.throughput),
    ):
        turn = sum(key[:2] == (row.group, row.row) for key in found)
        found[row.group, row.row, turn] = row
    return found


def _of_engine(row: EngineRow, whole: Verdict, across_devices: bool) -> _Row:
    group = f"in process: {_engine(row.engine, across_devices)}"
    return _Row(group, f"batch {row.batch}", row.throughput, row.latencies.p99_ms, row.verdict, whole)


def _of_load(row: LoadRow, whole: Verdict, across_devices: bool) -> _Row:
    group = f"{name_of_series(row)}: {_engine(row.engine, across_devices)}"
    load = row if row.loop == "open" else None
    return _Row(group, load_in_words(row), row.throughput, row.latencies.p99_ms, row.verdict, whole, load)


def _of_held_rate(row: HeldRate, whole: Verdict, across_devices: bool) -> _Row:
    assert row.throughput is not None
    engine = _engine(row.engine, across_devices)
    group = f"{row.model} over {row.url_scheme}, searched, batch {row.batch}: {engine}"
    name = f"p99 within {row.limit_p99_ms:g} ms"
    why = "a search goes in steps, which are coarser than its figure's interval"
    return _Row(group, name, row.throughput, row.p99_ms, Verdict(), whole, why_never=why)


def _engine(engine: Engine, across_devices: bool) -> Engine:
    if not across_devices or engine.device == "CPU":
        return engine
    return engine.model_copy(update={"device": "GPU"})


def _reasons(before: _Row, after: _Row) -> Iterable[tuple[str, str]]:
    for when, row in (("before", before), ("after", after)):
        yield from ((when, str(reason)) for reason in row.verdict.reasons)


def _throughputs(
    before: Figure, after: Figure, why_not: list[str]
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """The values and, where there are repeats enough, the ends of the ratio's interval."""
    values = before.value, after.value
    if min(len(before.repeats), len(after.repeats)) < _FEWEST_REPEATS:
        why_not.append("one repeat has no interval")
        return values, None
    if min(*before.repeats, *after.repeats) <= 0:
        why_not.append("a repeat answered nothing")
        return values, None
    found = difference(before, after, tolerance=0)
    return values, (found.low, found.high)


def _medians(
    before: LoadRow, after: LoadRow, why_not: list[str]
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Of all requests, bootstrapped as if none depended on another, which makes the interval narrow."""
    distributions = distribution_of(before), distribution_of(after)
    if not all(distribution.samples for distribution in distributions):
        why_not.append("a histogram is empty")
        return (before.latencies.mean_ms, after.latencies.mean_ms), None
    resampled = [found.resampled_medians(RESAMPLES, seed) for seed, found in enumerate(distributions)]
    ends = np.quantile(resampled[1] / resampled[0], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    values = [float(distribution.at(np.array([0.5]))[0]) for distribution in distributions]
    return (values[0], values[1]), (float(ends[0]), float(ends[1]))


def _found(ratio: float, ends: tuple[float, float], tolerance: float, *, higher_is_better: bool) -> Found:
    """As `figures.intervals.difference`: out of the tolerance, and 1 out of the interval."""
    if ends[0] > 1 and ratio > 1 + tolerance:
        return "faster" if higher_is_better else "slower"
    if ends[1] < 1 and ratio < 1 - tolerance:
        return "slower" if higher_is_better else "faster"
    return "no difference"


def _verdict(rows: Sequence[Compared], tolerance: float, control: float | None) -> tuple[str, int]:
    """The sentence, and the exit code."""
    judged = [row for row in rows if row.found != "not judged"]
    slower, faster = ([row for row in judged if row.found == kind] for kind in ("slower", "faster"))
    left = [row for row in rows if row.found == "not judged"]
    turned = sum(row.invalid_after and not row.invalid_before for row in left)
    unjudged = f" Not judged: {len(left)}" if left else ""
    unjudged += f", of which {turned} became INVALID." if turned else "." if left else ""
    machine = ""
    if control is not None and abs(control - 1) > MOST_CONTROL_CHANGE:
        machine = f" The machine itself ran {control:.2f} times as fast: measure again on a quiet one."
    if not judged:
        return f"nothing could be judged: no VALID row is in both.{unjudged}{machine}", _NOTHING_JUDGED
    if not slower and not faster:
        middle = median(row.ratio for row in judged if row.ratio is not None)
        said = f"no difference beyond {tolerance:.0%} in {len(judged)} rows (median ratio {middle:.3f})."
        return said + unjudged + machine, 0
    changed = (("slower", slower), ("faster", faster))
    said = " ".join(_worst(kind, found, len(judged)) for kind, found in changed if found)
    return said + unjudged + machine, _SLOWER if slower else 0


def _worst(kind: str, rows: Sequence[Compared], judged: int) -> str:
    furthest = max(rows, key=lambda row: abs(np.log(row.ratio or 1.0)))
    return (
        f"{kind} in {len(rows)} of {judged} rows, furthest {furthest.group}, {furthest.row}: "
        f"{furthest.ratio:.2f} times the {furthest.figure}."
    )


def _only(
    these: dict[tuple[str, str, int], _Row], others: dict[tuple[str, str, int], _Row]
) -> tuple[str, ...]:
    return tuple(f"{group}, {row}" for group, row, turn in these if (group, row, turn) not in others)


def _title(report: Report) -> str:
    return f"{report.title}, {report.environment.date}, {report.environment.commit or 'no commit'}"
