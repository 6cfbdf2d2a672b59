"""Intervals of figures, and the sample sizes that percentiles need."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

from alexnet_bench.figures.intervals import ends_of_ratio, figure_from_repeats, student_t
from alexnet_bench.figures.percentiles import NEEDED, LatencyHistogram


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_the_interval_covers_the_true_value_in_95_percent_of_simulated_runs(repeats: int) -> None:
    random = np.random.default_rng(0)
    runs = 100 * random.lognormal(sigma=0.1, size=(4000, repeats))
    figures = [figure_from_repeats(run.tolist(), "images/s") for run in runs]
    covered = np.mean([(figure.low or 0) <= 100 <= (figure.high or 0) for figure in figures])
    assert 0.94 <= covered <= 0.97


def test_the_interval_of_a_ratio_covers_the_true_ratio_in_95_percent_of_simulated_runs() -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(3000):
        before = figure_from_repeats((100 * random.lognormal(sigma=0.02, size=3)).tolist(), "ms")
        after = figure_from_repeats((120 * random.lognormal(sigma=0.1, size=5)).tolist(), "ms")
        low, high = ends_of_ratio(before, after)
        covered.append(low <= 1.2 <= high)
    assert 0.94 <= np.mean(covered) <= 0.98


def test_known_interval() -> None:
    figure = figure_from_repeats([90.0, 100.0, 110.0], "images/s")
    assert figure.value == 100
    # exp(mean(log) +- 4.3027 * stdev(log) / sqrt(3)), computed independently
    assert figure.low == pytest.approx(77.67, abs=0.01)
    assert figure.high == pytest.approx(127.89, abs=0.01)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (4, 2.7764),
        (9, 2.2622),
        (9.9, 2.2622),
        (25, 2.0595),
        (60, 2.0003),
        (1e6, 1.96),
    ],
)
def test_quantiles_of_student_t(degrees: float, quantile: float) -> None:
    assert student_t(degrees) == pytest.approx(quantile, abs=2e-4)


@pytest.mark.parametrize("repeats", [[100.0], [0.0, 0.0, 0.0], [-1.0, 2.0]])
def test_one_repeat_or_repeats_that_are_not_positive_have_no_interval(repeats: list[float]) -> None:
    figure = figure_from_repeats(repeats, "images/s")
    assert (figure.low, figure.high) == (None, None)
    assert str(figure) == f"{figure.value:.4g} images/s"
    with pytest.raises(ValueError, match="two positive repeats"):
        ends_of_ratio(figure, figure)


def test_equal_repeats_have_an_interval_of_no_width() -> None:
    figure = figure_from_repeats([5.0] * 4, "ms")
    assert (figure.low, figure.high) == pytest.approx((5, 5))
    assert ends_of_ratio(figure, figure) == pytest.approx((1, 1))


def test_the_interval_includes_the_median_despite_outliers() -> None:
    figure = figure_from_repeats([*[100.0] * 20, 1.0, 1.0, 1.0], "images/s")
    assert figure.high is not None
    assert figure.high >= figure.value == 100


def test_no_repeat_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one repeat"):
        figure_from_repeats([], "ms")


@pytest.mark.parametrize(("name", "needed"), [(name, n) for name, n in NEEDED.items() if name != "p50"])
def test_a_percentile_needs_two_samples_beyond_it_with_99_percent_confidence(name: str, needed: int) -> None:
    share = float(name[1:]) / 100
    found = next(n for n in count(2) if share**n + n * (1 - share) * share ** (n - 1) <= 0.01)
    assert needed == found


def test_the_mean_is_that_of_hdrhistogram() -> None:
    """Over the whole range of a histogram, whose counts are of wider and wider ranges of values."""
    histogram = LatencyHistogram()
    histogram.record_all((10 ** np.random.default_rng(0).uniform(-4, 7, 2000)).tolist())
    twice = LatencyHistogram()
    for _ in range(2):
        twice.add(histogram.encoded())
    expected = histogram._histogram.get_mean_value() / 1e3
    assert histogram.latencies().mean_ms == twice.latencies().mean_ms == expected
