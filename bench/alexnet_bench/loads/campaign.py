"""All loads of one run, and the report of them, whatever happens on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from alexnet_model.errors import ClientError, UsageError
from alexnet_model.progress import Progress, silent

from ..control import CONTROL_UNIT, control_rate
from ..environment import environment_here
from ..figures.verdicts import Reason, control_reason, interrupted_reason
from ..reports.schema import HeldRate, LeftOut, LoadRow, Report
from .generators import Tick
from .measuring import ServerBench
from .outcomes import GONE, Outcome
from .plans import ClosedLoop, Loop
from .searching import SearchOptions

# A search begins at what so many requests at a time reach.
_ESTIMATE_AT = ClosedLoop(concurrency=16)
_STAGE = "seconds of load"


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Every model in every batch under every loop; then the highest rate within the limit, if any."""

    models: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    loops: tuple[Loop, ...] = ()
    limit: SearchOptions | None = None

    def __post_init__(self) -> None:
        for what, given in (("models", self.models), ("batches", self.batches)):
            if not given:
                raise UsageError(what, got="none", expected="at least one")
        if not self.loops and self.limit is None:
            raise UsageError("loads", got="none", expected="a concurrency, a rate or a limit")

    @property
    def loads(self) -> tuple[tuple[str, int, Loop], ...]:
        loops = self.loops or (_ESTIMATE_AT,)
        return tuple((m, b, loop) for m in self.models for b in self.batches for loop in loops)


@dataclass
class _Log:
    """What has been measured so far."""

    rows: list[LoadRow] = field(default_factory=list)
    held_rates: list[HeldRate] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return bool(self.reasons)

    def note(self, reason: Reason | None) -> None:
        if reason is not None:
            self.reasons.append(reason)

    def estimate_per_s(self, model: str, batch: int) -> float:
        """Requests a second that a closed loop reached; of what failed, nothing is known."""
        rows = [row for row in self.rows if (row.model, row.batch, row.loop) == (model, batch, "closed")]
        return max((row.throughput.value / row.batch for row in rows), default=0.0)


def report_of_campaign(
    campaign: Campaign,
    bench: ServerBench,
    *,
    title: str,
    command: str,
    progress: Progress = silent,
    control: Callable[[], float] = control_rate,
) -> Report:
    """Run it. A server that goes away and Ctrl-C end it early; what was measured is in the report.

    Raises:
        ClientError: the server cannot be reached, or a model is unknown: nothing was measured.
        UsageError: a model cannot be asked in this way.
    """
    started = time.perf_counter()
    bench.check_shapes(campaign.models)
    for model in campaign.models:
        for batch in campaign.batches:
            bench.check(model, batch)
    environment, log = environment_here(), _Log()
    before = control()
    try:
        _measure_all(campaign, bench, log, progress)
    except KeyboardInterrupt:
        log.note(interrupted_reason(True))
    after = control()
    log.note(control_reason(before, after, CONTROL_UNIT))
    return Report(
        title=title,
        command=command,
        environment=environment,
        seconds=time.perf_counter() - started,
        control_before=before,
        control_after=after,
        loads=tuple(log.rows),
        held_rates=tuple(log.held_rates),
        left_out=tuple(log.left_out),
        reasons=tuple(log.reasons),
    )


def _measure_all(campaign: Campaign, bench: ServerBench, log: _Log, progress: Progress) -> None:
    loads = campaign.loads
    one_s = bench.timing.total_s
    total_s = ceil(one_s * len(loads))
    for number, (model, batch, loop) in enumerate(loads):
        what = f"{model}, {loop}, batch {batch}"
        if log.is_over:
            log.left_out.append(LeftOut(what=what, why=log.reasons[0].found))
            continue
        tick = _tick(progress, number * one_s, total_s, what)
        tick(0.0)
        try:
            measured = bench.measure(model, loop, batch, tick=tick)
        except ClientError as error:
            _leave_out(log, what, error)
            continue
        log.rows.append(measured.row)
        _end_where(measured.outcome, log)
    if not log.is_over:
        progress(_STAGE, total_s, total_s)
    if campaign.limit is not None:
        for model in campaign.models:
            for batch in campaign.batches:
                _search(campaign.limit, bench, log, model, batch, progress)


def _search(
    limit: SearchOptions, bench: ServerBench, log: _Log, model: str, batch: int, progress: Progress
) -> None:
    what = f"{model}, highest rate within {limit.limit_p99_ms:g} ms, batch {batch}"
    try:
        if not log.is_over and not log.estimate_per_s(model, batch):  # only rates were asked for
            measured = bench.measure(model, _ESTIMATE_AT, batch)
            log.rows.append(measured.row)
            _end_where(measured.outcome, log)
        if log.is_over:
            log.left_out.append(LeftOut(what=what, why=log.reasons[0].found))
            return
        estimate_per_s = log.estimate_per_s(model, batch)
        held = bench.held_rate(model, batch, limit, estimate_per_s=estimate_per_s, progress=progress)
    except ClientError as error:
        _leave_out(log, what, error)
        return
    log.held_rates.append(held.record)
    if held.kept is not None:
        log.rows.append(held.kept.row)
    if held.over is not None:
        log.rows.append(held.over.row)
        _end_where(held.over.outcome, log)


def _end_where(outcome: Outcome, log: _Log) -> None:
    """Note why it makes no sense to go on."""
    if outcome.interrupted:
        log.note(interrupted_reason(True))
    elif outcome.server_gone:
        log.reasons.append(_gone(outcome.failure))


def _leave_out(log: _Log, what: str, error: ClientError) -> None:
    log.left_out.append(LeftOut(what=what, why=str(error)))
    if isinstance(error, GONE):
        log.reasons.append(_gone(str(error)))


def _gone(found: str) -> Reason:
    return Reason(
        rule="server gone",
        found=found.rstrip("."),
        advice="See the server's log; what came after was not measured.",
    )


def _tick(progress: Progress, done_s: float, total_s: int, what: str) -> Tick:
    return lambda elapsed_s: progress(_STAGE, min(int(done_s + elapsed_s), total_s), total_s, what)
