"""Every engine at every batch, in turn: a shared machine's noise meets all engines of one batch alike.

When all is measured, every engine is asked whether it is still the model: wrong answers may come quickly.

In every repeat each engine runs one slice at each batch, every other repeat backwards: a machine that slows
down steadily favours none, and the repeats of a row lie all over the run, so that its interval knows of the
machine's changes. Between repeats there is time for what else is to be measured all over the run. An engine
that fails costs itself alone, and keeps the batches that it has done.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from alexnet_model.errors import AlexnetError, UsageError
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.progress import Progress, silent

from ..figures.percentiles import NEEDED
from ..schema import LeftOut
from .specs import EngineSlice, EngineSpec, Judged


class OpenEngine(Protocol):
    """As much of an `EngineProcess` as the ladder asks."""

    def load(self) -> float: ...

    def warm(self, batch: int, seconds: float) -> float: ...

    def slice(self, batch: int, seconds: float, at_least: int) -> EngineSlice: ...

    def judge(self, export: Path) -> Judged: ...

    def describe(self) -> RuntimeInfo: ...


Open = Callable[[EngineSpec, int], AbstractContextManager[OpenEngine]]  # the int is the largest batch


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Seconds are those of one slice; a slice is longer where fewer calls than a median needs would fit.

    `judged_by` is the folder of the export whose gate judges every engine after it was measured.
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
        """In each slice at least: so many that all repeats together know a median."""
        return math.ceil(NEEDED["p50"] / self.repeats)


def doubling_batches(largest: int) -> tuple[int, ...]:
    """1, 2, 4 ... and the largest."""
    return (*(2**n for n in range(largest.bit_length()) if 2**n < largest), largest)


@dataclass
class BatchRun:
    """One engine at one batch: a slice a repeat. `failure` is why no more came, where its engine failed."""

    batch: int
    first_call_ms: float
    slices: list[EngineSlice] = field(default_factory=list)
    failure: str = ""


@dataclass
class Climber:
    """One engine, and how far it came, by batch. `runtime` is what it says of itself; None if it died before.

    An engine that fails at a batch is not asked for that batch or a larger one again: what was short may be
    memory. When it fails once more, it is gone. `unjudged` is why it has no judgement, where it has none.
    """

    spec: EngineSpec
    engine: OpenEngine
    load_ms: float
    is_up: bool = True
    fails_from: int | None = None
    runs: dict[int, BatchRun] = field(default_factory=dict)
    runtime: RuntimeInfo | None = None
    judged: Judged | None = None
    unjudged: str = "the run was ended before"

    def takes(self, batch: int) -> bool:
        largest = self.spec.max_batch if self.fails_from is None else self.fails_from - 1
        return self.is_up and batch <= largest

    def fail(self, batch: int, why: str) -> None:
        """At a batch, for the first time or for the last."""
        if self.fails_from is None:
            self.fails_from = batch
            self.runs.pop(batch, None)  # it cannot be relied on
        else:
            self.is_up = False
            self.unjudged = f"it had failed before ({why})"
        for run in self.runs.values():
            if not self.takes(run.batch):
                run.failure = run.failure or why


@dataclass
class Sweep:
    """What was measured by a plan, also of a run that was interrupted."""

    plan: SweepPlan
    climbers: list[Climber] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    is_interrupted: bool = False


def climb(
    specs: Sequence[EngineSpec],
    plan: SweepPlan,
    open_engine: Open,
    progress: Progress = silent,
    *,
    after_repeat: Callable[[], None] = lambda: None,
) -> Sweep:
    """Load every engine, measure all of them at each batch that they take, and judge them.

    `after_repeat` is called while all engines wait. Ctrl-C ends it early.
    """
    sweep = Sweep(plan)
    with ExitStack() as opened:
        try:
            _load(specs, plan, sweep, open_engine, opened, progress)
            steps = _Steps(sweep.climbers, plan, progress)
            _measure(plan, sweep, steps, after_repeat)
            if plan.judged_by is not None:
                _judge(sweep, plan.judged_by, progress)
        except KeyboardInterrupt:
            sweep.is_interrupted = True
        for climber in sweep.climbers:
            if climber.runs:
                with contextlib.suppress(AlexnetError, OSError):
                    climber.runtime = climber.engine.describe()
    return sweep


def _load(
    specs: Sequence[EngineSpec],
    plan: SweepPlan,
    sweep: Sweep,
    open_engine: Open,
    opened: ExitStack,
    progress: Progress,
) -> None:
    for index, spec in enumerate(specs):
        progress("loading engines", index, len(specs), str(spec))
        largest = max((batch for batch in plan.batches if batch <= spec.max_batch), default=0)
        if not largest:
            sweep.left_out.append(LeftOut(what=str(spec), why=f"it takes batches to {spec.max_batch}"))
            continue
        try:
            engine = opened.enter_context(open_engine(spec, largest))
            sweep.climbers.append(Climber(spec, engine, engine.load()))
        except (AlexnetError, OSError) as error:
            sweep.left_out.append(LeftOut(what=str(spec), why=str(error)))
    progress("loading engines", len(specs), len(specs))


def _measure(plan: SweepPlan, sweep: Sweep, steps: _Steps, after_repeat: Callable[[], None]) -> None:
    """A slice of every engine at every batch a repeat; the first repeat goes up, as memory does."""
    for repeat in range(plan.repeats):
        if not any(climber.is_up for climber in sweep.climbers):
            break
        turn = 1 if repeat % 2 == 0 else -1
        for batch in sorted(plan.batches)[::turn]:
            for climber in sweep.climbers[::turn]:
                if climber.takes(batch):
                    steps.next(climber, batch)
                    with _failing_alone(climber, batch, sweep):
                        _slice(climber, batch, plan)
        after_repeat()
    steps.done()


def _slice(climber: Climber, batch: int, plan: SweepPlan) -> None:
    first_call_ms = climber.engine.warm(batch, plan.burn_in_s)
    found = climber.engine.slice(batch, plan.seconds, plan.calls)
    climber.runs.setdefault(batch, BatchRun(batch, first_call_ms)).slices.append(found)


def _judge(sweep: Sweep, export: Path, progress: Progress) -> None:
    """Each engine once, however its images come to it."""
    measured = [climber for climber in sweep.climbers if climber.is_up and climber.runs]
    judged: dict[str, Judged] = {}
    for index, climber in enumerate(measured):
        name = f"{climber.spec.without_copies} {climber.spec.file}"
        progress("gate_inputs answers", index, len(measured), str(climber.spec.without_copies))
        try:
            climber.judged = judged.get(name) or climber.engine.judge(export)
            judged[name] = climber.judged
        except (AlexnetError, OSError) as error:
            climber.unjudged = str(error)
    progress("gate_inputs answers", len(measured), len(measured))


@contextmanager
def _failing_alone(climber: Climber, batch: int, sweep: Sweep) -> Iterator[None]:
    try:
        yield
    except (AlexnetError, OSError) as error:
        climber.fail(batch, str(error))
        rest = f" from batch {batch} on" if climber.is_up else ": the rest of its repeats"
        what = f"{climber.spec}{rest}"
        sweep.left_out.append(LeftOut(what=what, why=str(error)))


class _Steps:
    """How far the measuring is."""

    def __init__(self, climbers: Sequence[Climber], plan: SweepPlan, progress: Progress) -> None:
        runs = sum(batch <= climber.spec.max_batch for climber in climbers for batch in plan.batches)
        self._total = runs * plan.repeats
        self._taken = 0
        self._progress = progress

    def next(self, climber: Climber, batch: int) -> None:
        self._progress("measuring", self._taken, self._total, f"batch {batch}: {climber.spec}")
        self._taken += 1

    def done(self) -> None:
        self._progress("measuring", self._taken, self._total)
