"""What ends a run early, or leaves something out of it: said in its log."""

from __future__ import annotations

from alexnet_model.errors import ClientError

from ..figures.verdicts import gone_reason, interrupted_reason
from ..runs import Log
from ..schema import LeftOut
from .load_results import GONE
from .measuring import ServerReplaced
from .rows import Measured


def is_over(log: Log) -> bool:
    """Whatever speaks against the whole run ends it."""
    return bool(log.reasons)


def end_where(measured: Measured, log: Log) -> None:
    """Note why it makes no sense to go on after this load."""
    if measured.outcome.interrupted:
        log.note(interrupted_reason(True))
    elif measured.is_over:  # the worst reason comes first
        log.note(gone_reason(measured.row.verdict.reasons[0].found))


def leave_out(log: Log, what: str, error: ClientError) -> None:
    """What could not be measured; where it is because the server has gone, that ends the run."""
    log.left_out.append(LeftOut(what=what, why=str(error)))
    if isinstance(error, (*GONE, ServerReplaced)):
        log.note(gone_reason(str(error)))


def leave_out_after_end(log: Log, what: str) -> None:
    """What was not begun any more, for the reason that ended the run."""
    log.left_out.append(LeftOut(what=what, why=log.reasons[0].found))
