"""All loads of one run, and the report of them, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from alexnet_model.errors import ClientError, UsageError
from alexnet_model.progress import Progress, silent

from ..control import control_rate
from ..figures.verdicts import Reason, interrupted_reason
from ..reports.schema import LeftOut, Report
from ..runs import Log, report_of_run
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
    bench.check_shapes(campaign.models)
    for model in campaign.models:
        for batch in campaign.batches:
            bench.check(model, batch)
    return report_of_run(
        lambda log: _measure_all(campaign, bench, log, progress),
        title=title,
        command=command,
        control=control,
    )


def _measure_all(campaign: Campaign, bench: ServerBench, log: Log, progress: Progress) -> None:
    loads = campaign.loads
    one_s = bench.timing.total_s
    total_s = ceil(one_s * len(loads))
    for number, (model, batch, loop) in enumerate(loads):
        what = f"{model}, {loop}, batch {batch}"
        if _is_over(log):
            log.left_out.append(LeftOut(what=what, why=log.reasons[0].found))
            continue
        tick = _tick(progress, number * one_s, total_s, what)
        tick(0.0)
        try:
            measured = bench.measure(model, loop, batch, tick=tick)
        except ClientError as error:
            _leave_out(log, what, error)
            continue
        log.loads.append(measured.row)
        _end_where(measured.outcome, log)
    if not _is_over(log):
        progress(_STAGE, total_s, total_s)
    if campaign.limit is not None:
        for model in campaign.models:
            for batch in campaign.batches:
                _search(campaign.limit, bench, log, model, batch, progress)


def _search(
    limit: SearchOptions, bench: ServerBench, log: Log, model: str, batch: int, progress: Progress
) -> None:
    what = f"{model}, highest rate within {limit.limit_p99_ms:g} ms, batch {batch}"
    try:
        if not _is_over(log) and not _estimate_per_s(log, model, batch):  # only rates were asked for
            measured = bench.measure(model, _ESTIMATE_AT, batch)
            log.loads.append(measured.row)
            _end_where(measured.outcome, log)
        if _is_over(log):
            log.left_out.append(LeftOut(what=what, why=log.reasons[0].found))
            return
        estimate_per_s = _estimate_per_s(log, model, batch)
        held = bench.held_rate(model, batch, limit, estimate_per_s=estimate_per_s, progress=progress)
    except ClientError as error:
        _leave_out(log, what, error)
        return
    log.held_rates.append(held.record)
    if held.kept is not None:
        log.loads.append(held.kept.row)
    if held.over is not None:
        log.loads.append(held.over.row)
        _end_where(held.over.outcome, log)


def _is_over(log: Log) -> bool:
    """Whatever speaks against the whole run ends it."""
    return bool(log.reasons)


def _estimate_per_s(log: Log, model: str, batch: int) -> float:
    """Requests a second that a closed loop reached; of what failed, nothing is known."""
    rows = [row for row in log.loads if (row.model, row.batch, row.loop) == (model, batch, "closed")]
    return max((row.throughput.value / row.batch for row in rows), default=0.0)


def _end_where(outcome: Outcome, log: Log) -> None:
    """Note why it makes no sense to go on."""
    if outcome.interrupted:
        log.note(interrupted_reason(True))
    elif outcome.server_gone:
        log.reasons.append(_gone(outcome.failure))


def _leave_out(log: Log, what: str, error: ClientError) -> None:
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
