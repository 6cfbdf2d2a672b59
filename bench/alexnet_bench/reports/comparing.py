"""Two reports against each other: what got slower or faster, by how much, and what else is not the same.

    comparison = comparison_of(report_from_file(before), report_from_file(after), tolerance=0.05)

What a row is judged by is in `comparables`. INVALID rows are shown and not judged; one that was VALID before
and is INVALID or gone now has failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Literal

import numpy as np

from alexnet_model.errors import UsageError
from alexnet_model.records import Record

from ..figures.verdicts import MOST_CALIBRATION_CHANGE
from ..schema import Report
from .comparison_rows import Ends, Key, Measure, Row, on_any_gpu, rows_of
from .environments import devices_in_words, differences_of

Found = Literal["slower", "faster", "perhaps slower", "perhaps faster", "no difference", "not judged"]
_FAILED = 1
_NOTHING_LEARNT = 2  # the exit code, as of wrong usage
_NO_ROW = "no row is VALID in both and has an interval"


class Compared(Record):
    """One figure in both. `ratio` is after / before, with its interval where there is one."""

    group: str  # such as an engine or sweep
    row: str  # such as a batch or load
    figure: str
    unit: str
    before: float
    after: float
    ratio: float | None
    low: float | None
    high: float | None
    p99_before_ms: float | None  # of the row, judged or not
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
    """All of it.

    `exit_code` is 0 where no row is slower but perhaps; 1 for slower, or a row that was VALID and is gone or
    INVALID now; 2 where nothing could be judged, or what is slower ran on a machine that had another speed.
    """

    before: str
    after: str
    tolerance: float
    environment: tuple[Changed, ...]
    calibration_ratio: float | None  # how fast the machine itself was, by the mean of each run's two
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
        ReportError: a histogram is broken, or its row says otherwise.
    """
    if not 0 <= tolerance < 1:
        raise UsageError("tolerance", got=f"{tolerance:g}", expected="0 or more, below 1")
    devices = devices_in_words(before.environment, after.environment)
    if devices[0] != devices[1] and not across_devices:
        raise UsageError(
            "reports",
            got=f"figures of different devices, {devices[0]} and {devices[1]}",
            expected="one device",
            next_step="Measure both on one, or see the ratios all the same: --across-devices.",
        )
    reports = [on_any_gpu(report) if across_devices else report for report in (before, after)]
    firsts, seconds = map(rows_of, reports)
    pairs = [(first, seconds[key]) for key, first in firsts.items() if key in seconds]
    rows = tuple(compared for pair in pairs for compared in _judged(*pair, tolerance))
    calibration = _calibration(after) / _calibration(before) if _calibration(before) else None
    verdict, exit_code = _verdict(
        rows,
        tolerance,
        gone=sum(row.is_valid for key, row in firsts.items() if key not in seconds),
        turned=sum(first.is_valid and not second.verdict.is_valid for first, second in pairs),
        whole=[when for when, report in (("before", before), ("after", after)) if report.reasons],
        calibration=calibration if devices[0] == devices[1] else None,  # another machine has another speed
    )
    return Comparison(
        before=_title(before),
        after=_title(after),
        tolerance=tolerance,
        environment=tuple(
            Changed(name=name, before=old, after=new)
            for name, old, new in differences_of(before.environment, after.environment)
        ),
        calibration_ratio=calibration,
        against=tuple(
            f"INVALID {when}: {reason}"
            for when, report in (("before", before), ("after", after))
            for reason in report.reasons
        ),
        rows=rows,
        only_before=_only(firsts, seconds),
        only_after=_only(seconds, firsts),
        verdict=verdict,
        exit_code=exit_code,
    )


def _judged(before: Row, after: Row, tolerance: float) -> Iterator[Compared]:
    """By its measure, and by its tail where both have one and are VALID."""
    yield _compared(before, after, before.measure, after.measure, tolerance)
    if before.tail and after.tail and before.is_valid and after.is_valid:
        yield _compared(before, after, before.tail, after.tail, tolerance)


