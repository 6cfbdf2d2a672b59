"""Whole runs in virtual time: there is a report even if the server dies or Ctrl-C comes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from alexnet_bench import (
    ClosedLoop,
    InProcessGenerator,
    Load,
    LoadPlan,
    OpenLoop,
    ReferenceOutputs,
    SearchOptions,
    ServerBench,
    Timing,
    bench_load,
)
from alexnet_bench.runs import report_of_run
from alexnet_bench.schema import Report
from alexnet_model.errors import BadRequest, ModelNotFound, Unreachable, UsageError

from .load_fakes import MODEL, URL, VirtualServer, VirtualTime, bench_of

TIMING = Timing(burn_in_s=1.0, seconds=2.0, repeats=2)
SWEEP = LoadPlan(models=(MODEL,), loops=(ClosedLoop(concurrency=1), ClosedLoop(concurrency=8)))


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Set what the calibration workload measures before and after a run."""
    rates = [1e9, 1e9]

    def next_rate() -> float:
        rates.append(rates.pop(0))
        return rates[-1]

    steady = partial(report_of_run, calibration=next_rate)
    monkeypatch.setattr("alexnet_bench.loads.run.report_of_run", steady)
    return rates


@pytest.fixture
def server() -> VirtualServer:
    return VirtualServer(VirtualTime(), together=8)


def report_of(server: VirtualServer, plan: LoadPlan = SWEEP, **options: Any) -> Report:
    return bench_load(plan, bench_of(server, TIMING), title="t", command="c", **options)


def rules(report: Report) -> list[list[str]]:
    return [[reason.rule for reason in row.verdict.reasons] for row in report.loads]


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_sweep_gives_a_row_for_each_load(server: VirtualServer) -> None:
    report = report_of(server)
    one, eight = report.loads
    assert (one.concurrency, eight.concurrency) == (1, 8)
    assert one.throughput.value == pytest.approx(100, rel=0.01)
    assert "synchronous client" in one.batching
    # The first request is executed alone, so executions of seven and of one alternate.
    assert eight.throughput.value == pytest.approx(400, rel=0.01)
    assert eight.batching == "yes: 4.0 images an execution on average, 7 at most"
    assert set(eight.executions_by_batch) == {1, 7}
    assert rules(report) == [[], []]
    assert (report.reasons, report.left_out) == ((), ())
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_every_model_is_loaded_at_every_batch_under_every_loop(server: VirtualServer) -> None:
    plan = LoadPlan(
        models=(MODEL, "alexnet"),
        batches=(1, 4),
        loops=(ClosedLoop(concurrency=2), OpenLoop(rate_per_s=20)),
    )
    report = report_of(server, plan)
    assert len({(row.model, row.batch, row.loop) for row in report.loads}) == 8
    fours = [row.throughput.value for row in report.loads if (row.batch, row.loop) == (4, "closed")]
    assert fours == pytest.approx([4 * 100, 4 * 100], rel=0.02)


def test_the_repeats_of_a_load_are_spread_over_the_run(server: VirtualServer) -> None:
    """The order is one, eight, eight, one: a machine that slows down steadily favours neither."""
    server.takes_s = lambda now_s: 0.01 * (1 + now_s / 12)
    one, eight = report_of(server).loads
    first, last = one.throughput.repeats
    earlier, later = eight.throughput.repeats
    assert last < 0.65 * first
    assert 0.7 * earlier < later < 0.9 * earlier
    assert min(one.throughput.repeats) == pytest.approx(last)


def test_an_open_loop_has_other_send_times_in_each_round(server: VirtualServer) -> None:
    (row,) = report_of(server, LoadPlan(models=(MODEL,), loops=(OpenLoop(rate_per_s=50),))).loads
    first, second = row.throughput.repeats
    assert first != second


def test_progress_ends_at_its_total(server: VirtualServer) -> None:
    seen: list[tuple[int, int]] = []
    report_of(server, progress=lambda stage, done, total, note="": seen.append((done, total)))
    assert seen[0] == (0, 12)
    assert seen[-1] == (12, 12)


