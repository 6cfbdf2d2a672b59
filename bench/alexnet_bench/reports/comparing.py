"""Compare two reports: what got slower or faster, by how much, and what else differs.

    comparison = compare_reports(report_from_file(before), report_from_file(after), tolerance=0.05)

Each part of a report says by which figures its rows are judged (`comparison_rows`). INVALID rows are
shown, but not judged; a row that was VALID and is INVALID or gone now fails the comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Literal

import numpy as np

from alexnet_model.differences import MISSING, differences
from alexnet_model.errors import UsageError
from alexnet_model.records import Record

from ..figures.verdicts import MOST_CALIBRATION_CHANGE, Verdict
from ..schema import Report
from .comparison_rows import ComparisonRow, Ends
from .names import devices_in_words, facts_of
from .parts import PARTS, devices_of
from .table_models import Cell, Column, Kind, Table, table_from_items

Found = Literal["slower", "faster", "perhaps slower", "perhaps faster", "no difference", "not judged"]
_FAILED = 1
_NO_RESULT = 2  # the exit code, the same as of wrong usage
_NO_ROW = "no row is VALID in both and has an interval"
_KINDS: dict[str, Kind] = {"slower": "bad", "faster": "good", "not judged": "refused"}
Key = tuple[str, str, int]  # group, row, and a number if several rows have that name


class Compared(Record):
    """One figure in both reports. `ratio` is after / before, with its interval if there is one."""

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
    why_not: tuple[str, ...] = ()  # why it was not judged, if the reason is in this row


class Changed(Record):
    """One fact of the environment that differs."""

    name: str
    before: str
    after: str


class Comparison(Record):
    """The result of a comparison.

    `exit_code` is 0 if no row is slower, or only perhaps slower; 1 if a row is slower, or was VALID and
    is gone or INVALID now; 2 if nothing could be judged, or if rows are slower on a machine that had another
    speed.
    """

    before: str
    after: str
    tolerance: float
    environment: tuple[Changed, ...]
    calibration_ratio: float | None  # how fast the machine itself was: after / before
    against: tuple[str, ...]  # why a run is INVALID
    rows: tuple[Compared, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    summary: str
    exit_code: int


def compare_reports(
    before: Report, after: Report, *, tolerance: float, across_devices: bool = False
) -> Comparison:
    """Match the rows of two reports by name, and judge each pair.

    Args:
        before: The report to compare with.
        after: The report that is judged.
        tolerance: Relative changes up to this are ignored, such as 0.1.
        across_devices: Compare figures of different devices too.

    Raises:
        UsageError: the tolerance is out of range, or the devices differ without `across_devices`.
        ReportError: a histogram is broken, or does not match its row.
    """
    if not 0 <= tolerance < 1:
        raise UsageError("tolerance", got=f"{tolerance:g}", expected="0 or more, below 1")
    devices = devices_in_words(before.environment, after.environment)
    if devices[0] != devices[1] and not across_devices:
        raise UsageError(
            "reports",
            got=f"figures of different devices, {devices[0]} and {devices[1]}",
            expected="one device",
            next_step="Measure both on one, or compare them anyway: --across-devices.",
        )
    firsts, seconds = (_rows_by_name(report, across_devices) for report in (before, after))
    pairs = [(first, seconds[key]) for key, first in firsts.items() if key in seconds]
    rows = tuple(compared for pair in pairs for compared in _compared(*pair, tolerance))
    calibration = _calibration_ratio(before, after)
    summary, exit_code = _summary(
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
            Changed(name=one.path, before=_known(one.got), after=_known(one.expected))
            for one in differences(facts_of(before.environment), facts_of(after.environment))
        ),
        calibration_ratio=calibration,
        against=_reasons_against(before.verdict, after.verdict),
        rows=rows,
        only_before=_only(firsts, seconds),
        only_after=_only(seconds, firsts),
        summary=summary,
        exit_code=exit_code,
    )


def comparison_table(comparison: Comparison) -> Table:
    """Return a table with a group for each engine or sweep. The p99 of a load has a row of its own."""
    columns: list[Column[Compared]] = [
        Column("", lambda row: row.row, brief=True, left=True),
        Column("before", lambda row: row.before, brief=True),
        Column("after", lambda row: row.after, brief=True),
        Column("", _unit, brief=True, left=True),
        Column("ratio", _ratio, brief=True),
        Column("found", _found_cell, brief=True, left=True),
    ]
    items = ((row.group, [row]) for row in comparison.rows)
    return table_from_items("After against before", columns, items, lambda row: row.why_not)


def _unit(row: Compared) -> str:
    percentiles = {"median latency": "ms p50", "p99 latency": "ms p99"}
    return percentiles.get(row.figure, "/s" if row.unit.endswith("/s") else row.unit)


def _ratio(row: Compared) -> Cell:
    interval = "" if row.low is None or row.high is None else f"{row.low:.2f} to {row.high:.2f}"
    return Cell("-" if row.ratio is None else f"{row.ratio:.2f}", interval)


def _found_cell(row: Compared) -> Cell:
    if row.invalid_before or row.invalid_after:
        return Cell("INVALID", kind="bad")
    return Cell(row.found, kind=_KINDS.get(row.found, "plain"))


def _known(fact: object) -> str:
    return "none" if fact is MISSING else str(fact)


def _rows_by_name(report: Report, across_devices: bool) -> dict[Key, ComparisonRow]:
    """By name; rows of one name, such as a rate that was measured twice, also by their order.

    Across devices every GPU is named `GPU`, so that rows of different GPUs have the same name.
    """
    gpus = [device for device in devices_of(report) if device != "CPU"] if across_devices else []
    found: dict[Key, ComparisonRow] = {}
    for row in (row for part in PARTS for row in part.comparison_rows(report)):
        group = row.group
        for gpu in sorted(gpus, key=len, reverse=True):
            group = group.replace(gpu, "GPU")
        number = sum(key[:2] == (group, row.name) for key in found)
        found[group, row.name, number] = replace(row, group=group, run=report.verdict)
    return found


def _reasons_against(before: Verdict, after: Verdict) -> tuple[str, ...]:
    verdicts = (("before", before), ("after", after))
    return tuple(f"INVALID {when}: {reason}" for when, verdict in verdicts for reason in verdict.reasons)


def _compared(before: ComparisonRow, after: ComparisonRow, tolerance: float) -> Iterator[Compared]:
    """Judge by the measure, and by the tail if both rows have one and are VALID."""
    measures = [(before.measure, after.measure)]
    if before.tail and after.tail and before.is_valid and after.is_valid:
        measures.append((before.tail, after.tail))
    for first, second in measures:
        why_not = _reasons_against(before.verdict, after.verdict)
        ratio = second.value / first.value if first.value else None
        ends = second.ends_of_ratio_to(first)
        low, high = (None, None) if isinstance(ends, str) else ends
        found: Found = "not judged"
        if isinstance(ends, str):
            why_not = (*why_not, ends)
        elif before.is_valid and after.is_valid and ratio is not None:
            found = _found(
                ratio, ends, second.tolerances * tolerance, higher_is_better=second.higher_is_better
            )
        yield Compared(
            group=before.group,
            row=before.name,
            figure=second.name,
            unit=second.unit,
            before=first.value,
            after=second.value,
            ratio=ratio,
            low=low,
            high=high,
            p99_before_ms=before.p99_ms,
            p99_after_ms=after.p99_ms,
            invalid_before=not before.is_valid,
            invalid_after=not after.is_valid,
            found=found,
            why_not=why_not,
        )


def _found(ratio: float, ends: Ends, tolerance: float, *, higher_is_better: bool) -> Found:
    """Judge by the whole interval; `perhaps` if only the ratio is beyond and the interval excludes 1."""
    if ends[0] > 1 + tolerance:
        return "faster" if higher_is_better else "slower"
    if ends[1] < 1 - tolerance:
        return "slower" if higher_is_better else "faster"
    if ends[0] > 1 and ratio > 1 + tolerance:
        return "perhaps faster" if higher_is_better else "perhaps slower"
    if ends[1] < 1 and ratio < 1 - tolerance:
        return "perhaps slower" if higher_is_better else "perhaps faster"
    return "no difference"


def _summary(
    rows: Sequence[Compared],
    tolerance: float,
    *,
    gone: int,
    turned: int,
    whole: Sequence[str],
    calibration: float | None,
) -> tuple[str, int]:
    """Return the sentences, the worst first, and the exit code. `whole` names the runs that are INVALID."""
    judged = [row for row in rows if row.found != "not judged"]
    slower, faster = ([row for row in judged if row.found == kind] for kind in ("slower", "faster"))
    said = [_lost(count, now) for count, now in ((gone, "gone"), (turned, "INVALID")) if count]
    is_other_speed = calibration is not None and abs(calibration - 1) > MOST_CALIBRATION_CHANGE
    if said:
        exit_code = _FAILED
    elif not judged or (slower and is_other_speed):  # the machine is to blame as likely as the code
        exit_code = _NO_RESULT
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


def _calibration_ratio(before: Report, after: Report) -> float | None:
    """How fast the machine was, after / before, by the mean of the two calibrations of each run."""
    means = []
    for report in (before, after):
        if report.calibration_before is None or report.calibration_after is None:
            return None
        means.append(fmean((report.calibration_before, report.calibration_after)))
    return means[1] / means[0] if means[0] else None


def _only(these: Mapping[Key, ComparisonRow], others: Mapping[Key, ComparisonRow]) -> tuple[str, ...]:
    return tuple(
        f"{row.group}, {row.name}{'' if row.is_valid else ' (INVALID)'}"
        for key, row in these.items()
        if key not in others
    )


def _title(report: Report) -> str:
    return f"{report.title}, {report.environment.date}, {report.environment.commit or 'no commit'}"
