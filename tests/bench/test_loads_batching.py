"""Did batching happen, and if not why: one test a cause."""

from __future__ import annotations

import pytest

from alexnet_bench.loads.batching import Batcher, batching_words
from alexnet_bench.loads.plans import ClosedLoop, Loop, OpenLoop

BATCHER = Batcher(max_batch=64, queue_delay_us=0)
SIXTEEN = ClosedLoop(concurrency=16)


def words(
    executions: dict[int, int],
    *,
    batch: int = 1,
    batcher: Batcher = BATCHER,
    loop: Loop = SIXTEEN,
    execution_ms: float | None = 5.0,
) -> str:
    return batching_words(executions, batch=batch, batcher=batcher, loop=loop, execution_ms=execution_ms)


def test_it_happened() -> None:
    assert words({1: 10, 7: 90}) == "yes: 6.4 images an execution on average, 7 at most"


def test_many_alone_and_a_few_large_ones_are_batching_too() -> None:
    assert words({1: 1000, 16: 40}).startswith("yes: 1.6 images")


def test_requests_of_eight_that_meet_nobody_are_not_batching() -> None:
    assert words({8: 100}, batch=8).startswith("no: ")
    assert words({8: 10, 32: 30}, batch=8).startswith("yes: 26.0 images")


@pytest.mark.parametrize("max_batch", [0, 1])
def test_a_model_that_takes_no_batches(max_batch: int) -> None:
    batcher = Batcher(max_batch=max_batch, queue_delay_us=0)
    assert words({1: 100}, batcher=batcher) == f"no: max_batch_size is {max_batch}"


def test_a_model_without_a_dynamic_batcher() -> None:
    batcher = Batcher(max_batch=64, queue_delay_us=None)
    assert words({1: 100}, batcher=batcher) == "no: the model has no dynamic_batching"


def test_requests_too_large_for_two() -> None:
    assert "two requests of 40 images are more than max_batch_size 64" in words({40: 100}, batch=40)
    assert "max_batch_size" not in words({32: 100}, batch=32)


def test_a_synchronous_client() -> None:
    assert "concurrency 1, a synchronous client" in words({1: 100}, loop=ClosedLoop(concurrency=1))


def test_a_rate_so_low_that_no_two_wait_together() -> None:
    found = words({1: 100}, loop=OpenLoop(rate_per_s=10))
    assert found == "no: requests come 100 ms apart and each takes 5 ms: hardly two wait together"


def test_a_rate_that_keeps_the_model_busy_is_another_cause() -> None:
    assert "queue delay is 0" in words({1: 100}, loop=OpenLoop(rate_per_s=190))


def test_no_queue_delay_and_an_idle_instance() -> None:
    assert words({1: 100}) == "no: the queue delay is 0 and an instance was idle when a request came"


def test_a_queue_delay_in_which_nobody_came() -> None:
    batcher = Batcher(max_batch=64, queue_delay_us=500)
    assert "within the queue delay of 500 us" in words({1: 100}, batcher=batcher)


def test_hardly() -> None:
    assert words({1: 980, 2: 10}).startswith("hardly, for 2.0% of the images: the queue delay is 0")


def test_a_server_that_counts_nothing() -> None:
    assert words({}) == "unknown: the server counted no execution"
