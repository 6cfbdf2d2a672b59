"""A headline figure: the median of its repeats with a 95% confidence interval.

The interval is Student's t on the logarithms of the repeats: times and rates vary by a factor rather than by
an amount, and at 3 to 10 repeats a bootstrap interval is little more than their range: it covers too seldom.
One repeat has no interval, nor have repeats that are not all positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, variance

from alexnet_model.records import Record

CONFIDENCE = 0.95
_Z = 1.959963984540054  # the 97.5% quantile of the normal distribution
# The 97.5% quantile of Student's t for 1, 2, 3 ... degrees of freedom.
_T = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
)


class Figure(Record):
    """One number with its unit. `low` and `high` are the ends of its interval, None where it has none."""

    value: float
    low: float | None
    high: float | None
    unit: str
    repeats: tuple[float, ...]

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:,.4g} to {self.high:,.4g})"
        return f"{self.value:,.4g} {self.unit}{interval}"


def figure_from_repeats(repeats: Sequence[float], unit: str) -> Figure:
    """Return the median of repeats with its 95% confidence interval.

    The interval is extended to include the median, which may lie outside if one repeat of many is far off.

    Args:
        repeats: The value of each repeat, at least one.
        unit: What the value counts, such as `images/s`.

    Raises:
        ValueError: there is no repeat.
    """
    if not repeats:
        raise ValueError("a figure needs at least one repeat")
    value = float(median(repeats))
    low, high = None, None
    if len(repeats) > 1 and min(repeats) > 0:
        logs = [math.log(repeat) for repeat in repeats]
        half = student_t(len(logs) - 1) * math.sqrt(variance(logs) / len(logs))
        low, high = _around(fmean(logs), half, value)
    return Figure(value=value, low=low, high=high, unit=unit, repeats=tuple(map(float, repeats)))


def ends_of_ratio(before: Figure, after: Figure) -> tuple[float, float]:
    """Return the ends of the 95% confidence interval of after / before: Welch's t on the logarithms.

    Raises:
        ValueError: a figure has less than two repeats, or one that is not positive.
    """
    if min(len(before.repeats), len(after.repeats)) < 2 or min(*before.repeats, *after.repeats) <= 0:
        raise ValueError("the interval of a ratio needs two positive repeats of each figure")
    logs = [[math.log(repeat) for repeat in figure.repeats] for figure in (before, after)]
    squares = [variance(values) / len(values) for values in logs]  # squared standard errors
    total = sum(squares)
    half = 0.0
    if total > 0:
        parts = [square**2 / (len(values) - 1) for square, values in zip(squares, logs, strict=True)]
        half = student_t(total**2 / sum(parts)) * math.sqrt(total)
    return _around(fmean(logs[1]) - fmean(logs[0]), half, after.value / before.value)


def student_t(degrees: float) -> float:
    """Return the 97.5% quantile of Student's t; fractions of a degree of freedom are rounded down."""
    whole = math.floor(degrees + 1e-9)
    if whole < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {degrees:g}")
    if whole <= len(_T):
        return _T[whole - 1]
    # Cornish and Fisher's expansion, exact to four digits here.
    return _Z + (_Z**3 + _Z) / (4 * whole) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * whole**2)


def _around(middle: float, half: float, value: float) -> tuple[float, float]:
    """From logarithms to an interval that includes `value`."""
    return min(math.exp(middle - half), value), max(math.exp(middle + half), value)
