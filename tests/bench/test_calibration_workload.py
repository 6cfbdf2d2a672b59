"""The calibration workload, with a clock that advances at every reading."""

from __future__ import annotations

import os
import threading
from itertools import count

import pytest

from alexnet_bench import calibration_workload
from alexnet_bench.calibration_workload import calibration_rate

ONE = (min(os.sched_getaffinity(0)),)


def test_operations_over_seconds() -> None:
    looks = count()
    rate = calibration_rate(0.3, clock=lambda: 0.125 * next(looks), cores=ONE)
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
    assert calibration_rate(0.0, clock=clock, cores=ONE) == pytest.approx(2 * 512**3)


def test_at_least_one_product() -> None:
    looks = count()
    assert calibration_rate(0.0, clock=lambda: 4.0 * next(looks), cores=ONE) == pytest.approx(2 * 512**3 / 4)


def test_each_core_computes_on_its_own_and_their_rates_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[tuple[int, set[int]]] = []
    together = threading.Barrier(3)

    def rate_of_core(*_: object) -> float:
        together.wait(60)  # breaks if they run one after another
        return 7e9

    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, cores: pinned.append((threading.get_ident(), cores))
    )
    monkeypatch.setattr(calibration_workload, "_rate_of_core", rate_of_core)
    assert calibration_rate(cores=(0, 1, 5)) == pytest.approx(21e9)
    assert sorted(min(cores) for _, cores in pinned) == [0, 1, 5]
    assert len({thread for thread, _ in pinned}) == 3


def test_the_process_may_use_all_its_cores_afterwards() -> None:
    before = os.sched_getaffinity(0)
    assert calibration_rate(0.01) > 0
    assert os.sched_getaffinity(0) == before
