"""The closed and the open loop of one process in virtual time: when requests are sent, what is counted."""

from __future__ import annotations

import time as real_time
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from alexnet_bench import ClosedLoop, LoadResult, OpenLoop, Timing
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.loads.loop import Clock, Completion, Completions, LoadRun
from alexnet_bench.loads.plans import Loop, Segment
from alexnet_clients import FakeTransport, InferReply, Message
from alexnet_model.errors import ClientError, Overloaded

from .load_fakes import MODEL, VirtualServer, VirtualTime, traffic_of

TIMING = Timing(burn_in_s=1.0, seconds=2.0, repeats=3)


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def server(time: VirtualTime) -> VirtualServer:
    return VirtualServer(time)


def run(server: VirtualServer, loop: Loop, timing: Timing = TIMING, **options: Any) -> LoadResult:
    segment = Segment(loop=loop, timing=timing, starts_s=server.time.now_s(), statistics_of=(MODEL,))
    return LoadRun(segment, traffic_of(server, **options), server.time).result()


def latencies(encoded: bytes | None) -> LatencyHistogram:
    assert encoded is not None
    histogram = LatencyHistogram()
    histogram.add(encoded)
    return histogram


# The closed loop


def test_a_closed_loop_keeps_its_concurrency(server: VirtualServer) -> None:
    result = run(server, ClosedLoop(concurrency=5))
    assert server.most_open == 5
    assert server.open_at_once == 0
    assert result.rates_per_s() == pytest.approx((100, 100, 100), rel=0.01)
    assert latencies(result.latencies).latencies().p50_ms == pytest.approx(50, rel=2e-3)
    assert result.requests == pytest.approx(600, abs=2)
    assert (result.failures, result.send_delays) == (0, None)


def test_concurrency_one_sends_one_request_at_a_time(server: VirtualServer) -> None:
    result = run(server, ClosedLoop(concurrency=1))
    assert server.most_open == 1
    assert latencies(result.latencies).latencies().max_ms == pytest.approx(10, rel=2e-3)


