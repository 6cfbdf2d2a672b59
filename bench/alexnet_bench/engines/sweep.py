"""Time every engine at every batch, in alternating order, then judge each by the export's gate.

In each repeat every engine is timed once at each batch; every other repeat goes backwards. A machine that
slows down steadily then favours no engine, and the repeats of a row are spread over the whole run, so that
its interval includes the machine's changes. Between repeats the caller may measure something else. An engine
that fails affects only itself, and keeps the batches that it has done.

An engine that is measured with and without copies is opened and loaded once. All engines start at the same
time, since importing libraries takes longer than measuring, and are then loaded one after another.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from alexnet_model.errors import AlexnetError, UsageError
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.progress import Progress, silent

from ..figures.percentiles import NEEDED
from ..schema import LeftOut
from .specs import EngineSpec, GateResult, TimedCalls


class OpenEngine(Protocol):
    """The part of a `TimedEngine` that a sweep uses."""

    def load(self) -> float: ...

    def warm_up(self, batch: int, seconds: float, copies: bool) -> float: ...

    def time_calls(self, batch: int, seconds: float, at_least: int) -> TimedCalls: ...

    def judge(self, export: Path) -> GateResult: ...

    def describe(self) -> RuntimeInfo: ...


class StartingEngine(OpenEngine, Protocol):
    """An engine in a process, such as an `EngineProcess`, which has to start before it can be loaded."""

    def wait_until_started(self) -> None: ...


# Called with an engine and its largest batch.
OpenEngineOf = Callable[[EngineSpec, int], AbstractContextManager[StartingEngine]]


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep measures.

    Attributes:
        batches: Images a call.
        seconds: Length of one repeat of an engine at a batch; longer if fewer calls fit than a median needs.
        repeats: How often each engine is timed at each batch.
        burn_in_s: Calls before each repeat that are not counted.
        judged_by: Folder of the export whose gate judges every engine afterwards; None for no judging.

    Raises:
        UsageError: a value is out of range.
    """

    batches: tuple[int, ...]
    seconds: float = 0.5
    repeats: int = 5
    burn_in_s: float = 0.2
    judged_by: Path | None = None

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1 or len(set(self.batches)) < len(self.batches):
            got = ",".join(map(str, self.batches)) or "none"
            raise UsageError("batches", got=got, expected="at least one, each of 1 or more and named once")
        if self.repeats < 1:
            raise UsageError("repeats", got=str(self.repeats), expected="at least 1")
        if not 0 < self.seconds < math.inf:
            raise UsageError("seconds", got=f"{self.seconds:g}", expected="a finite number above 0")
        if not 0 <= self.burn_in_s < math.inf:
            raise UsageError("burn-in", got=f"{self.burn_in_s:g}", expected="a finite number of 0 or more")

    @property
    def calls(self) -> int:
        """The fewest calls in a repeat: all repeats together have enough for a median."""
        return math.ceil(NEEDED["p50"] / self.repeats)


def doubling_batches(largest: int) -> tuple[int, ...]:
    """Return 1, 2, 4 ... and the largest."""
    return (*(2**n for n in range(largest.bit_length()) if 2**n < largest), largest)


@dataclass
class BatchRun:
    """One engine at one batch.

    Attributes:
        batch: Images a call.
        first_call_ms: Duration of the first call at this batch.
        repeats: Its timed calls, one item a repeat.
        failure: Why there are no more repeats, if the engine failed; else empty.
    """

    batch: int
    first_call_ms: float
    repeats: list[TimedCalls] = field(default_factory=list)
    failure: str = ""


@dataclass
class SweptEngine:
    """One engine in a sweep, and its results so far.

    After a failure at a batch it is not measured at that batch or a larger one again, as memory may have run
    out. After a second failure it is not measured at all.

    Attributes:
        spec: Which engine.
        engine: The opened engine, shared with the same engine with copies.
        load_ms: Duration of loading.
        runs: Results by batch.
        runtime: What the engine reports of itself; None if it ended before.
        gate_result: The gate's decision on it; None if there is none.
        not_judged_because: Why there is none.
    """

    spec: EngineSpec
    engine: OpenEngine
    load_ms: float
    runs: dict[int, BatchRun] = field(default_factory=dict)
    runtime: RuntimeInfo | None = None
    gate_result: GateResult | None = None
    not_judged_because: str = "the run was stopped before"
    is_up: bool = True
    fails_from: int | None = None

    def takes(self, batch: int) -> bool:
        """Whether it is measured at a batch."""
        largest = self.spec.max_batch if self.fails_from is None else self.fails_from - 1
        return self.is_up and batch <= largest

    def time_calls(self, batch: int, plan: SweepPlan) -> None:
        """Warm up and add one repeat at a batch."""
        first_call_ms = self.engine.warm_up(batch, plan.burn_in_s, self.spec.copies)
        timed = self.engine.time_calls(batch, plan.seconds, plan.calls)
        self.runs.setdefault(batch, BatchRun(batch, first_call_ms)).repeats.append(timed)

    def fail(self, batch: int, why: str) -> None:
        """Record its first or second failure."""
        if self.fails_from is None:
            self.fails_from = batch
            self.runs.pop(batch, None)  # its earlier repeats may be of an engine that was already failing
        else:
            self.is_up = False
            self.not_judged_because = f"it had failed before ({why})"
        for run in self.runs.values():
            if not self.takes(run.batch):
                run.failure = run.failure or why


