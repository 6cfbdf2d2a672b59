"""The calibration workload: the same work before and after a run shows whether the machine was busy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from threading import Barrier

import numpy as np

from alexnet_model.extras import needs

SLICE_S = 0.1
SLICES = 5
_SIZE = 512


def calibration_rate(
    seconds: float = SLICE_S,
    *,
    clock: Callable[[], float] = time.perf_counter,
    cores: Sequence[int] | None = None,
) -> float:
    """Return the operations per second of a fixed matrix product; a multiply-add is two.

    Every core computes products of its own, in a thread that is pinned to it, and the rates are added up. A
    product of this size that is divided among many cores takes as long as its slowest thread, which varies
    from run to run on an idle machine. The median of several slices shows a lasting load; a disturbance of a
    tenth of a second does not count.

    Args:
        seconds: The length of one slice.
        clock: Returns the time in seconds.
        cores: Numbers of the cores. None: all that this process may use.

    Raises:
        MissingExtra: threadpoolctl is not installed.
    """
    with needs("bench"):
        from threadpoolctl import threadpool_limits
    chosen = sorted(os.sched_getaffinity(0)) if cores is None else cores
    ready = Barrier(len(chosen))

    def rate_of(core: int) -> float:
        try:
            os.sched_setaffinity(0, {core})  # of this thread alone
            return _rate_of_core(seconds, clock, ready)
        except BaseException:
            ready.abort()  # otherwise the other threads would wait for this one
            raise

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(len(chosen)) as threads:
        return sum(threads.map(rate_of, chosen))


def _rate_of_core(seconds: float, clock: Callable[[], float], ready: Barrier) -> float:
    matrix = np.random.default_rng(0).random((_SIZE, _SIZE), dtype=np.float32)
    product = np.empty_like(matrix)
    np.matmul(matrix, matrix, out=product)  # touches the memory, and wakes the core

    def rate() -> float:
        products = 0
        started = now = clock()
        while not products or now - started < seconds:
            np.matmul(matrix, matrix, out=product)  # other threads compute at the same time
            products += 1
            now = clock()
        return products * 2 * _SIZE**3 / (now - started)

    ready.wait()
    return median(rate() for _ in range(SLICES))
