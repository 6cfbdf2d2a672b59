"""How much of a runtime's speed its server keeps: `python benchmarks/served.py demo/model_repository`.

INT8 at its best batch in process against the embedded server at its best batch and requests in flight, on the
same cores, in turn. Then where the rest goes: processor time an image, in process and in each part of the
served way. Exits 1 where the median ratio is below 0.9.
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

from alexnet_bench.figures.intervals import figure_from_repeats
from alexnet_bench.lanes import InProcessLane, Lane, ServedLane, pool_of_images
from alexnet_bench.measuring import LoadedModel, check_same_answers
from alexnet_bench.records import Case
from alexnet_bench.runs import Log
from alexnet_bench.schema import FigureRow
from alexnet_bench.side_by_side import Plan, SideBySide, side_by_side
from alexnet_bench.unpacking import unpacked_export
from alexnet_cli.screen import Bars
from alexnet_clients import Client, ServerUrl, transport_from_url
from alexnet_export import runner_from_artifact
from alexnet_model.manifest import manifest_from_folder
from alexnet_serving import EmbeddedServer

ENOUGH = 0.9
IN_PROCESS = (8, 16, 32, 64)
SERVED = ((64, 2), (32, 2), (32, 4), (16, 4), (8, 8), (1, 64))  # batch, requests in flight
TRYING = Plan(rounds=3, slice_s=1.0)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each side, a round")
    return parser


def measure(log: Log, options: argparse.Namespace) -> None:
    with ExitStack() as opened:
        folder = opened.enter_context(unpacked_export(options.repository))
        manifest = manifest_from_folder(folder)
        (artifact,) = (artifact for artifact in manifest.accepted if artifact.precision == "int8")
        runner = opened.enter_context(runner_from_artifact(artifact, folder))
        server = opened.enter_context(EmbeddedServer(options.repository))
        bars = opened.enter_context(Bars())
        contract = manifest.contract
        transport = transport_from_url(ServerUrl.parse(server.grpc_url))
        client = opened.enter_context(Client(server.grpc_url, contract=contract, transport=transport))
        model = LoadedModel("int8", manifest.max_batch, runner, client.model("alexnet_int8"))
        images = pool_of_images(contract, 4 * manifest.max_batch)
        check_same_answers(model, client, images[:2])

        def lane(case: Case) -> Lane:
            if case.through == "in process":
                return InProcessLane(case, runner, images)
            return ServedLane(case, transport, "alexnet_int8", images, contract=contract)

        here = [model.in_process(batch) for batch in IN_PROCESS]
        there = [model.through_server(batch, in_flight) for batch, in_flight in SERVED]
        tried = side_by_side(
            [lane(case) for case in (*here, *there)], TRYING, progress=bars, stage="which is best"
        )
        best = best_of(tried, there), best_of(tried, here)
        plan = Plan(rounds=options.rounds, slice_s=options.seconds, burn_in_s=1.0)
        found = side_by_side([lane(case) for case in best], plan, progress=bars, stage="side by side")
        costs = [cost_of(lane(case), options.seconds) for case in best]
    log.figures.append(ratio_of(found, *best))
    log.notes.append(cost_in_words(costs))


def best_of(found: SideBySide, cases: Sequence[Case]) -> Case:
    rates = {row.case: row.throughput_per_s for row in found.rows()}
    return max(cases, key=lambda case: rates[case])


@dataclass(frozen=True)
class Cost:
    """Milliseconds of processor time an image, by what spent it."""

    client: float  # or the runtime, in process
    triton: float
    backend: float

    @property
    def total(self) -> float:
        return self.client + self.triton + self.backend


def cost_of(lane: Lane, seconds: float) -> Cost:
    lane.run(0.5)
    before = cpu_s_by_program()
    images = lane.run(seconds).images
    spent = {name: 1e3 * (cpu_s - before.get(name, 0.0)) for name, cpu_s in cpu_s_by_program().items()}
    # Nobody else here works: what is not one of Triton's two programs is this process.
    triton, backend = (spent.get(name, 0.0) for name in ("tritonserver", "triton_python_b"))
    return Cost(spent[""] / images, triton / images, backend / images)


def cpu_s_by_program() -> dict[str, float]:
    """Of this process under an empty name, and of all that it started by the name that Linux cuts to 15."""
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
            program = "" if pid == os.getpid() else name
            spent[program] = spent.get(program, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return spent


def ratio_of(found: SideBySide, served: Case, alone: Case) -> FigureRow:
    """The ratio of each round, in which one ran right after the other."""
    rates = {row.case: row.throughput_per_s for row in found.rows()}
    pairs = zip(found.slices[served], found.slices[alone], strict=True)
    ratio = figure_from_repeats(
        [above.throughput_per_s / below.throughput_per_s for above, below in pairs], "times"
    )
    sides = " / ".join(f"{rates[case]:,.0f} images/s ({case}, {case.runtime})" for case in (served, alone))
    return FigureRow(name="served / in process", of=sides, figure=ratio, at_least=ENOUGH, better="higher")


def cost_in_words(costs: Sequence[Cost]) -> str:
    served, alone = costs
    parts = f"backend {served.backend:.3f}, Triton {served.triton:.3f}, client {served.client:.3f}"
    return (
        f"Processor time per image: {alone.total:.3f} ms in process, {served.total:.3f} ms served ({parts})"
    )


if __name__ == "__main__":
    sys.exit(run_recipe("INT8 served at its best against in process at its best", options(), measure))
