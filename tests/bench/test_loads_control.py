"""The control measurement, by a clock that only moves when it is looked at."""

from __future__ import annotations

from itertools import count

import pytest

from alexnet_bench.control import control_rate


def test_operations_over_seconds() -> None:
    looks = count()
    rate = control_rate(0.3, clock=lambda: 0.125 * next(looks))
    assert rate == pytest.approx(2 * 512**3 / 0.125)


def test_at_least_one_product() -> None:
    looks = count()
    assert control_rate(0.0, clock=lambda: 4.0 * next(looks)) == pytest.approx(2 * 512**3 / 4)
