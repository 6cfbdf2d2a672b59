"""From figures to places on an axis, and the round figures that an axis names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# Beyond this ratio a linear axis hides its smaller half.
_MOST_ON_A_LINE = 25.0
_MOST_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """`ticks` are in the figures' own unit."""

    low: float
    high: float
    is_log: bool
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one; what lies outside stops at the end."""
        if self.is_log:
            low, high = math.log(self.low), math.log(self.high)
            place = (math.log(max(value, self.low)) - low) / (high - low)
        else:
            place = (value - self.low) / (self.high - self.low)
        return min(max(place, 0.0), 1.0)


def scale_for(values: Iterable[float]) -> Scale:
    """From zero where that shows all of them, logarithmic where it would not. Ends on round figures."""
    found = [value for value in values if value > 0] or [1.0]
    low, high = min(found), max(found)
    return _log_scale(low, high) if high / low > _MOST_ON_A_LINE else linear_scale(high)


def linear_scale(high: float) -> Scale:
    """From zero to at least `high`."""
    step = next(size for size in _round_figures(high / _MOST_TICKS) if size * _MOST_TICKS >= high)
    count = max(math.ceil(high / step - 1e-9), 1)
    return Scale(0.0, count * step, False, tuple(index * step for index in range(count + 1)))


def _log_scale(low: float, high: float) -> Scale:
    """From round figure to round figure; the ticks are 1, 2, 5, or powers of ten where those are too many."""
    figures = list(_round_figures(low / 10))
    start = max(figure for figure in figures if figure <= low)
    end = min(figure for figure in figures if figure >= high)
    ticks = [figure for figure in figures if start <= figure <= end]
    tens = [tick for tick in ticks if math.isclose(math.log10(tick) % 1, 0, abs_tol=1e-9)]
    return Scale(start, end, True, tuple(tens if len(ticks) > _MOST_TICKS + 2 and len(tens) > 1 else ticks))


def _round_figures(low: float) -> list[float]:
    """1, 2 and 5 times the powers of ten, from the one of `low` on through 15 decades."""
    first = math.floor(math.log10(low))
    return [float(f"{factor}e{power}") for power in range(first, first + 16) for factor in (1, 2, 5)]


def tick_text(value: float) -> str:
    """A tick's name: 15k, 1,500, 200, 0.05."""
    if value < 1e4:
        return f"{value:,g}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
