"""Check that the open loop sends at the planned times: `taskset -c 0 python benchmarks/open_loop.py`.

The server is a fake in this process, so that only the generator is measured. In every round a bare loop,
which only sleeps until each planned time, shows how late the machine itself is. Exits 1 if the median p99 of
the send delays is above 1 ms, if too few requests are sent, or if a process is saturated.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np
from tools import run_recipe

from alexnet_bench import InProcessGenerator, Load, OpenLoop, ServerBench, Timing
from alexnet_bench.figures.intervals import figure_from_repeats
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.figures.verdicts import MOST_CLIENT_CPU, MOST_LATE_MS, MOST_UNANSWERED
from alexnet_bench.loads.plans import Segment
from alexnet_bench.runs import Log
from alexnet_bench.schema import FigureRow
from alexnet_clients import FakeTransport, ServerUrl

MODEL = "alexnet_int8"
SERVICE_S = 0.005


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def measure(log: Log, options: argparse.Namespace) -> None:
    probabilities = np.full((1, 10), 0.1, np.float32)
    transport = FakeTransport(delay_s=SERVICE_S, predict=lambda request: probabilities)
    url = ServerUrl.parse("grpc://127.0.0.1:8001")  # the fake server's name in messages
    bench = ServerBench(transport, url, InProcessGenerator(transport), timeout_s=5)
    load = Load(model=MODEL, loop=OpenLoop(rate_per_s=options.rate))
    timing = Timing(burn_in_s=0.5, seconds=options.seconds, repeats=1)
    results, bare_ms = [], []
    for seed in range(options.rounds):
        results.append(bench.run(load, timing=timing, seed=seed))
        bare_ms.append(bare_loop_p99_ms(options.rate, options.seconds / 2, seed))
    transport.close()
    sent = figure_from_repeats([result.requests / options.seconds for result in results], "requests/s")
    late = figure_from_repeats([result.send_delay_p99_ms() or 0.0 for result in results], "ms")
    bare = figure_from_repeats(bare_ms, "ms")
    cpu = figure_from_repeats([100 * result.cpu_share for result in results], "% of a core")
    cores = len(os.sched_getaffinity(0))
    of = f"one generator and the fake server, on {cores} core{'s' if cores > 1 else ''}"
    least, most = ((1 + sign * MOST_UNANSWERED) * options.rate for sign in (-1, 1))
    log.figures += [
        FigureRow(name="requests sent", of=of, figure=sent, at_least=least, at_most=most),
        FigureRow(name="late at p99", of=of, figure=late, at_most=MOST_LATE_MS, better="lower"),
        FigureRow(
            name="processor time",
            of=of,
            figure=cpu,
            at_most=100 * MOST_CLIENT_CPU,
            every_repeat=True,
            better="lower",
        ),
    ]
    log.notes.append(f"A bare loop that only sleeps until each planned time is late by {bare} at p99.")


def bare_loop_p99_ms(rate_per_s: float, seconds: float, seed: int) -> float:
    """Sleep until each planned time of an open loop, and return the p99 of the delays."""
    timing = Timing(burn_in_s=0, seconds=seconds, repeats=1)
    loop = OpenLoop(rate_per_s=rate_per_s)
    segment = Segment(loop=loop, timing=timing, starts_s=time.monotonic(), seed=seed)
    delays = LatencyHistogram()
    for planned_s in segment.send_times(rate_per_s).tolist():
        time.sleep(max(0.0, planned_s - time.monotonic()))
        delays.record(1e3 * (time.monotonic() - planned_s))
    return delays.percentile_ms(99)


if __name__ == "__main__":
    sys.exit(run_recipe("Open loop against a fake server", options(), measure))
