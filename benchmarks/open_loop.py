"""Whether the open loop sends when it means to: `taskset -c 0 python benchmarks/open_loop.py`.

Against a server that is played in this process, so that nothing but the generator is measured. In every round
a bare loop, which only sleeps until each of the same moments, runs beside it: how late that one is, is the
machine's doing. Exits 1 where the median p99 of the rounds is 1 ms or more, or a process is saturated.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass

import numpy as np
from tools import run_recipe

from alexnet_bench.figures.intervals import figure_from_repeats
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.figures.verdicts import MOST_CLIENT_CPU, MOST_LATE_MS, MOST_UNANSWERED
from alexnet_bench.loads.answers import expected_from_replies
from alexnet_bench.loads.generators import InProcess
from alexnet_bench.loads.inputs import asked_from_config
from alexnet_bench.loads.plans import OpenLoop, Part, Timing, arrivals
from alexnet_bench.loads.worker_protocol import Target
from alexnet_bench.runs import Log
from alexnet_bench.schema import FigureRow
from alexnet_clients import FakeTransport

MODEL = "alexnet_int8"
SERVICE_S = 0.005


@dataclass(frozen=True)
class Round:
    late_p99_ms: float
    bare_late_p99_ms: float
    sent_per_s: float
    cpu_share: float


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def measure(log: Log, options: argparse.Namespace) -> None:
    answer = np.full((1, 10), 0.1, np.float32)
    transport = FakeTransport(delay_s=SERVICE_S, answer=lambda request: answer)
    asked = asked_from_config(transport.model_config(MODEL, timeout_s=1).result(), 1)
    replies = [
        transport.submit(transport.prepare(request), timeout_s=5).result() for request in asked.requests()
    ]
    generator = InProcess(transport)
    generator.aim(Target(asked=asked, expected=expected_from_replies(asked, replies), timeout_s=5))
    rounds = [one_round(generator, options.rate, options.seconds, seed) for seed in range(options.rounds)]
    transport.close()
    late_ms = [found.late_p99_ms for found in rounds]
    bare_ms = [found.bare_late_p99_ms for found in rounds]
    sent = figure_from_repeats([found.sent_per_s for found in rounds], "requests/s")
    late, bare = (figure_from_repeats(values, "ms") for values in (late_ms, bare_ms))
    cpu = figure_from_repeats([100 * found.cpu_share for found in rounds], "% of a core")
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
    log.notes.append(f"A bare loop that only sleeps until the same moments is late by {bare} at p99.")


def one_round(generator: InProcess, rate_per_s: float, seconds: float, seed: int) -> Round:
    loop = OpenLoop(rate_per_s=rate_per_s)
    timing = Timing(burn_in_s=0.5, seconds=seconds, repeats=1)
    outcome = generator.run(Part(loop=loop, timing=timing, seed=seed))
    assert outcome.late is not None
    late = LatencyHistogram()
    late.add(outcome.late)
    bare = LatencyHistogram()
    bare_timing = Timing(burn_in_s=0, seconds=seconds / 2, repeats=1)
    part = Part(loop=loop, timing=bare_timing, starts_s=time.monotonic(), seed=seed)
    for at_s in arrivals(part, rate_per_s).tolist():
        time.sleep(max(0.0, at_s - time.monotonic()))
        bare.record(1e3 * (time.monotonic() - at_s))
    return Round(
        late_p99_ms=late.percentile_ms(99),
        bare_late_p99_ms=bare.percentile_ms(99),
        sent_per_s=outcome.requests / seconds,
        cpu_share=outcome.cpu_share,
    )


if __name__ == "__main__":
    sys.exit(run_recipe("Open loop against a fake server", options(), measure))
