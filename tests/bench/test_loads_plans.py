"""Descriptions of loads: their bounds, their split among processes, and send times."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_bench import ClosedLoop, OpenLoop, Timing
from alexnet_bench.loads.plans import Segment, loops_for_processes
from alexnet_model.errors import UsageError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClosedLoop(concurrency=0), "concurrency: got 0"),
        (lambda: ClosedLoop(concurrency=-4), "concurrency: got -4"),
        (lambda: ClosedLoop(concurrency=10_001), "concurrency: got 10,001, expected 1 to 10,000"),
        (lambda: OpenLoop(rate_per_s=1e7), "rate: got 1e\\+07 requests/s, expected more than 0, to 100,000"),
        (lambda: Timing(seconds=float("inf")), "seconds: got inf, expected a finite number above 0"),
        (lambda: OpenLoop(rate_per_s=0), "rate: got 0 requests/s"),
        (lambda: OpenLoop(rate_per_s=-10), "rate: got -10"),
        (lambda: OpenLoop(rate_per_s=float("inf")), "rate: got inf"),
        (lambda: OpenLoop(rate_per_s=float("nan")), "rate: got nan"),
        (lambda: Timing(seconds=0), "seconds: got 0"),
        (lambda: Timing(seconds=-1), "seconds: got -1"),
        (lambda: Timing(repeats=0), "repeats: got 0"),
        (lambda: Timing(burn_in_s=-1), "burn-in: got -1"),
    ],
)
def test_values_out_of_range_are_usage_errors(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(UsageError, match=words):
        make()


def test_processes_share_a_closed_loop_and_none_is_idle() -> None:
    shares = loops_for_processes(ClosedLoop(concurrency=10), 4)
    assert [share.concurrency for share in shares if isinstance(share, ClosedLoop)] == [3, 3, 2, 2]
    assert loops_for_processes(ClosedLoop(concurrency=1), 4) == (ClosedLoop(concurrency=1),)


def test_processes_share_an_open_loop_evenly() -> None:
    assert loops_for_processes(OpenLoop(rate_per_s=100), 4) == (OpenLoop(rate_per_s=25),) * 4


def test_send_times_are_a_poisson_process_from_start_to_end() -> None:
    segment = Segment(
        loop=OpenLoop(rate_per_s=500), timing=Timing(burn_in_s=1, seconds=10, repeats=4), starts_s=100.0
    )
    times_s = segment.send_times(500)
    assert times_s[0] > 100
    assert times_s[-1] < 141
    assert times_s[-1] > 140.9
    gaps_s = np.diff(times_s)
    assert (gaps_s > 0).all()
    assert len(times_s) == pytest.approx(41 * 500, abs=4 * np.sqrt(41 * 500))
    assert gaps_s.mean() == pytest.approx(1 / 500, rel=0.05)
    assert gaps_s.std() == pytest.approx(1 / 500, rel=0.05)  # an exponential's deviation is its mean


def test_send_times_depend_on_the_seed_alone() -> None:
    timing = Timing(burn_in_s=0, seconds=1, repeats=1)
    first, again, other = (
        Segment(loop=OpenLoop(rate_per_s=50), timing=timing, seed=seed).send_times(50) for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist()
    assert first[0] != other[0]


def test_a_rate_may_be_too_low_for_any_request() -> None:
    segment = Segment(loop=OpenLoop(rate_per_s=1e-6), timing=Timing(burn_in_s=0, seconds=1, repeats=1))
    assert segment.send_times(1e-6).tolist() == []
