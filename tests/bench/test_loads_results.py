"""Results of a load: combining them, the row with its verdict, server statistics, and batching in words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from alexnet_bench import ClosedLoop, Load, LoadResult, ModelUnderTest, OpenLoop
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.loads.plans import Loop
from alexnet_bench.loads.results import (
    Span,
    batching_in_words,
    combined_in_parallel,
    combined_in_sequence,
    counted_in,
    counted_too_few,
    counters_restarted,
    load_row,
    load_verdict,
)
from alexnet_bench.schema import LoadRow
from alexnet_clients import FakeTransport, ModelStatistics, ServerUrl

SIXTEEN = ClosedLoop(concurrency=16)
CONFIG = FakeTransport().model_config("alexnet_int8", timeout_s=1).result()


def encoded(*latencies_ms: float, times: int = 1) -> bytes:
    histogram = LatencyHistogram()
    histogram.record_all(latencies_ms * times)
    return histogram.encoded()


def result(**changes: Any) -> LoadResult:
    usual = LoadResult(
        latencies=encoded(10.0, times=1000),
        send_delays=None,
        completed=(500, 490, 510),
        requests=1000,
        failed={},
        failure="",
        checked=20,
        wrong=0,
        wrong_example="",
        cpu_share=0.2,
        stalled_share=0.001,
        held_back=0,
        measured_s=15.0,
        repeat_s=5.0,
    )
    return replace(usual, **changes)


def model_under_test() -> ModelUnderTest:
    config = replace(CONFIG, queue_delay_us=0)
    return ModelUnderTest(
        url=ServerUrl.parse("grpc://127.0.0.1:8001"), config=config, network=config, device="CPU"
    )


def row(found: LoadResult, loop: Loop = SIXTEEN, *, batch: int = 1) -> LoadRow:
    load = Load(model="alexnet_int8", loop=loop, batch=batch)
    made = load_row(model_under_test(), load, found, request_bytes=150_528)
    assert made is not None
    return made


def test_a_row_has_the_labels_and_figures_of_its_load() -> None:
    made = row(result(), batch=8)
    assert (made.model, made.url_scheme, made.loop) == ("alexnet_int8", "grpc", "closed")
    assert (made.concurrency, made.rate_per_s, made.batch) == (16, None, 8)
    assert (made.engine.precision, made.engine.device) == ("int8", "CPU")
    assert made.throughput.value == 8 * 100
    assert made.throughput.repeats == (800, 784, 816)
    assert made.latencies.p99_ms == pytest.approx(10, rel=2e-3)
    assert made.verdict.is_valid
    opened = row(result(send_delays=encoded(0.1)), OpenLoop(rate_per_s=100))
    assert (opened.loop, opened.concurrency, opened.rate_per_s) == ("open", None, 100)
    assert opened.late_p99_ms == pytest.approx(0.1)


def test_an_open_loop_above_the_servers_capacity_is_invalid() -> None:
    delays = encoded(0.1)
    (reason,) = row(result(send_delays=delays), OpenLoop(rate_per_s=150)).verdict.reasons
    assert reason.rule == "server overloaded"
    assert "the server replied to 100 of 150 requests/s" in reason.found
    # 1,500 replies of 1,560 planned requests: Poisson arrivals may be fewer by as many.
    assert row(result(send_delays=delays), OpenLoop(rate_per_s=104)).verdict.is_valid
    assert row(result(), ClosedLoop(concurrency=1000)).verdict.is_valid


def test_json_has_figures_with_units_in_their_names_and_can_be_read() -> None:
    made = row(result())
    content = json.loads(made.model_dump_json())
    assert content["throughput_per_s"] == 100
    assert content["latency_p50_ms"] == made.latencies.p50_ms
    assert content["latency_p99_ms"] == made.latencies.p99_ms
    assert content["latency_p99_9_ms"] is None
    assert LoadRow.model_validate(content) == made


def test_the_histogram_is_in_the_row() -> None:
    histogram = LatencyHistogram()
    histogram.add(row(result()).histogram.encode())
    assert histogram.samples == 1000


def test_the_executions_of_an_ensemble_are_those_of_its_network() -> None:
    before, after = (ModelStatistics(requests=n, executions_by_batch={16: n}) for n in (100, 150))
    ensemble = replace(CONFIG, name="alexnet", steps=("alexnet_decode", "alexnet_int8"))
    of_ensemble = ModelUnderTest(
        url=ServerUrl.parse("http://127.0.0.1:8000"),
        config=ensemble,
        network=replace(CONFIG, queue_delay_us=0),
        device="CPU",
    )
    assert of_ensemble.counted == ("alexnet", "alexnet_decode", "alexnet_int8")
    found = result(requests=50, statistics={"alexnet_int8": ((before, after),)})
    load = Load(model="alexnet", loop=SIXTEEN)
    made = load_row(of_ensemble, load, found, request_bytes=48_000)
    assert made is not None
    assert (made.model, made.executions_by_batch) == ("alexnet", {16: 50})
    assert made.batching.startswith("yes: 16.0 images")


def test_there_is_no_row_without_a_reply() -> None:
    empty = LatencyHistogram().encoded()
    for found in (result(latencies=empty), result(measured_s=0.0)):
        load = Load(model="alexnet_int8", loop=SIXTEEN)
        assert load_row(model_under_test(), load, found, request_bytes=1) is None


@pytest.mark.parametrize(
    ("changes", "rule", "found"),
    [
        (
            {"failed": {"Overloaded": 3, "Late": 1}, "failure": "full"},
            "errors",
            "4 of 1,000 requests failed, such as: full (3 Overloaded, 1 Late)",
        ),
        ({"send_delays": encoded(0.1, 3.0)}, "generator late", "3.00 ms late"),
        ({"held_back": 7}, "generator late", "7 requests waited because too many were in flight"),
        ({"cpu_share": 0.97}, "client saturated", "97% of a core"),
        ({"stalled_share": 0.3}, "generator starved", "could not run for 30% of the time"),
        (
            {"wrong": 2, "wrong_example": "NaN"},
            "wrong answers",
            "2 of 20 checked responses were wrong, such as: NaN",
        ),
        ({"server_gone": True, "failure": "refused"}, "server gone", "after 15.0 s, such as: refused"),
        ({"interrupted": True}, "interrupted", "stopped after 15.0 s"),
        ({"requests": 10}, "too few samples", "10 replies, where a median needs 11"),
    ],
)
def test_each_reason_makes_a_row_invalid(changes: dict[str, Any], rule: str, found: str) -> None:
    (reason,) = load_verdict(result(**changes), SIXTEEN).reasons
    assert reason.rule == rule
    assert found in reason.found
    assert reason.advice


def test_a_restart_is_found_by_lower_counters() -> None:
    before, after = (ModelStatistics(requests=n, executions_by_batch={1: n}) for n in (900, 100))
    made = row(result(statistics={"alexnet_int8": ((before, after),)}))
    assert [reason.rule for reason in made.verdict.reasons] == ["server gone"]
    assert made.executions_by_batch == {}
    assert made.batching.startswith("unknown")


def test_a_restart_is_found_by_too_few_counted_requests() -> None:
    before, after = (ModelStatistics(requests=n, executions_by_batch={1: n}) for n in (20, 720))
    (reason,) = row(result(statistics={"alexnet_int8": ((before, after),)})).verdict.reasons
    assert reason.rule == "server gone"
    assert "counted fewer requests than it replied to" in reason.found


def test_a_server_that_counts_nothing_was_not_restarted() -> None:
    nothing = ModelStatistics(), ModelStatistics()
    assert row(result(statistics={"alexnet_int8": (nothing,)})).verdict.is_valid


def test_results_of_processes_add_up() -> None:
    one = result(send_delays=encoded(0.1), failed={"A": 1}, cpu_share=0.2, wrong_example="", measured_s=15.0)
    two = result(
        latencies=encoded(30.0, times=500),
        send_delays=encoded(2.0),
        completed=(1, 2, 3),
        failed={"A": 1, "B": 2},
        failure="b",
        cpu_share=0.6,
        wrong=1,
        wrong_example="off",
        interrupted=True,
        measured_s=12.0,
    )
    both = combined_in_parallel([one, two])
    assert (both.completed, both.requests, both.checked, both.wrong) == ((501, 492, 513), 2000, 40, 1)
    assert (both.failed, both.failures, both.failure, both.wrong_example) == ({"A": 2, "B": 2}, 4, "b", "off")
    assert (both.cpu_share, both.measured_s, both.interrupted) == (0.6, 12.0, True)
    total = LatencyHistogram()
    total.add(both.latencies)
    assert total.samples == 1500
    assert total.percentile_ms(60) == pytest.approx(10, rel=2e-3)
    assert total.percentile_ms(70) == pytest.approx(30, rel=2e-3)
    assert both.send_delays is not None


def test_results_of_rounds_are_one_load() -> None:
    """Shares are means over the measured time; the time between the rounds does not count."""
    spans = tuple(
        (ModelStatistics(requests=at, executions_by_batch={1: at}), ModelStatistics(requests=at + 500))
        for at in (100, 900)
    )
    one, two = (
        result(
            completed=(count,),
            measured_s=5.0,
            cpu_share=share,
            stalled_share=share / 2,
            failed=failed,
            statistics={"alexnet_int8": (span,)},
        )
        for count, share, failed, span in zip((500, 400), (0.2, 0.4), ({}, {"A": 2}), spans, strict=True)
    )
    both = combined_in_sequence([one, two])
    assert both.rates_per_s() == (100, 80)
    assert (both.requests, both.failures, both.measured_s) == (2000, 2, 10.0)
    assert both.cpu_share == pytest.approx(0.3)
    assert both.stalled_share == pytest.approx(0.15)
    assert both.statistics == {"alexnet_int8": spans}


@pytest.mark.parametrize(
    ("measured_s", "rates"), [(15.0, (100, 98, 102)), (14.0, (100, 98)), (4.0, (125,)), (0.0, ())]
)
def test_rates_are_those_of_whole_repeats_or_of_a_part_of_the_first(
    measured_s: float, rates: tuple[float, ...]
) -> None:
    assert result(measured_s=measured_s).rates_per_s() == pytest.approx(rates)


# Server statistics


def statistics(requests: int, executions: dict[int, int]) -> ModelStatistics:
    return ModelStatistics(requests=requests, compute_infer_ns=7 * requests, executions_by_batch=executions)


BEFORE, AFTER = statistics(10, {1: 4, 2: 3}), statistics(31, {1: 4, 2: 8, 11: 1})


def test_counts_are_the_difference_of_two_readings() -> None:
    assert counted_in([(BEFORE, AFTER)]) == ModelStatistics(
        requests=21, compute_infer_ns=147, executions_by_batch={2: 5, 11: 1}
    )
    assert not counters_restarted(BEFORE, AFTER)


def test_counts_of_several_spans_add_up_without_the_time_between_them() -> None:
    later: Span = (statistics(100, {1: 90}), statistics(104, {1: 94}))
    counted = counted_in([(BEFORE, AFTER), later])
    assert (counted.requests, dict(counted.executions_by_batch)) == (25, {1: 4, 2: 5, 11: 1})


@pytest.mark.parametrize(
    "after", [statistics(3, {1: 3}), statistics(500, {1: 500}), statistics(90, {1: 1, 2: 44})]
)
def test_lower_counters_mean_a_restart(after: ModelStatistics) -> None:
    assert counters_restarted(BEFORE, after)
    assert counted_in([(BEFORE, after)]) == ModelStatistics()


@pytest.mark.parametrize(
    ("counted", "replies", "too_few"),
    [(700, 1000, True), (1000, 1000, False), (850, 1000, False), (5, 30, False), (0, 1000, False)],
)
def test_clearly_fewer_counted_requests_than_replies(counted: int, replies: int, too_few: bool) -> None:
    """Some requests are in flight at the readings, and some servers count nothing at all."""
    spans = [(ModelStatistics(requests=5), ModelStatistics(requests=5 + counted))]
    assert counted_too_few(spans, replies) is too_few


# Batching in words


def words(
    executions: dict[int, int],
    *,
    batch: int = 1,
    max_batch: int = 64,
    queue_delay_us: int | None = 0,
    loop: Loop = SIXTEEN,
) -> str:
    """Of an execution that takes 5 ms."""
    requests = sum(executions.values())
    counted = ModelStatistics(
        requests=requests, compute_infer_ns=5_000_000 * requests, executions_by_batch=executions
    )
    network = replace(CONFIG, max_batch=max_batch, queue_delay_us=queue_delay_us)
    return batching_in_words(counted, Load(model="alexnet_int8", loop=loop, batch=batch), network)


def test_mostly_large_executions_are_batching() -> None:
    assert words({1: 10, 7: 90}) == "yes: 6.4 images an execution on average, 7 at most"


def test_a_few_large_executions_among_many_single_ones_are_batching() -> None:
    assert words({1: 1000, 16: 40}).startswith("yes: 1.6 images")


def test_large_requests_that_are_executed_alone_are_not_batching() -> None:
    assert words({8: 100}, batch=8).startswith("no: ")
    assert words({8: 10, 32: 30}, batch=8).startswith("yes: 26.0 images")


@pytest.mark.parametrize("max_batch", [0, 1])
def test_a_model_without_batches(max_batch: int) -> None:
    assert words({1: 100}, max_batch=max_batch) == f"no: max_batch_size is {max_batch}"


def test_a_model_without_a_dynamic_batcher() -> None:
    assert words({1: 100}, queue_delay_us=None) == "no: the model has no dynamic_batching"


def test_requests_too_large_for_two() -> None:
    assert "two requests of 40 images are more than max_batch_size 64" in words({40: 100}, batch=40)
    assert "max_batch_size" not in words({32: 100}, batch=32)


def test_a_synchronous_client() -> None:
    assert "concurrency 1, a synchronous client" in words({1: 100}, loop=ClosedLoop(concurrency=1))


def test_a_rate_at_which_requests_rarely_meet() -> None:
    found = words({1: 100}, loop=OpenLoop(rate_per_s=10))
    assert found.startswith("no: requests come 100 ms apart and each takes 5 ms")


def test_a_rate_that_keeps_the_model_busy_is_another_cause() -> None:
    assert "queue delay is 0" in words({1: 100}, loop=OpenLoop(rate_per_s=190))


def test_no_queue_delay_and_an_idle_instance() -> None:
    assert words({1: 100}) == "no: the queue delay is 0 and an instance was idle when a request came"


def test_a_queue_delay_without_a_second_request() -> None:
    assert "within the queue delay of 500 us" in words({1: 100}, queue_delay_us=500)


def test_a_small_share_of_batching_names_the_cause() -> None:
    assert words({1: 980, 2: 10}).startswith("hardly, for 2.0% of the images: the queue delay is 0")


def test_batching_on_a_server_without_statistics_is_unknown() -> None:
    assert words({}) == "unknown: the server counted no execution"