def test_a_load_crosses_at_most_seven_files_of_its_package(server: VirtualServer) -> None:
    """The command is the eighth. The calibration, the report and the figures are not part of the path."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if "/alexnet_bench/loads/" in frame.f_code.co_filename:
            files.add(Path(frame.f_code.co_filename).name)

    sys.setprofile(note)
    try:
        report = report_of(server)
    finally:
        sys.setprofile(None)
    assert len(report.loads) == 2
    assert len(files) <= 7, sorted(files)
    assert {"generators.py", "loop.py", "results.py"} <= files


# Failures


def test_a_server_that_dies_during_a_load_leaves_a_report(server: VirtualServer) -> None:
    server.time.at(server_time_of_load(server, 2.5), server.die)
    plan = LoadPlan(models=(MODEL,), loops=tuple(ClosedLoop(concurrency=n) for n in (1, 2, 3)))
    timing = Timing(burn_in_s=1, seconds=3, repeats=4)
    bench = bench_of(server, timing)
    report = bench_load(plan, bench, title="t", command="c")
    (row,) = report.loads
    assert [reason.rule for reason in row.verdict.reasons] == ["server gone", "errors"]
    assert row.throughput.value < 100
    assert [reason.rule for reason in report.reasons] == ["server gone"]
    assert [left.what.partition(", ")[2] for left in report.left_out] == [
        "2 at a time, batch 1",
        "3 at a time, batch 1",
    ]
    assert all("a reset" in left.why for left in report.left_out)


def server_time_of_load(server: VirtualServer, into_s: float) -> float:
    """Return the time `into_s` after the first load began: 64 requests of 10 ms precede it."""
    return server.time.now_s() + 64 * 0.01 + into_s


def test_a_server_that_dies_between_two_loads_leaves_a_report(server: VirtualServer) -> None:
    plan = LoadPlan(models=(MODEL, "alexnet"), loops=(ClosedLoop(concurrency=1),))
    server.time.at(server_time_of_load(server, 3.0), server.die)
    report = report_of(server, plan)
    assert [row.model for row in report.loads] == [MODEL]
    assert [reason.rule for reason in report.reasons] == ["server gone"]
    assert report.left_out[0].what.startswith("alexnet,")


def test_a_server_that_is_replaced_between_two_loads_ends_the_run(server: VirtualServer) -> None:
    def replace() -> None:
        server.die()
        server.come_back()

    bench = bench_of(server, TIMING)
    run = bench.run

    def replacing(*args: Any, **options: Any) -> Any:
        result = run(*args, **options)
        replace()
        return result

    bench.run = replacing  # type: ignore[method-assign]
    report = bench_load(SWEEP, bench, title="t", command="c")
    assert [row.concurrency for row in report.loads] == [1]
    (reason,) = report.reasons
    assert reason.rule == "server gone"
    assert "counters that have restarted" in reason.found
    assert [left.what for left in report.left_out] == ["alexnet_int8, 8 at a time, batch 1"]


def test_a_model_that_is_replaced_between_two_loads_ends_the_run(server: VirtualServer) -> None:
    bench = bench_of(server, TIMING)
    run = bench.run

    def replacing(*args: Any, **options: Any) -> Any:
        result = run(*args, **options)
        server.queue_delay_us = 500
        return result

    bench.run = replacing  # type: ignore[method-assign]
    report = bench_load(SWEEP, bench, title="t", command="c")
    (reason,) = report.reasons
    assert "a configuration that has changed" in reason.found


def test_a_server_that_is_restarted_during_a_load_makes_its_row_invalid(server: VirtualServer) -> None:
    server.time.at(server_time_of_load(server, 4.5), server.die)
    server.time.at(server_time_of_load(server, 5.0), server.come_back)
    report = report_of(server)
    one, eight = report.loads
    assert rules(report) == [[], ["server gone", "errors"]]
    assert "restarted" in eight.verdict.reasons[0].found
    assert len(one.throughput.repeats) == 1, "later repeats would be those of another server"
    assert [reason.rule for reason in report.reasons] == ["server gone"]


def test_ctrl_c_keeps_what_was_measured(server: VirtualServer) -> None:
    server.time.at(server_time_of_load(server, 3.0 + 2.0), interrupt)
    report = report_of(server)
    assert rules(report) == [[], ["interrupted"]]
    assert [reason.rule for reason in report.reasons] == ["interrupted"]


def test_ctrl_c_in_a_later_round_keeps_the_whole_rounds(server: VirtualServer) -> None:
    server.time.at(server_time_of_load(server, 2 * 3.0 + 2.0), interrupt)
    report = report_of(server)
    assert rules(report) == [[], []]
    assert [len(row.throughput.repeats) for row in report.loads] == [1, 1]
    assert [reason.rule for reason in report.reasons] == ["interrupted"]


def test_ctrl_c_before_anything_was_measured_leaves_a_report(server: VirtualServer) -> None:
    server.time.at(0.05, interrupt)
    report = report_of(server)
    assert report.loads == ()
    assert [reason.rule for reason in report.reasons] == ["interrupted"]


def test_an_unknown_model_is_an_error_before_anything_is_measured(server: VirtualServer) -> None:
    plan = LoadPlan(models=(MODEL, "resnet"), loops=(ClosedLoop(concurrency=1),))
    with pytest.raises(ModelNotFound, match="resnet"):
        report_of(server, plan)
    assert server.submitted == 0


def test_a_model_without_replies_is_left_out_and_the_others_are_measured(server: VirtualServer) -> None:
    submit = server.submit

    def refusing(message: Any, *, timeout_s: float) -> Any:
        refused = BadRequest("alexnet", got="a broken model") if message.request.model == "alexnet" else None
        server.refuses = lambda now_s: refused
        return submit(message, timeout_s=timeout_s)

    server.submit = refusing  # type: ignore[method-assign]
    plan = LoadPlan(models=("alexnet", MODEL), loops=(ClosedLoop(concurrency=1),))
    report = report_of(server, plan)
    assert [row.model for row in report.loads] == [MODEL]
    assert ["a broken model" in left.why for left in report.left_out] == [True]
    assert report.reasons == ()


def test_a_busy_machine_makes_the_whole_run_invalid(server: VirtualServer, rates: list[float]) -> None:
    rates[1] = 0.8e9
    report = report_of(server)
    assert [reason.rule for reason in report.reasons] == ["machine busy"]
    assert (report.calibration_before, report.calibration_after) == (1e9, 0.8e9)


def test_wrong_replies_under_load_make_a_row_invalid(server: VirtualServer) -> None:
    def go_wrong() -> None:
        server.probabilities = np.roll(np.linspace(0, 0.2, 10, dtype=np.float32), 1)

    server.time.at(server_time_of_load(server, 2.0), go_wrong)
    assert rules(report_of(server))[0] == ["wrong answers"]


def test_a_wrong_model_is_found_by_reference_outputs(server: VirtualServer) -> None:
    reference = ReferenceOutputs((np.full((1, 10), 0.2, np.float32),) * 64)
    bench = ServerBench(
        server,
        URL,
        InProcessGenerator(server, server.time),
        timing=TIMING,
        timeout_s=5.0,
        reference=lambda tested, requests: reference,
    )
    row = bench.measure(Load(model=MODEL, loop=ClosedLoop(concurrency=1))).row
    assert [reason.rule for reason in row.verdict.reasons] == ["wrong answers"]


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda time: setattr(time, "cpu_share", 0.95), "client saturated"),
        (lambda time: setattr(time, "stalled_share", 0.5), "generator starved"),
        (lambda time: setattr(time, "wakes_late_s", lambda now_s: 0.002), "generator late"),
    ],
)
def test_a_starved_generator_makes_a_row_invalid(
    server: VirtualServer, spoil: Callable[[VirtualTime], None], rule: str
) -> None:
    spoil(server.time)
    report = report_of(server, LoadPlan(models=(MODEL,), loops=(OpenLoop(rate_per_s=50),)))
    assert rules(report) == [[rule]]


def test_requests_above_a_servers_capacity_fail_at_their_deadline(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.05
    server.together = 1
    bench = bench_of(server, Timing(seconds=10, repeats=2))
    row = bench.measure(Load(model=MODEL, loop=OpenLoop(rate_per_s=40))).row
    assert [reason.rule for reason in row.verdict.reasons] == ["errors"]
    assert set(row.failed_by_kind) == {"DeadlineExceeded"}
    assert row.throughput.value < 21


# The highest rate within a limit


def test_a_search_gives_a_row_and_a_record(server: VirtualServer) -> None:
    server.together = 1
    plan = LoadPlan(models=(MODEL,), limit=SearchOptions(limit_p99_ms=100))
    report = report_of(server, plan)
    (held,) = report.held_rates
    assert held.rate_per_s is not None
    assert 60 < held.rate_per_s < 95  # the server's capacity is 100
    assert held.p99_ms is not None
    assert held.p99_ms <= 100
    closed, kept = report.loads
    assert closed.loop == "closed"
    assert (kept.loop, kept.rate_per_s, kept.throughput) == ("open", held.rate_per_s, held.throughput)
    assert kept.latencies.p99_ms == held.p99_ms


def test_no_rate_is_tried_if_a_request_alone_exceeds_the_limit(server: VirtualServer) -> None:
    report = report_of(server, LoadPlan(models=(MODEL,), limit=SearchOptions(limit_p99_ms=5)))
    (held,) = report.held_rates
    assert (held.rate_per_s, held.throughput, held.probes) == (None, None, ())
    assert held.words == "no rate stays within 5 ms: one request takes 10 ms (median)"


def test_if_no_rate_meets_the_limit_the_record_has_the_lowest_p99(server: VirtualServer) -> None:
    report = report_of(server, LoadPlan(models=(MODEL,), limit=SearchOptions(limit_p99_ms=10.5)))
    (held,) = report.held_rates
    assert (held.rate_per_s, held.throughput) == (None, None)
    assert held.p99_ms is not None
    assert held.p99_ms > 10.5
    assert "no rate from" in held.words
    assert "the best was" in held.words


def test_a_plan_of_open_loops_gets_a_closed_loop_as_the_searchs_estimate(server: VirtualServer) -> None:
    plan = LoadPlan(models=(MODEL,), loops=(OpenLoop(rate_per_s=20),), limit=SearchOptions(limit_p99_ms=100))
    report = report_of(server, plan)
    assert [row.loop for row in report.loads] == ["open", "closed", "open"]


def test_ctrl_c_in_a_search_keeps_its_probes(server: VirtualServer) -> None:
    server.together = 1
    server.time.at(server_time_of_load(server, 5.0 + 30), interrupt)
    report = report_of(server, LoadPlan(models=(MODEL,), limit=SearchOptions(limit_p99_ms=100)))
    (held,) = report.held_rates
    assert held.probes
    assert "stopped early" in held.words
    assert rules(report)[-1][0] == "interrupted"
    assert [reason.rule for reason in report.reasons] == ["interrupted"]


def test_ctrl_c_in_the_burn_in_of_a_rate_keeps_the_probes(server: VirtualServer) -> None:
    server.together = 1
    plan = LoadPlan(models=(MODEL,), limit=SearchOptions(limit_p99_ms=100))
    whole = report_of(server, plan)
    again = VirtualServer(VirtualTime())
    bench = bench_of(again, TIMING)
    measure, rates = bench.measure, 0

    def measuring(load: Load, **options: Any) -> Any:
        nonlocal rates
        rates += isinstance(load.loop, OpenLoop)
        if rates == 3:
            raise KeyboardInterrupt
        return measure(load, **options)

    bench.measure = measuring  # type: ignore[method-assign]
    report = bench_load(plan, bench, title="t", command="c")
    assert len(report.held_rates[0].probes) == 2 < len(whole.held_rates[0].probes)
    assert "stopped early" in report.held_rates[0].words
    assert [reason.rule for reason in report.reasons] == ["interrupted"]


def test_an_error_in_a_search_keeps_its_probes(server: VirtualServer) -> None:
    server.together = 1
    bench = bench_of(server, TIMING)
    measure, rates = bench.measure, 0

    def measuring(load: Load, **options: Any) -> Any:
        nonlocal rates
        rates += isinstance(load.loop, OpenLoop)
        if rates == 3:
            raise Unreachable("grpc://127.0.0.1:8001", got="connection refused")
        return measure(load, **options)

    bench.measure = measuring  # type: ignore[method-assign]
    plan = LoadPlan(models=(MODEL,), limit=SearchOptions(limit_p99_ms=100))
    report = bench_load(plan, bench, title="t", command="c")
    assert len(report.held_rates[0].probes) == 2
    assert report.left_out[0].what.endswith("the rest of the search")
    assert [reason.rule for reason in report.reasons] == ["server gone"]


# Usage errors


def test_too_many_requests_are_a_usage_error(server: VirtualServer) -> None:
    bench = bench_of(server, Timing(seconds=1000, repeats=10))
    plan = LoadPlan(models=(MODEL,), loops=(OpenLoop(rate_per_s=10_000),))
    with pytest.raises(UsageError, match="got 100,010,000 requests, expected at most 10,000,000"):
        bench_load(plan, bench, title="t", command="c")
    assert server.submitted == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: LoadPlan(models=(), loops=(ClosedLoop(concurrency=1),)),
        lambda: LoadPlan(models=(MODEL,), batches=(), loops=(ClosedLoop(concurrency=1),)),
        lambda: LoadPlan(models=(MODEL,)),
    ],
)
def test_an_empty_plan_is_a_usage_error(make: Callable[[], LoadPlan]) -> None:
    with pytest.raises(UsageError, match="got none"):
        make()


def test_a_shape_for_an_unknown_input_is_a_usage_error(server: VirtualServer) -> None:
    bench = ServerBench(server, URL, InProcessGenerator(server, server.time), shapes={"pixels": (1,)})
    with pytest.raises(UsageError, match="shape of pixels: got no such input, expected image"):
        bench_load(SWEEP, bench, title="t", command="c")
