"""The search among server configurations, on servers given as tables of rates."""

from __future__ import annotations

import pytest

from alexnet_bench import Candidate, TuningOptions
from alexnet_bench.tuning import CandidateResult, search_candidates
from alexnet_model.errors import UsageError

OPTIONS = TuningOptions(limit_p99_ms=50, instances=(2,), queue_delays_us=(500, 2000), max_batches=(16, 64))


def search(
    rates: dict[str, float | None], otherwise: float | None = 100.0
) -> tuple[list[Candidate], int | None, str]:
    """Search on a server that holds `rates[part]` for a candidate whose text contains `part`."""
    tried: list[Candidate] = []

    def holds(candidate: Candidate) -> CandidateResult:
        tried.append(candidate)
        rate = next((rate for part, rate in rates.items() if part in str(candidate)), otherwise)
        return CandidateResult(rate_per_s=rate, p99_ms=None if rate is None else 40.0, words="")

    winner, why = search_candidates(("fp32", "int8"), 64, OPTIONS, holds)
    return tried, winner, why


def test_the_smallest_configuration_wins_without_a_clear_gain() -> None:
    tried, winner, why = search({"fp32": 50.0, "2 instances": 104.0})
    assert winner is not None
    assert tried[winner] == Candidate(precision="int8")
    assert "int8 has the highest rate of the precisions" in why
    assert "instances 2 holds 1.04 times as much: no clear gain" in why
    assert "one instance is best here" in why


def test_one_option_is_changed_at_a_time_and_kept_if_it_helps() -> None:
    tried, winner, why = search({"2000 us": 200.0, "fp32": 50.0, "2 instances": 150.0})
    assert winner is not None
    assert tried[winner] == Candidate(precision="int8", instances=2, queue_delay_us=2000)
    assert "instances 2 holds 1.50 times as much" in why
    assert "one instance" not in why
    # Two precisions, one batch, instances and delays; a gain takes two tries more.
    assert len(tried) == 2 + 1 + 3 + 1 + 3


def test_a_gain_that_a_second_try_does_not_confirm_is_not_kept() -> None:
    rates = iter(
        [50.0, 100.0, 100.0, 120.0, 119.0, 120.0, 100.0, 100.0]
    )  # the second try holds as much with one instance
    tried: list[Candidate] = []

    def holds(candidate: Candidate) -> CandidateResult:
        tried.append(candidate)
        return CandidateResult(rate_per_s=next(rates), p99_ms=40.0, words="")

    winner, why = search_candidates(("fp32", "int8"), 64, OPTIONS, holds)
    assert winner is not None
    assert tried[winner] == Candidate(precision="int8")
    assert "instances 2 held 1.20 times as much, but not in a second try" in why


def test_a_configuration_is_judged_by_the_median_of_its_tries() -> None:
    """A low first try then makes one change look good, not all of them."""
    rates = iter([50.0, 80.0, 120.0, 122.0, 118.0, 130.0, 124.0, 126.0, 125.0, 121.0])
    tried: list[Candidate] = []

    def holds(candidate: Candidate) -> CandidateResult:
        tried.append(candidate)
        return CandidateResult(rate_per_s=next(rates), p99_ms=40.0, words="")

    winner, why = search_candidates(("fp32", "int8"), 64, OPTIONS, holds)
    # fp32, int8 (80), batch 16 and both again (122); instances against 101, and both again (124); delays.
    assert [candidate == Candidate(precision="int8") for candidate in tried] == [
        *(False, True),
        *(False, True, False),
        *(False, True, False),
        *(False, False),
    ]
    assert winner == 3, "the median of 80, 122 and 124"
    assert "queue delay 500 holds 1.02 times as much: no clear gain" in why


def test_the_largest_batch_is_not_tried_twice() -> None:
    tried, _, _ = search({})
    assert [candidate.max_batch for candidate in tried].count(16) == 1


def test_a_change_that_holds_no_rate_is_not_kept() -> None:
    tried, winner, why = search({"2 instances": None})
    assert winner is not None
    assert tried[winner].instances == 1
    assert "instances 2 holds no rate within the limit" in why


def test_a_median_of_no_rate_is_no_error() -> None:
    """The best configuration may hold no rate in most of its tries."""
    rates = iter(
        [50.0, 100.0, 120.0, None, None, 120.0, None, None, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0]
    )

    def holds(candidate: Candidate) -> CandidateResult:
        return CandidateResult(rate_per_s=next(rates), p99_ms=None, words="")

    winner, why = search_candidates(("fp32", "int8"), 64, OPTIONS, holds)
    assert winner is not None
    assert "queue delay 500 held a rate where the other has none, but not in a second try" in why


def test_if_no_rate_meets_the_limit_the_reason_has_the_lowest_p99() -> None:
    tried: list[Candidate] = []

    def holds_none(candidate: Candidate) -> CandidateResult:
        tried.append(candidate)
        return CandidateResult(
            rate_per_s=None, p99_ms=80.0 if candidate.precision == "int8" else 200.0, words=""
        )

    winner, why = search_candidates(("fp32", "int8"), 64, OPTIONS, holds_none)
    assert winner is None
    assert len(tried) == 2, "nothing else is tried if no precision holds the limit"
    assert "no rate stayed within 50 ms; the lowest p99 was 80 ms, of int8" in why


@pytest.mark.parametrize(
    "wrong",
    [{"limit_p99_ms": 0.0}, {"instances": (0,)}, {"max_batches": (0,)}, {"queue_delays_us": (-1,)}],
)
def test_values_out_of_range_are_usage_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TuningOptions(**{"limit_p99_ms": 50.0, **wrong})  # type: ignore[arg-type]


def test_what_does_not_fit_into_the_time_is_named() -> None:
    """The first precision is always tried."""
    tried: list[Candidate] = []

    def holds(candidate: Candidate) -> CandidateResult:
        tried.append(candidate)
        return CandidateResult(rate_per_s=100.0, p99_ms=40.0, words="")

    def search_with(tries: int) -> tuple[int | None, str]:
        tried.clear()
        return search_candidates(
            ("fp32", "int8"), 64, OPTIONS, holds, has_time=lambda more: len(tried) + more <= tries
        )

    winner, why = search_with(0)
    assert (winner, tried) == (0, [Candidate(precision="fp32")])
    assert "no time for int8, max batch 16, instances 2, queue delay 500, queue delay 2000" in why
    _, why = search_with(4)
    assert len(tried) == 4
    assert "no time for queue delay 500, queue delay 2000" in why


def test_a_gain_without_time_for_a_second_try_is_not_kept() -> None:
    tried: list[Candidate] = []

    def holds(candidate: Candidate) -> CandidateResult:
        tried.append(candidate)
        return CandidateResult(rate_per_s=100.0 * candidate.instances, p99_ms=40.0, words="")

    winner, why = search_candidates(
        ("fp32",), 64, OPTIONS, holds, has_time=lambda more: len(tried) + more <= 3
    )
    assert winner is not None
    assert tried[winner].instances == 1
    assert "instances 2 held 2.00 times as much, but there was no time for a second try" in why
