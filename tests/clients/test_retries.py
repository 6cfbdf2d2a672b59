from __future__ import annotations

import random
import time
from concurrent.futures import Future
from itertools import count
from typing import Any

import numpy as np
import pytest

from alexnet_clients import Backoff, Client, FakeTransport, InferReply
from alexnet_clients.sending import RETRIED, Retrier
from alexnet_clients.transports.transport import Message, ModelConfig
from alexnet_model.errors import (
    BadRequest,
    BadResponse,
    ClientError,
    ConnectionLost,
    ContractMismatch,
    DeadlineExceeded,
    ForeignServer,
    InvalidUrl,
    ModelNotFound,
    NotReady,
    Overloaded,
    Unreachable,
    Untrusted,
    UsageError,
)

QUICK = Backoff(first_s=0.001, longest_s=0.002)
NOT_RETRIED = (
    BadRequest,
    BadResponse,
    ConnectionLost,
    ContractMismatch,
    DeadlineExceeded,
    ForeignServer,
    InvalidUrl,
    ModelNotFound,
    Untrusted,
)
IMAGE = np.zeros((1, 224, 224, 3), np.uint8)


def client_of(fake: FakeTransport, timeout_s: float = 10) -> Client:
    return Client("grpc://host", transport=fake, backoff=QUICK, timeout_s=timeout_s)


def test_every_client_error_is_listed_as_retried_or_not() -> None:
    assert {*RETRIED, *NOT_RETRIED} == set(ClientError.__subclasses__())


@pytest.mark.parametrize("kind", RETRIED)
def test_transient_errors_are_retried(kind: type[ClientError], fake: FakeTransport) -> None:
    with client_of(fake) as client:
        client.model("alexnet_fp32")
        fake.failures.extend(kind("server", got=f"failure {number}") for number in range(3))
        (prediction,) = client.classify(IMAGE)
    assert prediction.best.label == "0"
    assert len(fake.requests) == 4


@pytest.mark.parametrize("kind", [*NOT_RETRIED, ClientError])
def test_other_errors_are_not_retried(kind: type[ClientError], fake: FakeTransport) -> None:
    with client_of(fake) as client:
        client.model("alexnet_fp32")
        fake.failures.append(kind("server", got="the first"))
        (prediction,) = client.classify(IMAGE)
    assert type(prediction.error) is kind
    assert len(fake.requests) == 1


def test_all_attempts_share_one_deadline(fake: FakeTransport) -> None:
    fake.failures.extend(Overloaded("server", got="a full queue") for _ in range(100_000))
    client = client_of(fake, timeout_s=0.2)
    client._connected = True
    started = time.monotonic()
    with pytest.raises(Overloaded):
        client.model("alexnet_fp32")
    assert 0.1 < time.monotonic() - started < 2
    assert 10 < 100_000 - len(fake.failures) < 5000
    client.close()


def test_each_attempt_is_given_what_is_left_of_the_deadline() -> None:
    given: list[float] = []

    def attempt(left_s: float) -> Future[int]:
        given.append(left_s)
        future: Future[int] = Future()
        future.set_exception(NotReady("server"))
        return future

    retrier = Retrier(Backoff(first_s=0.02, longest_s=0.02))
    with pytest.raises(NotReady):
        retrier.run(attempt, timeout_s=0.1).result(10)
    retrier.close()
    assert given[0] == 0.1
    assert given == sorted(given, reverse=True)
    assert min(given) > 0


class Slow(FakeTransport):
    """Takes 50 ms for the requests before the first inference, and notes the time that each was given."""

    def __init__(self) -> None:
        super().__init__(max_batch=1)
        self.given_s: list[float] = []

    def ready(self, *, timeout_s: float) -> Future[bool]:
        self.given_s.append(timeout_s)
        time.sleep(0.05)
        return super().ready(timeout_s=timeout_s)

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        self.given_s.append(timeout_s)
        time.sleep(0.05)
        return super().model_config(model, timeout_s=timeout_s)

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        self.given_s.append(timeout_s)
        return super().submit(message, timeout_s=timeout_s)


@pytest.mark.parametrize("call", [Client.classify, Client.probabilities, Client.infer])
def test_connecting_reading_the_model_and_the_first_batch_share_one_deadline(call: Any) -> None:
    transport = Slow()
    with Client("grpc://host", transport=transport, timeout_s=10) as client:
        client._connected = False
        transport.given_s.clear()
        call(client, IMAGE.repeat(2, axis=0))
    ready_s, config_s, first_s, second_s = transport.given_s
    assert ready_s == pytest.approx(10, abs=0.02)
    assert config_s == pytest.approx(ready_s - 0.05, abs=0.04)
    assert first_s == pytest.approx(config_s - 0.05, abs=0.04)
    assert second_s == 10
    transport.close()


def test_a_deadline_that_passes_before_the_request_is_an_error() -> None:
    transport = Slow()
    client = Client("grpc://host", transport=transport, timeout_s=0.08)
    with pytest.raises(DeadlineExceeded, match=r"no reply in 0.08 s.*Raise timeout_s"):
        client.classify(IMAGE)
    assert transport.requests == []
    client.close()


