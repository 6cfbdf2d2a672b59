"""What every run has in common: where it was made, the control before and after, and an early end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .calibration_workload import calibration_rate
from .environment import environment_here
from .figures.verdicts import Reason, control_reason, interrupted_reason
from .schema import (
    ColdStart,
    EngineRow,
    HeldRate,
    LatencyStep,
    LeftOut,
    LoadRow,
    Proof,
    Report,
    Roof,
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
    breakdown: list[LatencyStep] = field(default_factory=list)
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
    calibration: Callable[[], float] = calibration_rate,
) -> Report:
    """Measure, and report what there is.

    Ctrl-C and SIGTERM, as of a cancelled job, end it early; what was logged by then is in the report.
    """
    started = time.perf_counter()
    environment = environment_here()
    before, log = calibration(), Log()
    try:
        with _sigterm_as_ctrl_c():
            measure(log)
    except KeyboardInterrupt:
        log.note(interrupted_reason(True))
    after = calibration()
    log.note(control_reason(before, after))
    return Report(
        title=title,
        command=command,
        environment=environment,
        seconds=time.perf_counter() - started,
        calibration_before=before,
        calibration_after=after,
        roofs=tuple(log.roofs),
        engines=tuple(log.engines),
        proofs=tuple(log.proofs),
        loads=tuple(log.loads),
        held_rates=tuple(log.held_rates),
        breakdown=tuple(log.breakdown),
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
