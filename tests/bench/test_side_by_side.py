"""Speed is judged by a clock that only fakes move: nothing here depends on how fast this machine is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import pytest

from alexnet_bench import Case, Plan, Ratio, Throughput
from alexnet_bench.lanes import InProcessLane, Lane, ServedLane, pool_of_images, steady_part
from alexnet_bench.side_by_side import side_by_side
from alexnet_clients import FakeTransport, InferReply, InferRequest, Message
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import Overloaded, UsageError

CONTRACT = Contract()
# Eight images, each filled with its own number.
IMAGES = np.repeat(np.arange(8, dtype=np.uint8), 224 * 224 * 3).reshape(8, 224, 224, 3)


class FakeClock:
    """Time that passes only where a fake spends it; `diary` holds who did."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.diary: list[str] = []

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float, who: str) -> None:
        self.now_s += seconds
        self.diary.append(who)


class FakeRunner:
    """Takes as long as it is told; `slowdown` is the machine's noise at a time."""

    def __init__(
        self,
        clock: FakeClock,
        name: str,
        seconds_per_image: float,
        slowdown: Callable[[float], float] = lambda now_s: 1.0,
    ) -> None:
        self._clock = clock
        self._name = name
        self._seconds_per_image = seconds_per_image
        self._slowdown = slowdown
        self.first_images: list[int] = []

    def infer(self, images: Uint8Array) -> None:
        self.first_images.append(int(images.flat[0]))
        seconds = len(images) * self._seconds_per_image
        self._clock.spend(seconds * self._slowdown(self._clock.now_s), self._name)


class ImmediateTransport(FakeTransport):
    """Answers within `submit`, in the fake clock's time."""

    def __init__(self, clock: FakeClock, name: str, seconds_per_image: float) -> None:
        super().__init__()
        self._clock = clock
        self._name = name
        self._seconds_per_image = seconds_per_image

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        request = message.request
        self.requests.append(request)
        seconds = len(request.images) * self._seconds_per_image
        self._clock.spend(seconds, self._name)
        future: Future[InferReply] = Future()
        future.set_result(
            InferReply(outputs={}, latency_ms=1e3 * seconds, request_bytes=request.images.nbytes)
        )
        return future


def case(precision: str = "int8", *, served: bool = False, batch: int = 2, in_flight: int = 1) -> Case:
    values = {
        "precision": precision,
        "through": "server" if served else "in process",
        "runtime": "fake",
        "device": "none",
        "computes_in": "nothing",
        "batch": batch,
        "in_flight": in_flight,
    }
    return Case.model_validate(values)


def served_lane(
    transport: FakeTransport,
    *,
    batch: int = 2,
    in_flight: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> ServedLane:
    return ServedLane(
        case(served=True, batch=batch, in_flight=in_flight),
        transport,
        "alexnet_int8",
        IMAGES,
        contract=CONTRACT,
        clock=clock,
    )


def row_of(rows: tuple[Throughput, ...], case: Case) -> Throughput:
    return next(row for row in rows if row.case == case)


def test_in_process_counts_images_over_time() -> None:
    clock = FakeClock()
    lane = InProcessLane(case(batch=4), FakeRunner(clock, "a", 0.025), IMAGES, clock=clock)
    measured = lane.run(0.25)
    assert measured.images == 12  # calls of 0.1 s: the third ends past the time
    assert measured.throughput_per_s == pytest.approx(40)
    assert measured.latencies_ms == pytest.approx((100, 100, 100))


def test_a_slice_shorter_than_a_call_is_one_whole_call() -> None:
    clock = FakeClock()
    measured = InProcessLane(case(), FakeRunner(clock, "a", 5.0), IMAGES, clock=clock).run(0.001)
    assert (measured.images, measured.seconds) == (2, 10)


def test_inputs_rotate_over_slices_too() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, "a", 0.5)
    lane = InProcessLane(case(batch=2), runner, IMAGES, clock=clock)
    lane.run(3)
    lane.run(3)
    assert runner.first_images == [0, 2, 4, 6, 0, 2]