def test_the_burn_in_is_not_counted(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.3 if now_s < 0.5 else 0.01
    result = run(server, ClosedLoop(concurrency=1))
    assert latencies(result.latencies).latencies().max_ms == pytest.approx(10, rel=2e-3)
    assert result.rates_per_s() == pytest.approx((100, 100, 100), rel=0.01)


def test_each_repeat_has_its_own_rate(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.02 if 3 <= now_s < 5 else 0.01
    assert run(server, ClosedLoop(concurrency=2)).rates_per_s() == pytest.approx((100, 50, 100), rel=0.02)


def test_distinct_requests_are_sent_in_turn(server: VirtualServer) -> None:
    seen: list[Message] = []

    class Recording(VirtualServer):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            seen.append(message)
            return super().submit(message, timeout_s=timeout_s)

    traffic = traffic_of(Recording(server.time))
    timing = Timing(burn_in_s=0, seconds=0.095, repeats=1)
    LoadRun(Segment(loop=ClosedLoop(concurrency=1), timing=timing), traffic, server.time).result()
    numbers = list(map(id, traffic.messages))
    assert [numbers.index(id(message)) for message in seen] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_replies_that_come_during_submit_do_not_nest() -> None:
    class Immediate(FakeTransport):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            clock._now_s += 1e-3
            return super().submit(message, timeout_s=timeout_s)

    clock = VirtualTime()
    transport = Immediate(predict=lambda request: np.full((1, 10), 0.1, np.float32))
    segment = Segment(loop=ClosedLoop(concurrency=4), timing=Timing(burn_in_s=0, seconds=10, repeats=1))
    result = LoadRun(segment, traffic_of(VirtualServer(clock), transport), clock).result()
    assert result.requests == pytest.approx(10_000, abs=4)


# The open loop


def test_an_open_loop_sends_at_the_planned_times(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.001
    result = run(server, OpenLoop(rate_per_s=200))
    assert latencies(result.send_delays).percentile_ms(100) <= 0.001
    assert result.requests == pytest.approx(1200, abs=4 * 1200**0.5)
    assert np.mean(result.rates_per_s()) == pytest.approx(200, rel=0.1)


def stalled(time: VirtualTime) -> VirtualServer:
    """Return a server that stalls for one second."""
    server = VirtualServer(time, together=64)
    server.takes_s = lambda now_s: max(0.001, 4.0 - now_s) if 3.0 <= now_s < 4.0 else 0.001
    return server


def test_an_open_loop_shows_a_stall_in_all_affected_requests() -> None:
    result = run(stalled(VirtualTime()), OpenLoop(rate_per_s=100))
    found = latencies(result.latencies)
    # A hundred requests are sent in that second; on average they wait half of it.
    assert found.percentile_ms(100) > 950
    share_above = 100 * (1 - 100 / found.samples)
    assert found.percentile_ms(share_above + 100 * 50 / found.samples) == pytest.approx(500, abs=120)
    assert latencies(result.send_delays).percentile_ms(99) < 1


def test_a_closed_loop_shows_the_same_stall_in_one_request_only() -> None:
    """This is coordinated omission, and why open loops exist."""
    found = latencies(run(stalled(VirtualTime()), ClosedLoop(concurrency=1)).latencies)
    assert found.percentile_ms(100) > 950
    assert found.percentile_ms(99.9) < 2


def test_late_wake_ups_are_reported_and_part_of_the_latency(time: VirtualTime) -> None:
    server = VirtualServer(time, together=64)
    server.takes_s = lambda now_s: 0.001
    time.wakes_late_s = lambda now_s: 0.004
    result = run(server, OpenLoop(rate_per_s=10))
    assert latencies(result.send_delays).percentile_ms(99) == pytest.approx(4, rel=0.01)
    assert latencies(result.latencies).percentile_ms(50) == pytest.approx(5, rel=0.01)  # 4 late, 1 served


def test_the_bound_on_requests_in_flight_is_kept_and_reported(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.1
    result = run(server, OpenLoop(rate_per_s=100), most_open=20, timeout_s=60)
    assert server.most_open == 20
    assert result.held_back > 400
    assert latencies(result.send_delays).percentile_ms(50) > 1000  # requests that were held back are late


def test_replies_after_the_end_still_count(server: VirtualServer) -> None:
    """At twice the capacity the last requests wait the longest, and must count."""
    result = run(server, OpenLoop(rate_per_s=200), timeout_s=60)
    assert result.requests == latencies(result.latencies).samples
    assert result.rates_per_s() == pytest.approx((100, 100, 100), rel=0.01)
    assert latencies(result.latencies).percentile_ms(100) > 6000


# Failures


def test_failures_are_counted_by_kind_and_the_load_goes_on(server: VirtualServer) -> None:
    refused = Overloaded(MODEL, got="a full queue")
    server.refuses = lambda now_s: refused if 2 <= now_s < 2.5 else None
    result = run(server, ClosedLoop(concurrency=4))
    assert result.failed == {"Overloaded": pytest.approx(4 * 0.5 / 0.051, abs=4)}
    assert "a full queue" in result.failure
    assert result.requests == result.failures + latencies(result.latencies).samples
    assert result.rates_per_s()[2] == pytest.approx(100, rel=0.01)
    assert not result.server_gone
    assert server.most_open <= 4


def test_a_dead_server_gets_requests_with_pauses_until_the_load_gives_up(server: VirtualServer) -> None:
    server.time.at(2.0, server.die)
    result = run(server, ClosedLoop(concurrency=4), Timing(burn_in_s=1, seconds=5, repeats=5))
    assert result.server_gone
    assert server.time.now_s() == pytest.approx(7.0, abs=0.2)
    assert result.failures < 4 * 6 / 0.05
    assert result.measured_s == pytest.approx(6.0, abs=0.2)
    assert result.rates_per_s() == pytest.approx((20,), rel=0.02)  # the replies of one second, over five
    assert result.statistics == {}


def test_a_server_that_comes_back_soon_is_measured_further(server: VirtualServer) -> None:
    server.time.at(2.0, server.die)
    server.time.at(4.0, server.come_back)
    result = run(server, ClosedLoop(concurrency=2))
    assert not result.server_gone
    assert result.failed["ConnectionLost"] == 2
    assert result.failed["Unreachable"] > 10
    assert result.rates_per_s()[2] == pytest.approx(100, rel=0.02)


def test_requests_to_a_server_that_hangs_fail_at_their_deadline(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 1000.0 if now_s > 5 else 0.01
    result = run(server, ClosedLoop(concurrency=3), timeout_s=4)
    assert result.failed == {"DeadlineExceeded": 3}
    assert server.time.now_s() == pytest.approx(9, abs=0.2)


def test_a_request_that_ignores_its_deadline_is_not_waited_for(server: VirtualServer) -> None:
    class NoDeadlines(VirtualServer):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            return super().submit(message, timeout_s=1e9 if self.time.now_s() > 6.5 else timeout_s)

    no_deadlines = NoDeadlines(server.time)
    no_deadlines.takes_s = lambda now_s: 1e8 if now_s > 6.5 else 0.01
    result = run(no_deadlines, ClosedLoop(concurrency=1))
    assert result.failed == {"no reply": 1}
    assert server.time.now_s() == pytest.approx(13, abs=0.1)


# Checks, statistics and shares


def test_one_in_so_many_replies_is_checked(server: VirtualServer) -> None:
    result = run(server, ClosedLoop(concurrency=2), check_every=50)
    assert result.checked == pytest.approx(600 / 50, abs=1)
    assert (result.wrong, result.wrong_example) == (0, "")


def test_replies_that_change_under_load_are_found(server: VirtualServer) -> None:
    def go_wrong() -> None:
        server.probabilities[3] = 0.3

    segment = Segment(loop=ClosedLoop(concurrency=2), timing=TIMING)
    traffic = traffic_of(server, check_every=10)
    server.time.at(4.0, go_wrong)
    result = LoadRun(segment, traffic, server.time).result()
    assert result.checked == pytest.approx(60, abs=1)
    assert result.wrong == pytest.approx(30, abs=1)
    assert result.wrong_example == "probabilities wrong by up to 0.2"


def test_statistics_leave_out_the_burn_in(time: VirtualTime) -> None:
    server = VirtualServer(time, together=4)
    ((before, after),) = run(server, ClosedLoop(concurrency=8)).statistics[MODEL]
    assert before.executions_by_batch[4] == pytest.approx(100, abs=3)
    assert after.executions_by_batch[4] == pytest.approx(700, abs=3)


def test_the_stalled_share_is_that_of_the_measured_time(server: VirtualServer) -> None:
    server.time.stalled_share = 0.2
    assert run(server, ClosedLoop(concurrency=1)).stalled_share == pytest.approx(0.2)


def test_a_server_that_dies_shortly_before_the_end_is_noticed(server: VirtualServer) -> None:
    server.time.at(6.5, server.die)
    assert run(server, ClosedLoop(concurrency=1)).server_gone


def test_the_cpu_share_is_that_of_the_measured_time(server: VirtualServer) -> None:
    server.time.cpu_share = 0.37
    assert run(server, ClosedLoop(concurrency=1)).cpu_share == pytest.approx(0.37)


# Interruption


def test_ctrl_c_keeps_what_was_measured(server: VirtualServer) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    server.time.at(4.0, interrupt)
    result = run(server, ClosedLoop(concurrency=3))
    assert result.interrupted
    assert result.measured_s == pytest.approx(3.0, abs=0.02)
    assert result.rates_per_s() == pytest.approx((100,), rel=0.01)
    assert server.time.now_s() == pytest.approx(4.0, abs=0.02)


def test_a_stop_in_the_first_repeat_keeps_a_part_of_it(server: VirtualServer) -> None:
    segment = Segment(loop=OpenLoop(rate_per_s=50), timing=TIMING)
    load = LoadRun(segment, traffic_of(server), server.time)
    server.time.at(2.0, load.stop)
    result = load.result()
    assert result.interrupted
    assert result.measured_s == pytest.approx(1.0, abs=0.1)
    assert result.rates_per_s() == pytest.approx((50,), rel=0.4)


def test_a_stop_cancels_the_requests_in_flight() -> None:
    cancelled: list[Future[InferReply]] = []

    class Silent(FakeTransport):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            future: Future[InferReply] = Future()
            cancelled.append(future)
            return future

    time = VirtualTime()
    traffic = traffic_of(VirtualServer(time), Silent())
    load = LoadRun(Segment(loop=ClosedLoop(concurrency=3), timing=TIMING), traffic, time)
    time.at(2.0, load.stop)
    result = load.result()
    assert [future.cancelled() for future in cancelled] == [True] * 3
    assert result.requests == 0


def test_the_system_clock_waits_until_the_time_or_a_completion() -> None:
    clock = Clock()
    completions: Completions = SimpleQueue()
    completion = Completion(0, 0.0, 0.0, Future())
    completions.put(completion)
    assert clock.wait(completions, clock.now_s() + 60) is completion
    completions.put(completion)
    assert clock.wait(completions, clock.now_s()) is None  # the time has come: sending has priority
    completions.get()
    until_s = clock.now_s() + 0.002
    with clock.realtime_priority():
        assert clock.wait(completions, until_s) is None
    assert real_time.monotonic() >= until_s


def test_other_errors_do_not_mean_that_the_server_is_gone(server: VirtualServer) -> None:
    server.refuses = lambda now_s: ClientError(MODEL, got="some error")
    result = run(server, ClosedLoop(concurrency=1), Timing(burn_in_s=0, seconds=8, repeats=2))
    assert not result.server_gone
    assert result.failed["ClientError"] > 100
