"""What an experiment gives: numbers (JSON), and a section of the page that is made from them alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

from matplotlib.figure import Figure
from scipy.stats import t

Values = dict[str, Any]  # the JSON object of one experiment
Verdict = Literal["Holds", "Holds only in part", "Not shown", "Does not hold"]


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Args:
        title: the heading.
        claim: what the lecture says, one sentence.
        explanation: why it could be so, and how it is measured here.
        verdict: whether the claim holds.
        reason: the figures that decide it.
        table: Markdown, or empty.
        plot: draws the plot. None: no plot.
        plot_text: what the plot shows, for readers who do not see it.
    """

    title: str
    claim: str
    explanation: str
    verdict: Verdict
    reason: str
    table: str = ""
    plot: Callable[[], Figure] | None = None
    plot_text: str = ""


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Args:
        name: for `--only`; also the name of its files.
        measure: runs it, in a smaller size if its argument is True, and returns values for JSON.
        section: makes the section from these values.
    """

    name: str
    measure: Callable[[bool], Values]
    section: Callable[[Values], Section]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95% interval by Student's t, as a text in percent with `str`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.mean:.1%}"
        return f"{self.mean:.1%} ({self.low:.0%} to {self.high:.0%})"


def share_interval(values: Sequence[float]) -> Interval:
    """Return the interval of shares 0..1, cut at 0 and 1."""
    found = interval(values)
    return Interval(found.mean, max(0.0, found.low), min(1.0, found.high))


def interval(values: Sequence[float]) -> Interval:
    """Return the interval of a mean. One value alone is its own interval."""
    middle = mean(values)
    half = 0.0
    if len(values) > 1:
        half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Interval(middle, middle - half, middle + half)


def gain(better: Sequence[float], worse: Sequence[float]) -> Interval:
    """Return the interval of the differences, seed by seed. A single value, without chance, is used for all."""
    if 1 in (len(better), len(worse)):
        count = max(len(better), len(worse))
        better, worse = [*better] * (count // len(better)), [*worse] * (count // len(worse))
    return interval([a - b for a, b in zip(better, worse, strict=True)])


def verdict_of(gains: Sequence[Interval]) -> Verdict:
    """Judge a claim that predicts a gain above 0 in each of some comparisons.

    Returns:
        "Holds": all intervals are above 0. "Holds only in part": some are. "Does not hold": all are below 0.
        "Not shown": otherwise; the seeds differ too much, or the gain is too small, to tell.
    """
    above = [found.low > 0 for found in gains]
    if all(above):
        return "Holds"
    if any(above):
        return "Holds only in part"
    return "Does not hold" if all(found.high < 0 for found in gains) else "Not shown"


def points(found: Interval) -> str:
    """Return a difference of shares as a text such as `+3.1 points (1.0 to 5.2)`."""
    return f"{100 * found.mean:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; columns that start with a digit in their first row are aligned to the right."""
    marks = ["--:" if cell[:1] in "+-0123456789" and index else "---" for index, cell in enumerate(rows[0])]
    lines = [head, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
