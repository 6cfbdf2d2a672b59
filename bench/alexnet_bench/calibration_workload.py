"""The calibration workload: the same work before and after a run shows whether the machine was busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

SLICE_S = 0.1
SLICES = 5
_SIZE = 512


def calibration_rate(seconds: float = SLICE_S, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the operations per second of a fixed matrix product; a multiply-add is two.

    It uses as many cores as NumPy does. The median of several slices shows a lasting load; a disturbance of a
    tenth of a second does not count.

    Args:
        seconds: The length of one slice.
        clock: Returns the time in seconds.
    """
    matrix = np.random.default_rng(0).random((_SIZE, _SIZE), dtype=np.float32)
    product = np.empty_like(matrix)
    np.matmul(matrix, matrix, out=product)  # the first one starts NumPy's threads

    def rate() -> float:
        products = 0
        started = now = clock()
        while not products or now - started < seconds:
            np.matmul(matrix, matrix, out=product)
            products += 1
            now = clock()
        return products * 2 * _SIZE**3 / (now - started)

    return median(rate() for _ in range(SLICES))
