"""Run all loads of a plan, and report what was measured even if the run ends early.

Every load is run once in each round, so that its repeats are spread over the whole run, as changes of the
machine are. Every other round runs backwards: a machine that slows down steadily favours no load.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

from alexnet_model.errors import ClientError, UsageError
from alexnet_model.progress import Progress, silent

from ..figures.verdicts import gone_reason, interrupted_reason
from ..runs import Log, report_of_run
from ..schema import LeftOut, Report
from .plans import Load, Loop
from .rate_search import ESTIMATE_LOOP, SearchOptions, search_rate
from .results import SERVER_GONE, LoadResult
from .server_bench import MeasuredLoad, ServerBench, ServerReplaced

_STAGE = "seconds of load"
_SEEDS_APART = 1000  # more than there are processes, each of which uses the next seed


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Every model at every batch under every loop; then the search for the highest rate, if there is a limit.

    Raises:
        UsageError: there is no model or no batch, or neither a loop nor a limit.
    """

    models: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    loops: tuple[Loop, ...] = ()
    limit: SearchOptions | None = None

    def __post_init__(self) -> None:
        for name, given in (("models", self.models), ("batches", self.batches)):
            if not given:
                raise UsageError(name, got="none", expected="at least one")
        if not self.loops and self.limit is None:
            raise UsageError("loads", got="none", expected="a concurrency, a rate or a limit")

    @property
    def loads(self) -> tuple[Load, ...]:
        loops = self.loops or (ESTIMATE_LOOP,)
        return tuple(
            Load(model=model, batch=batch, loop=loop)
            for model in self.models
            for batch in self.batches
            for loop in loops
        )


def bench_load(
    plan: LoadPlan,
    bench: ServerBench,
    *,
    title: str,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Measure a server under all loads of a plan.

    Ctrl-C and a server that is gone end the run early; the report has what was measured by then.

    Args:
        plan: The loads, and the limit of a search.
        bench: Measures a load; its timing's repeats are the number of rounds.
        title: The report's title.
        command: The command line that made the report.
        progress: Called a few times a second.

    Raises:
        ClientError: the server cannot be reached or a model is unknown, and nothing was measured.
        UsageError: as `ServerBench.check` does.
    """
    bench.check(plan.loads)

    def measure(log: Log) -> None:
        run = _Run(bench, log, progress)
        run.measure_in_rounds(plan.loads)
        if plan.limit is not None:
            for model in plan.models:
                for batch in plan.batches:
                    run.search(model, batch, plan.limit)

    return report_of_run(measure, title=title, command=command)


@dataclass
class _LoadState:
    """One load, and its result of each round so far."""

    load: Load
    results: list[LoadResult] = field(default_factory=list)
    failed: bool = False


@dataclass(frozen=True)
class _Run:
    bench: ServerBench
    log: Log
    progress: Progress

    def measure_in_rounds(self, loads: tuple[Load, ...]) -> None:
        """Measure as many rounds as the timing has repeats, and log one row a load."""
        states = [_LoadState(load) for load in loads]
        try:
            self._run_rounds(states)
        finally:  # Ctrl-C too leaves the rows
            for state in states:
                self._log_row(state)

    def _run_rounds(self, states: list[_LoadState]) -> None:
        rounds, timing = self.bench.timing.repeats, replace(self.bench.timing, repeats=1)
        total_s = ceil(timing.total_s * len(states) * rounds)
        schedule = [
            (number, state) for number in range(rounds) for state in states[:: -1 if number % 2 else 1]
        ]
        for done, (number, state) in enumerate(schedule):
            if self._has_ended:
                return
            if state.failed:
                continue

            def tick(
                elapsed_s: float, *, done_s: float = done * timing.total_s, load: Load = state.load
            ) -> None:
                self.progress(_STAGE, min(int(done_s + elapsed_s), total_s), total_s, str(load))

            tick(0.0)
            try:
                result = self.bench.run(state.load, timing=timing, seed=number * _SEEDS_APART, tick=tick)
                measured = self.bench.measured(state.load, [result])
            except ClientError as error:
                state.failed = True
                self._leave_out(str(state.load), error)
                continue
            state.results.append(result)
            self._note_end(measured)
        self.progress(_STAGE, total_s, total_s)

    def _log_row(self, state: _LoadState) -> None:
        """Make the row from whole rounds, or from the part of the first that was measured."""
        if state.results:
            whole = [result for result in state.results if not result.interrupted]
            self.log.loads.append(self.bench.measured(state.load, whole or state.results).row)
        elif self._has_ended and not state.failed:
            self._leave_out_after_end(str(state.load))

    def search(self, model: str, batch: int, limit: SearchOptions) -> None:
        """Search the highest rate of a model, and log it with the row at that rate."""
        what = f"{model}, highest rate within {limit.limit_p99_ms:g} ms, batch {batch}"
        try:
            if not self._has_ended and not self._estimate_per_s(model, batch):  # the plan has only open loops
                measured = self.bench.measure(Load(model=model, batch=batch, loop=ESTIMATE_LOOP))
                self.log.loads.append(measured.row)
                self._note_end(measured)
            if self._has_ended:
                self._leave_out_after_end(what)
                return
            estimate_per_s = self._estimate_per_s(model, batch)
            found = search_rate(
                self.bench, model, batch, limit, estimate_per_s=estimate_per_s, progress=self.progress
            )
        except ClientError as error:
            self._leave_out(what, error)
            return
        self.log.held_rates.append(found.record)
        if found.kept is not None:
            self.log.loads.append(found.kept.row)
        if found.last is not None:
            self.log.loads.append(found.last.row)
            self._note_end(found.last)
        if isinstance(found.error, ClientError):
            self._leave_out(f"{what}: the rest of the search", found.error)
        elif found.error is not None:
            raise found.error

    def _estimate_per_s(self, model: str, batch: int) -> float:
        """Requests a second that a closed loop reached; 0 if none was measured."""
        rows = [row for row in self.log.loads if (row.model, row.batch, row.loop) == (model, batch, "closed")]
        return max((row.throughput.value / row.batch for row in rows), default=0.0)

    @property
    def _has_ended(self) -> bool:
        """Any reason against the whole run ends it."""
        return bool(self.log.reasons)

    def _note_end(self, measured: MeasuredLoad) -> None:
        """Log why the run ends with this load, if it does."""
        if measured.result.interrupted:
            self.log.note(interrupted_reason(True))
        elif measured.ends_run:
            self.log.note(gone_reason(measured.row.verdict.reasons[0].found))  # the most serious reason

    def _leave_out(self, what: str, error: ClientError) -> None:
        """Log what could not be measured. A server that is gone or was replaced ends the run."""
        self.log.left_out.append(LeftOut(what=what, why=str(error)))
        if isinstance(error, (*SERVER_GONE, ServerReplaced)):
            self.log.note(gone_reason(str(error)))

    def _leave_out_after_end(self, what: str) -> None:
        """Log what was not started because the run had ended."""
        self.log.left_out.append(LeftOut(what=what, why=self.log.reasons[0].found))
