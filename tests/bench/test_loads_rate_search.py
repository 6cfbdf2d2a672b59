"""The search for the highest rate within a limit, on servers given as formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from alexnet_bench import SearchOptions, Timing
from alexnet_bench.loads.rate_search import Probes, bisect_rate
from alexnet_bench.schema import RateProbe
from alexnet_model.errors import UsageError

OPTIONS = SearchOptions(limit_p99_ms=20)


def found(
    p99_of_rate: Callable[[float], float | None], estimate_per_s: float = 400, **options: float
) -> Probes:
    limits = SearchOptions(limit_p99_ms=20, **options)  # type: ignore[arg-type]

    def probe_at(rate_per_s: float) -> RateProbe:
        p99_ms = p99_of_rate(rate_per_s)
        note = "too few" if p99_ms is None else ""
        return RateProbe(
            rate_per_s=rate_per_s, p99_ms=p99_ms, held=p99_ms is not None and p99_ms <= 20, note=note
        )

    return bisect_rate(probe_at, estimate_per_s, limits)


def queue(capacity_per_s: float) -> Callable[[float], float]:
    """Return the p99 of a queue: 5 ms when it is empty, unbounded at capacity."""
    return lambda rate_per_s: 5 / max(1 - rate_per_s / capacity_per_s, 1e-6)


@pytest.mark.parametrize("capacity_per_s", [80, 200, 390, 410, 800])
def test_the_highest_rate_is_found_to_within_a_few_percent(capacity_per_s: float) -> None:
    result = found(queue(capacity_per_s))
    assert result.held is not None
    assert result.held.rate_per_s == pytest.approx(0.75 * capacity_per_s, rel=0.06)
    assert len(result.probes) <= 8
    assert "stayed within 20 ms" in result.words(20)
    assert "did not" in result.words(20)


def test_if_no_rate_holds_the_lowest_p99_is_reported() -> None:
    result = found(lambda rate_per_s: 30 + rate_per_s / 100)
    assert result.held is None
    assert result.lowest_p99 is not None
    assert result.lowest_p99.rate_per_s == min(probe.rate_per_s for probe in result.probes)
    assert result.words(20).startswith(
        "no rate from 13.24 requests/s on stayed within 20 ms; the best was 13.24"
    )
    assert "p99 30.1 ms" in result.words(20)


def test_rates_whose_p99_would_take_too_long_are_not_tried() -> None:
    result = found(lambda rate_per_s: 30.0, longest_probe_s=8)
    slowest_per_s = 1.2 * 662 / 8
    assert min(probe.rate_per_s for probe in result.probes) == pytest.approx(slowest_per_s)
    assert len(result.probes) == 3


def test_the_number_of_probes_is_bounded_if_every_rate_holds() -> None:
    result = found(lambda rate_per_s: 5.0)
    assert len(result.probes) == 8
    assert "no higher rate was tried" in result.words(20)


def test_a_rate_without_enough_samples_for_p99_does_not_hold() -> None:
    result = found(lambda rate_per_s: None)
    assert result.held is None
    assert result.words(20) == "no rate could be judged: too few"


def test_a_search_that_ends_early_keeps_its_probes() -> None:
    rates: list[float] = []

    def probe_at(rate_per_s: float) -> RateProbe | None:
        rates.append(rate_per_s)
        return None if len(rates) == 3 else RateProbe(rate_per_s=rate_per_s, p99_ms=5, held=True)

    result = bisect_rate(probe_at, 100, OPTIONS)
    assert [probe.rate_per_s for probe in result.probes] == rates[:2]


def test_probes_are_long_enough_for_p99() -> None:
    timing = Timing(burn_in_s=1, seconds=2, repeats=3)
    assert OPTIONS.timing_at(1000, timing) == timing
    slow = OPTIONS.timing_at(40, timing)
    assert slow.repeats == 3
    assert slow.measured_s * 40 == pytest.approx(1.2 * 662)
    assert OPTIONS.timing_at(1, timing).measured_s == pytest.approx(60)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_limits_out_of_range_are_usage_errors(limit: float) -> None:
    with pytest.raises(UsageError, match="limit of p99"):
        SearchOptions(limit_p99_ms=limit)
