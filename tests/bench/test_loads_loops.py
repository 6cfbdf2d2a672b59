"""The two loops of one process, in virtual time: what is sent when, and what is counted of it."""

from __future__ import annotations

import time as real_time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.loads.load_results import Outcome
from alexnet_bench.loads.loops import LoadRun
from alexnet_bench.loads.plans import ClosedLoop, Loop, OpenLoop, Part, Timing
from alexnet_clients import FakeTransport, InferReply, Message
from alexnet_model.errors import ClientError, Overloaded

from .load_fakes import MODEL, VirtualServer, VirtualTime, asking

TIMING = Timing(burn_in_s=1.0, seconds=2.0, repeats=3)


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def server(time: VirtualTime) -> VirtualServer:
    return VirtualServer(time)


def run(server: VirtualServer, loop: Loop, timing: Timing = TIMING, **options: Any) -> Outcome:
    asked = asking(server, **options)
    part = Part(loop=loop, timing=timing, starts_s=server.time.now_s(), statistics_of=(MODEL,))
    return LoadRun(part, asked, asked.indices(), server.time).outcome()


def latencies(encoded: bytes | None) -> LatencyHistogram:
    assert encoded is not None
    histogram = LatencyHistogram()
    histogram.add(encoded)
    return histogram


# The closed loop


def test_a_closed_loop_keeps_so_many_open_and_no_more(server: VirtualServer) -> None:
    outcome = run(server, ClosedLoop(concurrency=5))
    assert server.most_open == 5
    assert server.open_at_once == 0
    assert outcome.rates_per_s() == pytest.approx((100, 100, 100), rel=0.01)
    assert latencies(outcome.latencies).latencies().p50_ms == pytest.approx(50, rel=2e-3)
    assert outcome.requests == pytest.approx(600, abs=2)
    assert (outcome.failures, outcome.late) == (0, None)


def test_one_at_a_time(server: VirtualServer) -> None:
    outcome = run(server, ClosedLoop(concurrency=1))
    assert server.most_open == 1
    assert latencies(outcome.latencies).latencies().max_ms == pytest.approx(10, rel=2e-3)


