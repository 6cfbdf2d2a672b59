"""What every run has in common: where it was made, the control before and after, and an early end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .control import control_rate
from .environment import environment_here
from .figures.verdicts import Reason, control_reason, interrupted_reason
from .reports.schema import (
    ColdStart,
    EngineRow,
    HeldRate,
    LeftOut,
    LoadRow,
    Proof,
    Report,
    Roof,
    Rung,
    Tuning,
)


@dataclass
class Log:
    """What has been measured so far, and the reasons against it."""

    roofs: list[Roof] = field(default_factory=list)
    engines: list[EngineRow] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    loads: list[LoadRow] = field(default_factory=list)
    held_rates: list[HeldRate] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    tuning: Tuning | None = None
    cold_starts: list[ColdStart] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def note(self, reason: Reason | None) -> None:
        """Keep what a rule said, if it said anything."""
        if reason is not None:
            self.reasons.append(reason)


def report_of_run(
    measure: Callable[[Log], None],
    *,
    title: str,
    command: str,
    control: Callable[[], float] = control_rate,
) -> Report:
    """Measure, and report what there is.

    Ctrl-C and SIGTERM, as of a cancelled job, end it early; what was logged by then is in the report.
    """
    started = time.perf_counter()
    environment = environment_here()
    before, log = control(), Log()
    try:
        with _sigterm_as_ctrl_c():
            measure(log)
    except KeyboardInterrupt:
        log.note(interrupted_reason(True))
    after = control()
    log.note(control_reason(before, after))
    return Report(
        title=title,
        command=command,
        environment=environment,
        seconds=time.perf_counter() - started,
        control_before=before,
        control_after=after,
        roofs=tuple(log.roofs),
        engines=tuple(log.engines),
        proofs=tuple(log.proofs),
        loads=tuple(log.loads),
        held_rates=tuple(log.held_rates),
        rungs=tuple(log.rungs),
        tuning=log.tuning,
        cold_starts=tuple(log.cold_starts),
        left_out=tuple(log.left_out),
        reasons=tuple(log.reasons),
    )


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Only the main thread hears signals; elsewhere nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)
