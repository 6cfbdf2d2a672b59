"""All loads of one run, and the report of them, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from alexnet_model.errors import ClientError, UsageError
from alexnet_model.progress import Progress, silent

from ..calibration_workload import calibration_rate
from ..runs import Log, report_of_run
from ..schema import Report
from .measuring import ServerBench
from .plans import ClosedLoop, Loop
from .rounds import Load, measure_in_rounds
from .searching import SearchOptions
from .termination import end_where, is_over, leave_out, leave_out_after_end

# A search begins at what so many requests at a time reach.
_ESTIMATE_AT = ClosedLoop(concurrency=16)


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
    def loads(self) -> tuple[Load, ...]:
        loops = self.loops or (_ESTIMATE_AT,)
        return tuple((m, b, loop) for m in self.models for b in self.batches for loop in loops)


def report_of_campaign(
    campaign: Campaign,
    bench: ServerBench,
    *,
    title: str,
    command: str,
    progress: Progress = silent,
    calibration: Callable[[], float] = calibration_rate,
) -> Report:
    """Run it. A server that goes away and Ctrl-C end it early; what was measured is in the report.

    Raises:
        ClientError: the server cannot be reached, or a model is unknown: nothing was measured.
        UsageError: a model cannot be asked in this way, or a loop has too many requests.
    """
    bench.check_loops(campaign.loops)
    bench.check_shapes(campaign.models)
    for model in campaign.models:
        for batch in campaign.batches:
            bench.check(model, batch)
    return report_of_run(
        lambda log: _measure_all(campaign, bench, log, progress),
        title=title,
        command=command,
        calibration=calibration,
    )


def _measure_all(campaign: Campaign, bench: ServerBench, log: Log, progress: Progress) -> None:
    measure_in_rounds(campaign.loads, bench, log, progress)
    if campaign.limit is not None:
        for model in campaign.models:
            for batch in campaign.batches:
                _search(campaign.limit, bench, log, model, batch, progress)


def _search(
    limit: SearchOptions, bench: ServerBench, log: Log, model: str, batch: int, progress: Progress
) -> None:
    what = f"{model}, highest rate within {limit.limit_p99_ms:g} ms, batch {batch}"
    try:
        if not is_over(log) and not _estimate_per_s(log, model, batch):  # only rates were asked for
            measured = bench.measure(model, _ESTIMATE_AT, batch)
            log.loads.append(measured.row)
            end_where(measured, log)
        if is_over(log):
            leave_out_after_end(log, what)
            return
        estimate_per_s = _estimate_per_s(log, model, batch)
        held = bench.held_rate(model, batch, limit, estimate_per_s=estimate_per_s, progress=progress)
    except ClientError as error:
        leave_out(log, what, error)
        return
    log.held_rates.append(held.record)
    if held.kept is not None:
        log.loads.append(held.kept.row)
    if held.over is not None:
        log.loads.append(held.over.row)
        end_where(held.over, log)
    if isinstance(held.cut_by, ClientError):
        leave_out(log, f"{what}: the rest of the search", held.cut_by)
    elif held.cut_by is not None:
        raise held.cut_by


def _estimate_per_s(log: Log, model: str, batch: int) -> float:
    """Requests a second that a closed loop reached; of what failed, nothing is known."""
    rows = [row for row in log.loads if (row.model, row.batch, row.loop) == (model, batch, "closed")]
    return max((row.throughput.value / row.batch for row in rows), default=0.0)
