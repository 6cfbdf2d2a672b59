"""What every benchmark run has in common: environment, calibration, and early termination."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from . import schema
from .calibration_workload import calibration_rate
from .environment import environment_here
from .figures.verdicts import Reason, calibration_reason, interrupted_reason


@dataclass
class Log:
    """What a run has measured so far, and the reasons against it."""

    gpu_calibration_before: float | None = None
    gpu_calibration_after: float | None = None
    roofs: list[schema.Roof] = field(default_factory=list)
    engines: list[schema.EngineRow] = field(default_factory=list)
    proofs: list[schema.Proof] = field(default_factory=list)
    loads: list[schema.LoadRow] = field(default_factory=list)
    held_rates: list[schema.HeldRate] = field(default_factory=list)
    breakdown: list[schema.LatencyStep] = field(default_factory=list)
    tuning: schema.Tuning | None = None
    cold_starts: list[schema.ColdStart] = field(default_factory=list)
    figures: list[schema.FigureRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[schema.LeftOut] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def note(self, reason: Reason | None) -> None:
        """Add the reason that a rule found, if it found one."""
        if reason is not None:
            self.reasons.append(reason)


def report_of_run(
    measure: Callable[[Log], None],
    *,
    title: str,
    command: str,
    calibration: Callable[[], float] = calibration_rate,
) -> schema.Report:
    """Run a measurement between two calibrations, and return what it logged as a report.

    Ctrl-C and SIGTERM end it early; the report then holds what was logged so far, and is INVALID.

    Args:
        measure: Adds its rows to the log.
        title: The title of the report.
        command: The command line, without secrets.
        calibration: Measures the speed of the machine in operations per second.
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
    log.note(calibration_reason(before, after))
    logged: dict[str, Any] = {
        name: tuple(rows) if isinstance(rows, list) else rows for name, rows in vars(log).items()
    }
    return schema.Report(
        title=title,
        command=command,
        environment=environment,
        seconds=time.perf_counter() - started,
        calibration_before=before,
        calibration_after=after,
        **logged,
    )


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt; does nothing outside of the main thread, which gets no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)