def _compared(before: Row, after: Row, first: Measure, second: Measure, tolerance: float) -> Compared:
    why_not = [
        f"INVALID {when}: {reason}"
        for when, row in (("before", before), ("after", after))
        for reason in row.verdict.reasons
    ]
    ratio = second.of.value / first.of.value if first.of.value else None
    ends = second.ends_of_ratio_to(first)
    found: Found = "not judged"
    if isinstance(ends, str):
        why_not.append(ends)
    elif before.is_valid and after.is_valid and ratio is not None:
        found = _found(ratio, ends, second.tolerances * tolerance, higher_is_better=second.higher_is_better)
    low, high = (None, None) if isinstance(ends, str) else ends
    return Compared(
        group=before.group,
        row=before.name,
        figure=second.name,
        unit=second.unit,
        before=first.of.value,
        after=second.of.value,
        ratio=ratio,
        low=low,
        high=high,
        p99_before_ms=before.p99_ms,
        p99_after_ms=after.p99_ms,
        invalid_before=not before.is_valid,
        invalid_after=not after.is_valid,
        found=found,
        why_not=tuple(why_not),
    )


def _found(ratio: float, ends: Ends, tolerance: float, *, higher_is_better: bool) -> Found:
    """As the whole interval lies; perhaps, where it leaves out 1 and the ratio is beyond the tolerance."""
    if ends[0] > 1 + tolerance:
        return "faster" if higher_is_better else "slower"
    if ends[1] < 1 - tolerance:
        return "slower" if higher_is_better else "faster"
    if ends[0] > 1 and ratio > 1 + tolerance:
        return "perhaps faster" if higher_is_better else "perhaps slower"
    if ends[1] < 1 and ratio < 1 - tolerance:
        return "perhaps slower" if higher_is_better else "perhaps faster"
    return "no difference"


def _verdict(
    rows: Sequence[Compared],
    tolerance: float,
    *,
    gone: int,
    turned: int,
    whole: Sequence[str],
    calibration: float | None,
) -> tuple[str, int]:
    """The sentences, the worst first, and the exit code. `whole` says which runs are INVALID as such."""
    judged = [row for row in rows if row.found != "not judged"]
    slower, faster = ([row for row in judged if row.found == kind] for kind in ("slower", "faster"))
    said = [_lost(count, now) for count, now in ((gone, "gone"), (turned, "INVALID")) if count]
    is_other_speed = calibration is not None and abs(calibration - 1) > MOST_CALIBRATION_CHANGE
    if said:
        exit_code = _FAILED
    elif not judged or (slower and is_other_speed):  # the machine is to blame as likely as the code
        exit_code = _NOTHING_LEARNT
    else:
        exit_code = _FAILED if slower else 0
    if is_other_speed:
        said.append(f"the machine itself ran {calibration:.2f} times as fast: measure again")
    if slower or faster:
        changed = (("slower", slower), ("faster", faster))
        said += [_furthest(kind, found, len(judged)) for kind, found in changed if found]
    elif judged:
        middle = median(row.ratio for row in judged if row.ratio is not None)
        said.append(f"no difference beyond {tolerance:.0%} in {len(judged)} rows (median ratio {middle:.3f})")
    else:
        why = f"the whole run {' and the one '.join(whole)} is INVALID" if whole else _NO_ROW
        said.append(f"nothing {'else ' if gone or turned else ''}could be judged: {why}")
    for kind in ("perhaps slower", "perhaps faster"):
        if count := sum(row.found == kind for row in judged):
            said.append(f"{kind} in {count}, whose intervals reach into the tolerance")
    if len(rows) > len(judged):
        said.append(f"not judged: {len(rows) - len(judged)}")
    first, *rest = said
    return ". ".join([first, *(f"{words[0].upper()}{words[1:]}" for words in rest)]) + ".", exit_code


def _lost(count: int, now: str) -> str:
    return (
        f"1 row that was VALID is {now} now" if count == 1 else f"{count} rows that were VALID are {now} now"
    )


def _furthest(kind: str, rows: Sequence[Compared], judged: int) -> str:
    furthest = max(rows, key=lambda row: abs(np.log(row.ratio or 1.0)))
    return (
        f"{kind} in {len(rows)} of {judged} rows, furthest {furthest.group}, {furthest.row}: "
        f"{furthest.ratio:.2f} times the {furthest.figure}"
    )


def _calibration(report: Report) -> float:
    return fmean((report.calibration_before, report.calibration_after))


def _only(these: Mapping[Key, Row], others: Mapping[Key, Row]) -> tuple[str, ...]:
    return tuple(
        f"{row.group}, {row.name}{'' if row.is_valid else ' (INVALID)'}"
        for key, row in these.items()
        if key not in others
    )


def _title(report: Report) -> str:
    return f"{report.title}, {report.environment.date}, {report.environment.commit or 'no commit'}"
