"""Every load once in each round, so that its repeats lie all over the run, as the machine's changes do.

Every other round goes backwards: a machine that slows down steadily favours no load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TypeAlias

from alexnet_model.errors import ClientError
from alexnet_model.progress import Progress

from ..runs import Log
from .generators import Tick
from .load_results import Outcome
from .measuring import ServerBench
from .plans import Loop
from .termination import end_where, is_over, leave_out, leave_out_after_end

Load: TypeAlias = tuple[str, int, Loop]  # model, batch, and how its requests are sent
_STAGE = "seconds of load"
_SEEDS_APART = 1000  # more than there are processes, each of which has the next seed


@dataclass
class _Run:
    """One load, and what came of it in each round."""

    load: Load
    outcomes: list[Outcome] = field(default_factory=list)
    failed: bool = False

    def __str__(self) -> str:
        model, batch, loop = self.load
        return f"{model}, {loop}, batch {batch}"


def measure_in_rounds(loads: Sequence[Load], bench: ServerBench, log: Log, progress: Progress) -> None:
    """As many rounds as the bench's timing has repeats; a row a load, however early it ends."""
    timing = replace(bench.timing, repeats=1)
    runs = [_Run(load) for load in loads]
    turns = [
        (number, run) for number in range(bench.timing.repeats) for run in runs[:: -1 if number % 2 else 1]
    ]
    total_s = ceil(timing.total_s * len(turns))

    def tick_from(done_s: float, run: _Run) -> Tick:
        return lambda elapsed_s: progress(_STAGE, min(int(done_s + elapsed_s), total_s), total_s, str(run))

    try:
        for done, (number, run) in enumerate(turns):
            if is_over(log):
                return
            if run.failed:
                continue
            tick = tick_from(done * timing.total_s, run)
            tick(0.0)
            try:
                model, batch, loop = run.load
                seed = number * _SEEDS_APART
                outcome = bench.run(model, loop, batch, timing=timing, seed=seed, tick=tick)
                measured = bench.measured(model, loop, batch, [outcome])
            except ClientError as error:
                run.failed = True
                leave_out(log, str(run), error)
                continue
            run.outcomes.append(outcome)
            end_where(measured, log)
        progress(_STAGE, total_s, total_s)
    finally:  # Ctrl-C ends in rows too
        for run in runs:
            _log_row(run, bench, log)


def _log_row(run: _Run, bench: ServerBench, log: Log) -> None:
    """Of whole rounds, or of what there is of the first."""
    if not run.outcomes:
        if is_over(log) and not run.failed:
            leave_out_after_end(log, str(run))
        return
    model, batch, loop = run.load
    whole = [outcome for outcome in run.outcomes if not outcome.interrupted]
    log.loads.append(bench.measured(model, loop, batch, whole or run.outcomes).row)
