"""From counts to a row: figures by plain names, and a verdict with the right reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.loads.answers import Expected, TrueAnswers, expected_from_replies
from alexnet_bench.loads.inputs import asked_from_config
from alexnet_bench.loads.load_results import Outcome, in_turn, merged
from alexnet_bench.loads.plans import ClosedLoop, Loop, OpenLoop
from alexnet_bench.loads.rows import Subject, load_row, verdict_of
from alexnet_bench.schema import LoadRow
from alexnet_clients import FakeTransport, InferReply, ModelConfig, ModelStatistics, ServerUrl

CONFIG = FakeTransport().model_config("alexnet_int8", timeout_s=1).result()


def encoded(*latencies_ms: float, times: int = 1) -> bytes:
    histogram = LatencyHistogram()
    histogram.record_all(latencies_ms * times)
    return histogram.encoded()


def outcome(**changes: Any) -> Outcome:
    usual = Outcome(
        latencies=encoded(10.0, times=1000),
        late=None,
        answered=(500, 490, 510),
        requests=1000,
        failed={},
        failure="",
        checked=20,
        wrong=0,
        fault="",
        cpu_share=0.2,
        away_share=0.001,
        held_back=0,
        measured_s=15.0,
        repeat_s=5.0,
    )
    return replace(usual, **changes)


def subject(**changes: Any) -> Subject:
    config = replace(CONFIG, queue_delay_us=0, **changes)
    return Subject(url=ServerUrl.parse("grpc://127.0.0.1:8001"), config=config, network=config, device="CPU")


def row(found: Outcome, loop: Loop | None = None, *, batch: int = 1) -> LoadRow:
    loop = loop or ClosedLoop(concurrency=16)
    made = load_row(subject(), loop, batch=batch, request_bytes=150_528, outcome=found)
    assert made is not None
    return made


def test_a_row_says_what_it_is_of() -> None:
    made = row(outcome(), batch=8)
    assert (made.model, made.url_scheme, made.loop) == ("alexnet_int8", "grpc", "closed")
    assert (made.concurrency, made.rate_per_s, made.batch) == (16, None, 8)
    assert (made.engine.precision, made.engine.device) == ("int8", "CPU")
    assert made.throughput.value == 8 * 100
    assert made.throughput.repeats == (800, 784, 816)
    assert made.latencies.p99_ms == pytest.approx(10, rel=2e-3)
    assert made.verdict.is_valid
    opened = row(outcome(late=encoded(0.1)), OpenLoop(rate_per_s=100))
    assert (opened.loop, opened.concurrency, opened.rate_per_s) == ("open", None, 100)
    assert opened.late_p99_ms == pytest.approx(0.1)


def test_an_open_loop_that_is_answered_slower_than_it_sends_is_invalid() -> None:
    late = encoded(0.1)
    (reason,) = row(outcome(late=late), OpenLoop(rate_per_s=150)).verdict.reasons
    assert reason.rule == "server overloaded"
    assert "100 requests/s were answered of 150 that were sent" in reason.found
    # 1,560 are sent of which 1,500 were answered: by chance that many fewer may come.
    assert row(outcome(late=late), OpenLoop(rate_per_s=104)).verdict.is_valid
    assert row(outcome(), ClosedLoop(concurrency=1000)).verdict.is_valid


def test_json_names_its_figures_with_units_and_is_read_again() -> None:
    made = row(outcome())
    content = json.loads(made.model_dump_json())
    assert content["throughput_per_s"] == 100
    assert content["latency_p50_ms"] == made.latencies.p50_ms
    assert content["latency_p99_ms"] == made.latencies.p99_ms
    assert content["latency_p99_9_ms"] is None
    assert LoadRow.model_validate(content) == made


def test_the_histogram_is_in_the_row() -> None:
    histogram = LatencyHistogram()
    histogram.add(row(outcome()).histogram.encode())
    assert histogram.samples == 1000


def test_executions_of_an_ensemble_are_those_of_its_network() -> None:
    before, after = (ModelStatistics(requests=n, executions_by_batch={16: n}) for n in (100, 150))
    ensemble = replace(CONFIG, name="alexnet", steps=("alexnet_decode", "alexnet_int8"))
    measured = Subject(
        url=ServerUrl.parse("http://127.0.0.1:8000"),
        config=ensemble,
        network=replace(CONFIG, queue_delay_us=0),
        device="CPU",
    )
    assert measured.counted == ("alexnet", "alexnet_decode", "alexnet_int8")
    found = outcome(requests=50, statistics={"alexnet_int8": ((before, after),)})
    made = load_row(measured, ClosedLoop(concurrency=16), batch=1, request_bytes=48_000, outcome=found)
    assert made is not None
    assert (made.model, made.executions_by_batch) == ("alexnet", {16: 50})
    assert made.batching.startswith("yes: 16.0 images")


def test_nothing_answered_is_no_row() -> None:
    empty = LatencyHistogram().encoded()
    for found in (outcome(latencies=empty), outcome(measured_s=0.0)):
        assert load_row(subject(), ClosedLoop(concurrency=1), batch=1, request_bytes=1, outcome=found) is None


@pytest.mark.parametrize(
    ("changes", "rule", "found"),
    [
        (
            {"failed": {"Overloaded": 3, "Late": 1}, "failure": "full"},
            "errors",
            "4 of 1,000 requests failed, such as: full (3 Overloaded, 1 Late)",
        ),
        ({"late": encoded(0.1, 3.0)}, "generator late", "3.00 ms late"),
        ({"held_back": 7}, "generator late", "7 requests waited because too many were open"),
        ({"cpu_share": 0.97}, "client saturated", "97% of a core"),
        ({"away_share": 0.3}, "generator starved", "could not run for 30% of the time"),
        ({"wrong": 2, "fault": "NaN"}, "wrong answers", "2 of 20 checked answers were wrong, such as: NaN"),
        ({"server_gone": True, "failure": "nobody"}, "server gone", "after 15.0 s, such as: nobody"),
        ({"interrupted": True}, "interrupted", "stopped after 15.0 s"),
        ({"requests": 10}, "too few samples", "10 answers, where a median needs 11"),
    ],
)
def test_each_reason_makes_a_row_invalid(changes: dict[str, Any], rule: str, found: str) -> None:
    (reason,) = verdict_of(outcome(**changes)).reasons
    assert reason.rule == rule
    assert found in reason.found
    assert reason.advice


def test_a_server_that_was_started_again_is_found_by_its_statistics() -> None:
    before, after = (ModelStatistics(requests=n, executions_by_batch={1: n}) for n in (900, 100))
    made = row(outcome(statistics={"alexnet_int8": ((before, after),)}))
    assert [reason.rule for reason in made.verdict.reasons] == ["server gone"]
    assert made.executions_by_batch == {}
    assert made.batching.startswith("unknown")


def test_a_server_that_was_started_again_and_has_caught_up_counts_too_little() -> None:
    before, after = (ModelStatistics(requests=n, executions_by_batch={1: n}) for n in (20, 720))
    (reason,) = row(outcome(statistics={"alexnet_int8": ((before, after),)})).verdict.reasons
    assert reason.rule == "server gone"
    assert "do not hold all that it answered" in reason.found


def test_a_server_that_counts_nothing_was_not_started_again() -> None:
    nothing = ModelStatistics(), ModelStatistics()
    assert row(outcome(statistics={"alexnet_int8": (nothing,)})).verdict.is_valid


def test_processes_add_up() -> None:
    one = outcome(late=encoded(0.1), failed={"A": 1}, cpu_share=0.2, fault="", measured_s=15.0)
    two = outcome(
        latencies=encoded(30.0, times=500),
        late=encoded(2.0),
        answered=(1, 2, 3),
        failed={"A": 1, "B": 2},
        failure="b",
        cpu_share=0.6,
        wrong=1,
        fault="off",
        interrupted=True,
        measured_s=12.0,
    )
    both = merged([one, two])
    assert (both.answered, both.requests, both.checked, both.wrong) == ((501, 492, 513), 2000, 40, 1)
    assert (both.failed, both.failures, both.failure, both.fault) == ({"A": 2, "B": 2}, 4, "b", "off")
    assert (both.cpu_share, both.measured_s, both.interrupted) == (0.6, 12.0, True)
    total = LatencyHistogram()
    total.add(both.latencies)
    assert total.samples == 1500
    assert total.percentile_ms(60) == pytest.approx(10, rel=2e-3)
    assert total.percentile_ms(70) == pytest.approx(30, rel=2e-3)
    assert both.late is not None


def test_repeats_at_several_times_are_one_load() -> None:
    """Shares are means over the time that was measured; whatever lay between the repeats is not in them."""
    spans = tuple(
        (ModelStatistics(requests=at, executions_by_batch={1: at}), ModelStatistics(requests=at + 500))
        for at in (100, 900)
    )
    one, two = (
        outcome(
            answered=(count,),
            measured_s=5.0,
            cpu_share=share,
            away_share=share / 2,
            failed=failed,
            statistics={"alexnet_int8": (span,)},
        )
        for count, share, failed, span in zip((500, 400), (0.2, 0.4), ({}, {"A": 2}), spans, strict=True)
    )
    both = in_turn([one, two])
    assert both.rates_per_s() == (100, 80)
    assert (both.requests, both.failures, both.measured_s) == (2000, 2, 10.0)
    assert both.cpu_share == pytest.approx(0.3)
    assert both.away_share == pytest.approx(0.15)
    assert both.statistics == {"alexnet_int8": spans}


@pytest.mark.parametrize(
    ("measured_s", "rates"), [(15.0, (100, 98, 102)), (14.0, (100, 98)), (4.0, (125,)), (0.0, ())]
)
def test_a_rate_is_of_whole_repeats_or_of_what_there_is(measured_s: float, rates: tuple[float, ...]) -> None:
    assert outcome(measured_s=measured_s).rates_per_s() == pytest.approx(rates)


# What an answer is held to


def reply(**outputs: Any) -> InferReply:
    return InferReply(
        outputs={name: np.array(values) for name, values in outputs.items()}, latency_ms=1, request_bytes=1
    )


def expected(config: ModelConfig, answer: InferReply, **options: Any) -> Expected:
    return expected_from_replies(asked_from_config(config, 1), [answer], **options)


def test_our_probabilities_are_held_to_a_thousandth() -> None:
    held = expected(CONFIG, reply(probabilities=[[0.2, 0.8]]))
    assert held.fault(0, reply(probabilities=[[0.2009, 0.7991]])) == ""
    assert "0.002 away" in held.fault(0, reply(probabilities=[[0.202, 0.798]]))
    assert "NaN" in held.fault(0, reply(probabilities=[[0.2, np.nan]]))
    assert "instead of" in held.fault(0, reply(probabilities=[[0.2, 0.7, 0.1]]))
    assert "outputs none instead of probabilities (1, 2)" in held.fault(0, reply())


def test_the_truth_from_elsewhere_shows_a_server_that_was_wrong_from_the_start() -> None:
    held = expected(CONFIG, reply(probabilities=[[0.8, 0.2]]), truth=TrueAnswers((np.array([[0.2, 0.8]]),)))
    assert "0.6 away" in held.fault(0, reply(probabilities=[[0.8, 0.2]]))
    other = expected(
        CONFIG, reply(probabilities=[[0.8, 0.2]]), truth=TrueAnswers((np.array([[0.2, 0.8, 0.0]]),))
    )
    assert "(1, 2) instead of (1, 3)" in other.fault(0, reply(probabilities=[[0.8, 0.2]]))


def test_a_foreign_answer_is_held_to_its_shape_and_to_being_finite() -> None:
    foreign = replace(CONFIG, parameters={}, outputs={"y": CONFIG.outputs["logits"]})
    held = expected(foreign, reply(y=[[1.0, 2.0]]))
    assert held.fault(0, reply(y=[[9.0, -2.0]])) == ""
    assert "y with NaN or infinity" in held.fault(0, reply(y=[[np.inf, 0.0]]))
    assert "instead of" in held.fault(0, reply(y=[[1.0]]))
