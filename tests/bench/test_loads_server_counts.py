"""What a server counted, and whether it was one server all along."""

from __future__ import annotations

import pytest

from alexnet_bench.loads.server_counts import Span, began_anew, counted_in, forgot_some
from alexnet_clients import ModelStatistics


def statistics(requests: int, executions: dict[int, int]) -> ModelStatistics:
    return ModelStatistics(requests=requests, compute_infer_ns=7 * requests, executions_by_batch=executions)


BEFORE, AFTER = statistics(10, {1: 4, 2: 3}), statistics(31, {1: 4, 2: 8, 11: 1})


def test_what_was_counted_is_what_lies_between_two_readings() -> None:
    assert counted_in([(BEFORE, AFTER)]) == ModelStatistics(
        requests=21, compute_infer_ns=147, executions_by_batch={2: 5, 11: 1}
    )
    assert not began_anew(BEFORE, AFTER)


def test_stretches_add_up_without_what_lies_between_them() -> None:
    later: Span = (statistics(100, {1: 90}), statistics(104, {1: 94}))
    counted = counted_in([(BEFORE, AFTER), later])
    assert (counted.requests, dict(counted.executions_by_batch)) == (25, {1: 4, 2: 5, 11: 1})


@pytest.mark.parametrize(
    "after", [statistics(3, {1: 3}), statistics(500, {1: 500}), statistics(90, {1: 1, 2: 44})]
)
def test_a_server_that_was_started_again_counts_anew(after: ModelStatistics) -> None:
    assert began_anew(BEFORE, after)
    assert counted_in([(BEFORE, after)]) == ModelStatistics()


@pytest.mark.parametrize(
    ("counted", "answered", "forgot"),
    [(700, 1000, True), (1000, 1000, False), (850, 1000, False), (5, 30, False), (0, 1000, False)],
)
def test_less_counted_than_answered_was_forgotten(counted: int, answered: int, forgot: bool) -> None:
    """Some are open when it is read, and some servers count nothing at all."""
    spans = [(ModelStatistics(requests=5), ModelStatistics(requests=5 + counted))]
    assert forgot_some(spans, answered) is forgot
