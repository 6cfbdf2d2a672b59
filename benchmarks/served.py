"""How much of a runtime's throughput its server keeps: `python benchmarks/served.py demo/model_repository`.

INT8 on the embedded server at its best batch and concurrency is compared with INT8 in process at its best
batch, on the same cores, in alternating rounds. Then the processor time of an image is measured,
in process and in each program of the served path. Exits with 1 if the median ratio is below 0.9.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tools import run_recipe

from alexnet_bench import Timing
from alexnet_bench.engine_vs_server import (
    Case,
    ComparedCases,
    ComparisonOptions,
    ServerComparison,
    open_server_comparison,
)
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.runs import Log
from alexnet_cli.screen import Bars
from alexnet_model.manifest import manifest_from_folder
from alexnet_pipeline import unpacked_export
from alexnet_serving import EmbeddedServer

ENOUGH = 0.9
IN_PROCESS = tuple(Case(precision="int8", batch=batch) for batch in (8, 16, 32, 64))
SERVED = tuple(
    Case(precision="int8", batch=batch, concurrency=concurrency)
    for batch, concurrency in ((64, 2), (32, 2), (32, 4), (16, 4), (8, 8), (1, 64))
)
TRIAL = ComparisonOptions(rounds=3, call_seconds=1.0, load_seconds=1.0)
WARM_UP_S = 0.5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each side in a round")
    return parser


def measure(log: Log, options: argparse.Namespace) -> None:
    with ExitStack() as opened:
        folder = opened.enter_context(unpacked_export(options.repository))
        manifest = manifest_from_folder(folder)
        server = opened.enter_context(EmbeddedServer(options.repository))
        bars = opened.enter_context(Bars())
        comparison = opened.enter_context(
            open_server_comparison(manifest, folder, server.grpc_url, precisions=["int8"], progress=bars)
        )
        cases = [case for case in (*IN_PROCESS, *SERVED) if case.batch <= manifest.max_batch]
        trial = comparison.measure(cases, TRIAL, progress=bars, stage="which is best")
        alone, served = (
            best_of(trial, [case for case in cases if (case.concurrency is None) == is_alone])
            for is_alone in (True, False)
        )
        plan = ComparisonOptions(
            rounds=options.rounds, call_seconds=options.seconds, load_seconds=options.seconds, burn_in_s=1.0
        )
        found = comparison.measure([alone, served], plan, progress=bars, stage="alternating rounds")
        costs = (
            cost_in_process(comparison, alone, options.seconds),
            cost_served(comparison, served, options.seconds),
        )
    rates = " / ".join(f"{found.rows[case].throughput.value:,.0f} images/s" for case in (served, alone))
    row = found.ratio(served, alone, at_least=ENOUGH)
    log.figures.append(row.model_copy(update={"of": f"{row.of} ({rates})"}))
    log.notes.append(cost_in_words(costs))


def best_of(found: ComparedCases, cases: Sequence[Case]) -> Case:
    return max(cases, key=lambda case: found.rows[case].throughput.value)


@dataclass(frozen=True)
class Cost:
    """Milliseconds of processor time per image, by the program that spent it."""

    client: float  # or the runtime, in process
    triton: float
    backend: float

    @property
    def total(self) -> float:
        return self.client + self.triton + self.backend


def cost_in_process(comparison: ServerComparison, case: Case, seconds: float) -> Cost:
    engine = comparison.engines[case.precision].engine
    engine.warm_up(case.batch, WARM_UP_S, copies=True)
    before = cpu_s_by_program()
    timed = engine.time_calls(case.batch, seconds, 1)
    histogram = LatencyHistogram()
    histogram.add(timed.histogram.encode("ascii"))
    return cost_since(before, images=histogram.samples * case.batch)


def cost_served(comparison: ServerComparison, case: Case, seconds: float) -> Cost:
    """Count every request of a load without a burn-in; the server is warm from the rounds before."""
    timing = Timing(burn_in_s=0.0, seconds=seconds, repeats=1)
    before = cpu_s_by_program()
    result = comparison.bench.run(case.load, timing=timing)
    return cost_since(before, images=result.requests * case.batch)


def cost_since(before: dict[str, float], *, images: int) -> Cost:
    spent = {name: cpu_s - before.get(name, 0.0) for name, cpu_s in cpu_s_by_program().items()}
    triton, backend = (1e3 * spent.pop(name, 0.0) / images for name in ("tritonserver", "triton_python_b"))
    return Cost(1e3 * sum(spent.values()) / images, triton, backend)


def cpu_s_by_program() -> dict[str, float]:
    """Return the processor time of this process and its descendants, by program; Linux cuts names to 15."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = path.read_text().rpartition(")")
        except OSError:
            continue  # it has ended
        stats[int(path.parent.name)] = head.partition("(")[2], tail.split()
    spent: dict[str, float] = {}
    for pid, (name, fields) in stats.items():
        ancestor = pid
        while ancestor not in (0, os.getpid()):
            ancestor = int(stats[ancestor][1][1]) if ancestor in stats else 0
        if ancestor:
            spent[name] = spent.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return spent


def cost_in_words(costs: Sequence[Cost]) -> str:
    alone, served = costs
    parts = f"backend {served.backend:.3f}, Triton {served.triton:.3f}, client {served.client:.3f}"
    return (
        f"processor time per image: {alone.total:.3f} ms in process, {served.total:.3f} ms served ({parts})"
    )


if __name__ == "__main__":
    sys.exit(run_recipe("INT8 served at its best against in process at its best", options(), measure))