@dataclass
class Sweep:
    """What was measured by a plan, also if it was interrupted."""

    plan: SweepPlan
    engines: list[SweptEngine] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    is_interrupted: bool = False


def run_sweep(
    specs: Sequence[EngineSpec],
    plan: SweepPlan,
    open_engine: OpenEngineOf,
    progress: Progress = silent,
    *,
    after_repeat: Callable[[], None] = lambda: None,
) -> Sweep:
    """Load all engines, time each at every batch that it takes, and judge them.

    Args:
        specs: The engines.
        plan: What to measure.
        open_engine: Opens an engine for batches up to a largest one, such as `EngineProcess`.
        progress: Called as the sweep proceeds.
        after_repeat: Called after each repeat, while all engines are idle.

    Returns:
        The results. Ctrl-C ends the sweep early, and keeps what was measured.
    """
    sweep = Sweep(plan)
    with ExitStack() as opened:
        try:
            _load(specs, sweep, open_engine, opened, progress)
            _measure(sweep, after_repeat, progress)
            if plan.judged_by is not None:
                _judge(sweep, plan.judged_by, progress)
        except KeyboardInterrupt:
            sweep.is_interrupted = True
        for one in sweep.engines:
            if one.runs:
                with contextlib.suppress(AlexnetError, OSError):
                    one.runtime = one.engine.describe()
    return sweep


def _load(
    specs: Sequence[EngineSpec],
    sweep: Sweep,
    open_engine: OpenEngineOf,
    opened: ExitStack,
    progress: Progress,
) -> None:
    shared: dict[str, tuple[EngineSpec, int]] = {}  # by what one process runs: it, and its largest batch
    for spec in specs:
        largest = max((batch for batch in sweep.plan.batches if batch <= spec.max_batch), default=0)
        if largest:
            shared[spec.shared_name] = spec.without_copies, largest
        else:
            sweep.left_out.append(LeftOut(what=str(spec), why=f"it takes batches to {spec.max_batch}"))
    starting: list[tuple[EngineSpec, StartingEngine]] = []
    for spec, largest in shared.values():
        with _left_out_if_it_fails(spec, sweep):
            starting.append((spec, opened.enter_context(open_engine(spec, largest))))
    started: list[tuple[EngineSpec, StartingEngine]] = []
    for index, (spec, engine) in enumerate(starting):
        progress("starting engines", index, len(starting), f"{spec}: importing libraries")
        with _left_out_if_it_fails(spec, sweep):
            engine.wait_until_started()
            started.append((spec, engine))
    progress("starting engines", len(starting), len(starting))
    loaded: dict[str, tuple[OpenEngine, float]] = {}
    for index, (spec, engine) in enumerate(started):
        compiling = ": compiling, which may take minutes" if spec.is_compiled else ""
        progress("loading engines", index, len(started), f"{spec}{compiling}")
        with _left_out_if_it_fails(spec, sweep):
            loaded[spec.shared_name] = engine, engine.load()
    progress("loading engines", len(started), len(started))
    for spec in specs:
        if spec.shared_name in loaded:
            sweep.engines.append(SweptEngine(spec, *loaded[spec.shared_name]))


@contextlib.contextmanager
def _left_out_if_it_fails(spec: EngineSpec, sweep: Sweep) -> Iterator[None]:
    """Leave out an engine that fails inside, and go on with the others."""
    try:
        yield
    except (AlexnetError, OSError) as error:
        sweep.left_out.append(LeftOut(what=str(spec), why=str(error)))


def _measure(sweep: Sweep, after_repeat: Callable[[], None], progress: Progress) -> None:
    """Run all repeats. The first one goes from small batches to large ones, as memory grows."""
    plan = sweep.plan
    cases = [(one, batch) for batch in sorted(plan.batches) for one in sweep.engines if one.takes(batch)]
    done, total = 0, len(cases) * plan.repeats
    for repeat in range(plan.repeats):
        if not any(one.is_up for one in sweep.engines):
            break
        for one, batch in cases if repeat % 2 == 0 else cases[::-1]:
            if one.takes(batch):
                progress("measuring", done, total, f"batch {batch}: {one.spec}")
                done += 1
                try:
                    one.time_calls(batch, plan)
                except (AlexnetError, OSError) as error:
                    one.fail(batch, str(error))
                    rest = f" from batch {batch} on" if one.is_up else ": the rest of its repeats"
                    sweep.left_out.append(LeftOut(what=f"{one.spec}{rest}", why=str(error)))
        after_repeat()
    progress("measuring", done, total)


def _judge(sweep: Sweep, export: Path, progress: Progress) -> None:
    """Judge each engine once, with copies or without."""
    measured = [one for one in sweep.engines if one.is_up and one.runs]
    results: dict[str, GateResult] = {}
    for index, one in enumerate(measured):
        name = one.spec.shared_name
        progress("gate", index, len(measured), str(one.spec.without_copies))
        try:
            one.gate_result = results.get(name) or one.engine.judge(export)
            results[name] = one.gate_result
        except (AlexnetError, OSError) as error:
            one.not_judged_because = str(error)
    progress("gate", len(measured), len(measured))