def test_the_burn_in_is_thrown_away(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.3 if now_s < 0.5 else 0.01
    outcome = run(server, ClosedLoop(concurrency=1))
    assert latencies(outcome.latencies).latencies().max_ms == pytest.approx(10, rel=2e-3)
    assert outcome.rates_per_s() == pytest.approx((100, 100, 100), rel=0.01)


def test_repeats_are_told_apart(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.02 if 3 <= now_s < 5 else 0.01
    assert run(server, ClosedLoop(concurrency=2)).rates_per_s() == pytest.approx((100, 50, 100), rel=0.02)


def test_requests_come_round_again(server: VirtualServer) -> None:
    asked = asking(server)
    seen: list[int] = []

    class Watched(VirtualServer):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            seen.append(list(map(id, asked.messages)).index(id(message)))
            return super().submit(message, timeout_s=timeout_s)

    watched = Watched(server.time)
    asked = asking(watched, timeout_s=5.0)
    asked = type(asked)(
        transport=watched,
        messages=[Message(message.request, b"") for message in asked.messages],
        expected=asked.expected,
        timeout_s=5.0,
    )
    part = Part(loop=ClosedLoop(concurrency=1), timing=Timing(burn_in_s=0, seconds=0.095, repeats=1))
    LoadRun(part, asked, asked.indices(), server.time).outcome()
    assert seen == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_answers_that_are_there_at_once_do_not_nest() -> None:
    class AtOnce(FakeTransport):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            moved._now_s += 1e-3
            return super().submit(message, timeout_s=timeout_s)

    moved = VirtualTime()
    transport = AtOnce(predict=lambda request: np.full((1, 10), 0.1, np.float32))
    asked = asking(VirtualServer(moved))
    asked = type(asked)(transport=transport, messages=asked.messages, expected=asked.expected, timeout_s=5.0)
    part = Part(loop=ClosedLoop(concurrency=4), timing=Timing(burn_in_s=0, seconds=10, repeats=1))
    outcome = LoadRun(part, asked, asked.indices(), moved).outcome()
    assert outcome.requests == pytest.approx(10_000, abs=4)


# The open loop


def test_an_open_loop_sends_when_it_meant_to_whatever_the_server_does(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.001
    outcome = run(server, OpenLoop(rate_per_s=200))
    assert latencies(outcome.late).percentile_ms(100) <= 0.001
    assert outcome.requests == pytest.approx(1200, abs=4 * 1200**0.5)
    assert np.mean(outcome.rates_per_s()) == pytest.approx(200, rel=0.1)


def stalled(time: VirtualTime) -> VirtualServer:
    """It stands still for a whole second."""
    server = VirtualServer(time, together=64)
    server.takes_s = lambda now_s: max(0.001, 4.0 - now_s) if 3.0 <= now_s < 4.0 else 0.001
    return server


def test_a_stall_is_spared_to_none_of_an_open_loops_requests() -> None:
    outcome = run(stalled(VirtualTime()), OpenLoop(rate_per_s=100))
    found = latencies(outcome.latencies)
    # A hundred requests were to be sent in that second; on average they waited half of it.
    assert found.percentile_ms(100) > 950
    share_above = 100 * (1 - 100 / found.samples)
    assert found.percentile_ms(share_above + 100 * 50 / found.samples) == pytest.approx(500, abs=120)
    assert latencies(outcome.late).percentile_ms(99) < 1


def test_a_closed_loop_hides_the_same_stall() -> None:
    """That is why open loops are there: all but one of its requests never met the stall."""
    found = latencies(run(stalled(VirtualTime()), ClosedLoop(concurrency=1)).latencies)
    assert found.percentile_ms(100) > 950
    assert found.percentile_ms(99.9) < 2


def test_a_generator_that_wakes_up_late_says_so_and_hides_nothing(time: VirtualTime) -> None:
    server = VirtualServer(time, together=64)
    server.takes_s = lambda now_s: 0.001
    time.wakes_late_s = lambda now_s: 0.004
    outcome = run(server, OpenLoop(rate_per_s=10))
    assert latencies(outcome.late).percentile_ms(99) == pytest.approx(4, rel=0.01)
    assert latencies(outcome.latencies).percentile_ms(50) == pytest.approx(5, rel=0.01)  # 4 late, 1 served


def test_a_bound_on_open_requests_is_held_and_said(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 0.1
    outcome = run(server, OpenLoop(rate_per_s=100), most_open=20, timeout_s=60)
    assert server.most_open == 20
    assert outcome.held_back > 400
    assert latencies(outcome.late).percentile_ms(50) > 1000  # what was held back is late


def test_what_is_answered_after_the_end_still_counts(server: VirtualServer) -> None:
    """Twice as much as it can do: who came last waited the longest, and is not forgotten."""
    outcome = run(server, OpenLoop(rate_per_s=200), timeout_s=60)
    assert outcome.requests == latencies(outcome.latencies).samples
    assert outcome.rates_per_s() == pytest.approx((100, 100, 100), rel=0.01)
    assert latencies(outcome.latencies).percentile_ms(100) > 6000


# Failures


def test_failures_are_counted_by_kind_and_end_nothing(server: VirtualServer) -> None:
    refused = Overloaded(MODEL, got="a full queue")
    server.refuses = lambda now_s: refused if 2 <= now_s < 2.5 else None
    outcome = run(server, ClosedLoop(concurrency=4))
    assert outcome.failed == {"Overloaded": pytest.approx(4 * 0.5 / 0.051, abs=4)}
    assert "a full queue" in outcome.failure
    assert outcome.requests == outcome.failures + latencies(outcome.latencies).samples
    assert outcome.rates_per_s()[2] == pytest.approx(100, rel=0.01)
    assert not outcome.server_gone
    assert server.most_open <= 4


def test_a_dead_server_is_not_asked_without_a_pause_and_given_up_at_last(server: VirtualServer) -> None:
    server.time.at(2.0, server.die)
    outcome = run(server, ClosedLoop(concurrency=4), Timing(burn_in_s=1, seconds=5, repeats=5))
    assert outcome.server_gone
    assert server.time.now_s() == pytest.approx(7.0, abs=0.2)
    assert outcome.failures < 4 * 6 / 0.05
    assert outcome.measured_s == pytest.approx(6.0, abs=0.2)
    assert outcome.rates_per_s() == pytest.approx((20,), rel=0.02)  # one second's answers, over five
    assert outcome.statistics == {}


def test_a_server_that_comes_back_soon_is_measured_on(server: VirtualServer) -> None:
    server.time.at(2.0, server.die)
    server.time.at(4.0, server.come_back)
    outcome = run(server, ClosedLoop(concurrency=2))
    assert not outcome.server_gone
    assert outcome.failed["ConnectionLost"] == 2
    assert outcome.failed["Unreachable"] > 10
    assert outcome.rates_per_s()[2] == pytest.approx(100, rel=0.02)


def test_a_server_that_hangs_costs_its_requests_their_deadline(server: VirtualServer) -> None:
    server.takes_s = lambda now_s: 1000.0 if now_s > 5 else 0.01
    outcome = run(server, ClosedLoop(concurrency=3), timeout_s=4)
    assert outcome.failed == {"DeadlineExceeded": 3}
    assert server.time.now_s() == pytest.approx(9, abs=0.2)


def test_a_request_that_outlives_its_deadline_is_not_waited_for(server: VirtualServer) -> None:
    class Deaf(VirtualServer):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            return super().submit(message, timeout_s=1e9 if self.time.now_s() > 6.5 else timeout_s)

    deaf = Deaf(server.time)
    deaf.takes_s = lambda now_s: 1e8 if now_s > 6.5 else 0.01
    outcome = run(deaf, ClosedLoop(concurrency=1))
    assert outcome.failed == {"no answer": 1}
    assert server.time.now_s() == pytest.approx(13, abs=0.1)


# What is read beside


def test_every_so_many_answers_are_checked(server: VirtualServer) -> None:
    outcome = run(server, ClosedLoop(concurrency=2), check_every=50)
    assert outcome.checked == pytest.approx(600 / 50, abs=1)
    assert (outcome.wrong, outcome.fault) == (0, "")


def test_answers_that_change_under_load_are_found(server: VirtualServer) -> None:
    asked = asking(server, check_every=10)

    def go_wrong() -> None:
        server.probabilities[3] = 0.3

    server.time.at(4.0, go_wrong)
    part = Part(loop=ClosedLoop(concurrency=2), timing=TIMING)
    outcome = LoadRun(part, asked, asked.indices(), server.time).outcome()
    assert outcome.checked == pytest.approx(60, abs=1)
    assert outcome.wrong == pytest.approx(30, abs=1)
    assert outcome.fault == "probabilities 0.2 away from what they should be"


def test_statistics_are_those_of_what_was_measured(time: VirtualTime) -> None:
    server = VirtualServer(time, together=4)
    ((before, after),) = run(server, ClosedLoop(concurrency=8)).statistics[MODEL]
    assert before.executions_by_batch[4] == pytest.approx(100, abs=3)
    assert after.executions_by_batch[4] == pytest.approx(700, abs=3)


def test_the_share_that_it_was_kept_from_running_is_that_of_the_measured_time(server: VirtualServer) -> None:
    server.time.away_share = 0.2
    assert run(server, ClosedLoop(concurrency=1)).away_share == pytest.approx(0.2)


def test_a_server_that_is_gone_at_the_end_is_noticed_however_late_it_went(server: VirtualServer) -> None:
    server.time.at(6.5, server.die)
    assert run(server, ClosedLoop(concurrency=1)).server_gone


def test_the_cpu_share_is_that_of_the_measured_time(server: VirtualServer) -> None:
    server.time.cpu_share = 0.37
    assert run(server, ClosedLoop(concurrency=1)).cpu_share == pytest.approx(0.37)


# Being stopped


def test_an_interrupt_keeps_what_was_measured(server: VirtualServer) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    server.time.at(4.0, interrupt)
    outcome = run(server, ClosedLoop(concurrency=3))
    assert outcome.interrupted
    assert outcome.measured_s == pytest.approx(3.0, abs=0.02)
    assert outcome.rates_per_s() == pytest.approx((100,), rel=0.01)
    assert server.time.now_s() == pytest.approx(4.0, abs=0.02)


def test_an_interrupt_in_the_first_repeat_keeps_a_part_of_it(server: VirtualServer) -> None:
    asked = asking(server)
    part = Part(loop=OpenLoop(rate_per_s=50), timing=TIMING)
    load = LoadRun(part, asked, asked.indices(), server.time)
    server.time.at(2.0, load.stop)
    outcome = load.outcome()
    assert outcome.interrupted
    assert outcome.measured_s == pytest.approx(1.0, abs=0.1)
    assert outcome.rates_per_s() == pytest.approx((50,), rel=0.4)


def test_nothing_is_left_running_after_a_stop() -> None:
    cancelled: list[Future[InferReply]] = []

    class Silent(FakeTransport):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            future: Future[InferReply] = Future()
            cancelled.append(future)
            return future

    time = VirtualTime()
    asked = asking(VirtualServer(time))
    asked = type(asked)(transport=Silent(), messages=asked.messages, expected=asked.expected, timeout_s=5.0)
    load = LoadRun(Part(loop=ClosedLoop(concurrency=3), timing=TIMING), asked, asked.indices(), time)
    time.at(2.0, load.stop)
    outcome = load.outcome()
    assert [future.cancelled() for future in cancelled] == [True] * 3
    assert outcome.requests == 0


def test_the_real_clock_waits_until_the_moment_and_wakes_up_for_an_answer() -> None:
    from queue import SimpleQueue

    from alexnet_bench.loads.waiting import Answer, Answers, SystemClock

    clock = SystemClock()
    answers: Answers = SimpleQueue()
    future: Future[InferReply] = Future()
    answer = Answer(0, 0.0, 0.0, future)
    answers.put(answer)
    assert clock.next(answers, clock.now_s() + 60) is answer
    answers.put(answer)
    assert clock.next(answers, clock.now_s()) is None  # it is time: sending comes first
    answers.get()
    until_s = clock.now_s() + 0.002
    with clock.first_in_line():
        assert clock.next(answers, until_s) is None
    assert real_time.monotonic() >= until_s


def test_errors_of_the_transport_are_the_only_ones_that_count_as_away(server: VirtualServer) -> None:
    server.refuses = lambda now_s: ClientError(MODEL, got="something else")
    outcome = run(server, ClosedLoop(concurrency=1), Timing(burn_in_s=0, seconds=8, repeats=2))
    assert not outcome.server_gone
    assert outcome.failed["ClientError"] > 100