def test_served_time_runs_while_the_pipeline_is_full() -> None:
    clock = FakeClock()
    transport = ImmediateTransport(clock, "server", 0.05)
    measured = served_lane(transport, clock=clock).run(0.25)
    # Answers at 0.1 (the pipeline is full), 0.2, 0.3 and 0.4 s; the last one comes past the time.
    assert len(transport.requests) == 4
    assert measured.images == 4
    assert measured.seconds == pytest.approx(0.2)
    assert measured.latencies_ms == pytest.approx((100, 100))
    assert measured.client_cpu_share is not None
    assert [int(request.images.flat[0]) for request in transport.requests] == [0, 2, 4, 6]
    assert all(request.images.base is not None for request in transport.requests)  # views, not copies


@pytest.mark.parametrize("seconds", [0.5, 0.7, 0.9, 1.1, 1.3, 1.5])
@pytest.mark.parametrize("in_flight", [1, 2, 3, 4, 5])
def test_answers_in_groups_are_counted_from_the_end_of_a_group_to_the_end_of_a_group(
    seconds: float, in_flight: int
) -> None:
    """Four answers together every 0.4 s: 10 a second, wherever the filling ends or the time runs out."""
    ends_s = [0.4 * (group + 1) + 0.001 * place for group in range(8) for place in range(4)]
    answers, measured_s = steady_part(ends_s, in_flight, seconds, quickest_s=0.1)
    assert answers % 4 == 0
    assert answers / measured_s == pytest.approx(10)


def test_a_time_shorter_than_a_group_still_counts_a_whole_one() -> None:
    ends_s = [0.4, 0.401, 0.8, 0.801, 1.2, 1.201]
    answers, measured_s = steady_part(ends_s, 2, 0.01, quickest_s=0.1)
    assert (answers, round(measured_s, 6)) == (2, 0.4)


def test_an_even_stream_has_no_groups() -> None:
    ends_s = [0.1 + 0.01 * number for number in range(60)]
    for seconds in (0.001, 0.2, 0.3):
        answers, measured_s = steady_part(ends_s, 8, seconds, quickest_s=0.08)
        assert answers >= 8
        assert answers / measured_s == pytest.approx(100)


@pytest.mark.parametrize("in_flight", [1, 2, 16])
def test_as_many_requests_are_in_flight_as_asked_and_none_after(in_flight: int) -> None:
    transport = FakeTransport(delay_s=0.005)
    measured = served_lane(transport, batch=1, in_flight=in_flight).run(0.1)
    assert transport.peak_in_flight == in_flight
    assert transport.in_flight == 0
    assert 0 < measured.images <= len(transport.requests) - in_flight
    transport.close()


def test_a_request_that_is_not_answered_leaves_no_figure() -> None:
    def refuse(request: InferRequest) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        raise Overloaded("alexnet_int8", got="a full queue")

    transport = FakeTransport(predict=refuse)
    with pytest.raises(Overloaded):
        served_lane(transport, in_flight=4).run(0.01)
    transport.close()


def test_lanes_run_one_at_a_time_in_turn_and_every_other_round_backwards() -> None:
    clock = FakeClock()
    lanes: list[Lane] = [
        InProcessLane(case("fp32"), FakeRunner(clock, "a", 0.5), IMAGES, clock=clock),
        served_lane(ImmediateTransport(clock, "b", 0.5), clock=clock),
        InProcessLane(case("fp16"), FakeRunner(clock, "c", 0.5), IMAGES, clock=clock),
    ]
    side_by_side(lanes, Plan(rounds=3, slice_s=1, burn_in_s=0.5))
    # A served lane asks twice: the first answer ends the filling.
    assert "".join(clock.diary) == "abbc" + "abbc" + "cbba" + "abbc"


def test_the_burn_in_is_thrown_away() -> None:
    clock = FakeClock()

    def cold(now_s: float) -> float:
        return 100.0 if now_s < 1 else 1.0

    lane = InProcessLane(case(), FakeRunner(clock, "a", 0.5, cold), IMAGES, clock=clock)
    (row,) = side_by_side([lane], Plan(rounds=3, slice_s=1)).rows()
    assert (row.throughput_low_per_s, row.throughput_high_per_s) == pytest.approx((2, 2))


