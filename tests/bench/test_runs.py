"""What every benchmark run has in common."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from alexnet_bench.runs import Log, report_of_run
from alexnet_bench.schema import LeftOut, Report


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_and_keeps_what_was_logged(number: signal.Signals) -> None:
    usual = signal.getsignal(signal.SIGTERM)

    def measure(log: Log) -> None:
        log.left_out.append(LeftOut(what="the first", why="a test"))
        os.kill(os.getpid(), number)
        log.left_out.append(LeftOut(what="the second", why="a test"))

    report = report_of_run(measure, title="t", command="c", calibration=lambda: 1e9)
    assert [left.what for left in report.left_out] == ["the first"]
    assert [reason.rule for reason in report.reasons] == ["interrupted"]
    assert signal.getsignal(signal.SIGTERM) is usual


def test_a_run_in_a_thread_leaves_signals_alone() -> None:
    def run() -> Report:
        return report_of_run(lambda log: None, title="t", command="c", calibration=lambda: 1e9)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result().reasons == ()
