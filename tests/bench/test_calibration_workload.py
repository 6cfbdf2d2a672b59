"""The calibration workload, with a clock that advances at every reading."""

from __future__ import annotations

from itertools import count

import pytest

from alexnet_bench.calibration_workload import calibration_rate


def test_operations_over_seconds() -> None:
    looks = count()
    rate = calibration_rate(0.3, clock=lambda: 0.125 * next(looks))
    assert rate == pytest.approx(2 * 512**3 / 0.125)


def test_a_slice_that_was_disturbed_does_not_count() -> None:
    spans = iter([1.0, 1.0, 40.0, 1.0, 1.0])
    now = [0.0]

    def clock() -> float:
        started.append(now[0])
        if len(started) % 2 == 0:  # the end of the one product of a slice
            now[0] += next(spans)
        return now[0]

    started: list[float] = []
    assert calibration_rate(0.0, clock=clock) == pytest.approx(2 * 512**3)


def test_at_least_one_product() -> None:
    looks = count()
    assert calibration_rate(0.0, clock=lambda: 4.0 * next(looks)) == pytest.approx(2 * 512**3 / 4)
