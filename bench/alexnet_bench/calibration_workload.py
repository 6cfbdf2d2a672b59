"""The calibration measurement: the same work before and after a run, to see what else happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

SLICE_S = 0.1
SLICES = 5
_SIZE = 512


def calibration_rate(seconds: float = SLICE_S, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Operations a second of a fixed matrix product, two a multiply-add, on as many cores as NumPy takes.

    The median of several slices: what lasts is found, and what passes within a tenth of a second is not.
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