def test_waits_grow_and_are_random_up_to_a_limit() -> None:
    backoff = Backoff(first_s=0.1, longest_s=1.0)
    random.seed(0)
    longest = [max(backoff.wait_s(failures) for _ in range(500)) for failures in (1, 2, 3, 20)]
    assert longest == pytest.approx([0.1, 0.2, 0.4, 1.0], rel=0.02)
    assert min(backoff.wait_s(20) for _ in range(500)) < 0.02


@pytest.mark.parametrize("backoff", [{"first_s": 0.0}, {"first_s": 3.0}, {"first_s": float("nan")}])
def test_an_invalid_backoff_is_refused(backoff: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="backoff"):
        Backoff(**backoff)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [1, 3])
def test_max_attempts_limits_the_attempts(most: int, fake: FakeTransport) -> None:
    backoff = Backoff(first_s=0.001, longest_s=0.002, max_attempts=most)
    with Client("grpc://host", transport=fake, backoff=backoff) as client:
        client.model("alexnet_fp32")
        fake.failures.extend(Overloaded("server", got="a full queue") for _ in range(10))
        (prediction,) = client.classify(IMAGE)
    assert type(prediction.error) is Overloaded
    assert len(fake.requests) == most
    with pytest.raises(UsageError, match="attempts: got 0, expected at least 1"):
        Backoff(max_attempts=0)


def test_cancelling_stops_further_attempts() -> None:
    attempts = count()

    def attempt(left_s: float) -> Future[int]:
        next(attempts)
        future: Future[int] = Future()
        future.set_exception(NotReady("server"))
        return future

    retrier = Retrier(Backoff(first_s=0.01, longest_s=0.01))
    outcome = retrier.run(attempt, timeout_s=10)
    assert outcome.cancel()
    time.sleep(0.05)
    assert next(attempts) <= 2
    retrier.close()


def test_cancelling_cancels_the_current_attempt() -> None:
    running: Future[int] = Future()
    retrier = Retrier(QUICK)
    outcome = retrier.run(lambda left_s: running, timeout_s=10)
    outcome.cancel()
    assert running.cancelled()


def test_an_attempt_that_raises_fails_its_outcome() -> None:
    def attempt(left_s: float) -> Future[int]:
        raise KeyError("the caller's own headers")

    with pytest.raises(KeyError, match="own headers"):
        Retrier(QUICK).run(attempt, timeout_s=10).result(10)


def test_an_unreachable_server_costs_one_deadline_in_total(fake: FakeTransport) -> None:
    fake.max_batch = 1
    with client_of(fake, timeout_s=0.3) as client:
        client.model("alexnet_fp32")
        gone = [Unreachable("server", got="connection refused") for _ in range(100_000)]
        fake.failures.extend(gone)
        started = time.monotonic()
        predictions = client.classify(np.zeros((50, 224, 224, 3), np.uint8))
        assert time.monotonic() - started < 5  # fifty deadlines would be fifteen
        assert [type(prediction.error) for prediction in predictions] == [Unreachable] * 50
        fake.failures.clear()
        assert client.classify(IMAGE)[0].best.label == "0"
        fake.failures.extend(gone[:3])  # it is back, so it is waited for again
        assert client.classify(IMAGE)[0].best.label == "0"


def test_connect_tries_once_without_wait_s(fake: FakeTransport) -> None:
    fake.failures.extend(Unreachable("server", got="connection refused") for _ in range(3))
    client = client_of(fake)
    with pytest.raises(Unreachable):
        client.connect()
    client.connect(wait_s=10)
    assert not fake.failures
    fake.is_ready = False
    waiting = client_of(FakeTransport(is_ready=False))
    with pytest.raises(NotReady):
        waiting.connect(wait_s=0.05)
    client.close()
    waiting.close()


def test_connect_with_wait_s_ignores_that_the_server_is_unreachable(fake: FakeTransport) -> None:
    gone = [Unreachable("server", got="connection refused") for _ in range(100_000)]
    client = client_of(fake, timeout_s=0.1)
    client.model("alexnet_fp32")
    fake.failures.extend(gone)
    client.classify(IMAGE)  # a whole deadline: given up
    fake.failures.clear()
    fake.failures.extend(NotReady("server", got="loading") for _ in range(3))
    assert client.classify(IMAGE)[0].best.label == "0"  # the server replied, so it is waited for
    waiting = client_of(FakeTransport())
    waiting.transport.failures.extend(gone[:5])  # type: ignore[attr-defined]
    waiting._retrier.is_unreachable = True
    waiting.connect(wait_s=10)
    waiting.close()
    client.close()


def test_the_last_wait_leaves_time_for_an_attempt() -> None:
    attempts = count()

    def attempt(left_s: float) -> Future[int]:
        future: Future[int] = Future()
        if next(attempts) < 1:
            future.set_exception(NotReady("server"))
        else:
            future.set_result(7)
        return future

    retrier = Retrier(Backoff(first_s=1000, longest_s=1000))
    assert retrier.run(attempt, timeout_s=0.1).result(10) == 7
    retrier.close()