def test_a_row_is_the_median_with_its_spread() -> None:
    clock = FakeClock()
    noise = iter([1.0, 1.0, 4.0, 0.5, 1.0, 2.0])
    runner = FakeRunner(clock, "a", 0.5, lambda now_s: next(noise))
    (row,) = side_by_side(
        [InProcessLane(case(), runner, IMAGES, clock=clock)], Plan(rounds=5, slice_s=0.1)
    ).rows()
    assert row.throughput_per_s == pytest.approx(2)
    assert (row.throughput_low_per_s, row.throughput_high_per_s) == pytest.approx((0.5, 4))
    assert row.latency_p50_ms == pytest.approx(1000)
    assert (row.slices, row.images) == (5, 10)
    assert row.client_cpu_share is None
    assert json.loads(row.model_dump_json())["case"]["computes_in"] == "nothing"


def test_a_ratio_is_taken_within_rounds_so_that_drift_and_hiccups_fall_out() -> None:
    """The machine slows down fourfold over the run, and one slice is a hundred times too slow."""
    clock = FakeClock()

    def drift(now_s: float) -> float:
        return 100.0 if 21 < now_s < 23 else 1 + now_s / 20

    slow, fast = case("fp32"), case("int8")
    lanes: list[Lane] = [
        InProcessLane(slow, FakeRunner(clock, "slow", 0.6, drift), IMAGES, clock=clock),
        InProcessLane(fast, FakeRunner(clock, "fast", 0.2, drift), IMAGES, clock=clock),
    ]
    measured = side_by_side(lanes, Plan(rounds=9, slice_s=2))
    ratio = measured.ratio(fast, slow)
    assert ratio.ratio == pytest.approx(3, rel=0.1)
    assert ratio.rounds == 9
    assert ratio.ratio_high > 10  # the hiccup shows in the spread
    with pytest.raises(KeyError):
        measured.ratio(fast, case("fp16"))


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0.25, "faster"), (1.0, "slower"), (0.5, "no clear difference")]
)
def test_a_precision_that_is_no_faster_is_called_so(seconds: float, verdict: str) -> None:
    clock = FakeClock()
    wobble = iter([1.0, 1.1, 0.9, 1.0] * 100)
    lanes: list[Lane] = [
        InProcessLane(case("fp32"), FakeRunner(clock, "a", 0.5), IMAGES, clock=clock),
        InProcessLane(
            case("int8"), FakeRunner(clock, "b", seconds, lambda now_s: next(wobble)), IMAGES, clock=clock
        ),
    ]
    ratio = side_by_side(lanes, Plan(rounds=4, slice_s=0.1)).ratio(case("int8"), case("fp32"))
    assert ratio.verdict == verdict
    assert Ratio.model_validate_json(ratio.model_dump_json()) == ratio


def test_progress_counts_every_slice() -> None:
    clock = FakeClock()
    seen: list[tuple[int, int]] = []
    lane = InProcessLane(case(), FakeRunner(clock, "a", 0.5), IMAGES, clock=clock)
    side_by_side(
        [lane],
        Plan(rounds=2, slice_s=1),
        progress=lambda stage, done, total, note="": seen.append((done, total)),
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("rounds", "slice_s", "burn_in_s"), [(0, 1, 0), (1, 0, 0), (1, -1, 0), (1, float("nan"), 0), (1, 1, -1)]
)
def test_plans_that_measure_nothing_are_refused(rounds: int, slice_s: float, burn_in_s: float) -> None:
    with pytest.raises(UsageError):
        Plan(rounds=rounds, slice_s=slice_s, burn_in_s=burn_in_s)


def test_the_pool_of_images_is_the_contracts_and_no_two_images_are_alike() -> None:
    images = pool_of_images(CONTRACT, 4)
    assert CONTRACT.checked(images) is not None
    assert len({image.tobytes() for image in images}) == 4


def test_interrupting_a_slice_cancels_what_is_open() -> None:
    opened: list[Future[InferReply]] = []

    class Interrupted(FakeTransport):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            if len(opened) == 2:
                raise KeyboardInterrupt
            opened.append(Future())
            return opened[-1]

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        served_lane(Interrupted(), in_flight=4).run(1)
    assert [future.cancelled() for future in opened] == [True, True]
    assert threading.active_count() == before
