from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from alexnet_clients import Backoff, Client, FakeTransport, InferReply, sending
from alexnet_clients.sending import RETRIED, Retrier
from alexnet_clients.transports.background import BackgroundLoop
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
    fake.failures.extend(Overloaded("server", got="a full queue") for _ in range(3000))
    client = client_of(fake, timeout_s=0.5)
    client._connected = True
    with pytest.raises(Overloaded):
        client.model("alexnet_fp32")
    assert fake.failures
    client.close()


class VirtualTime(BackgroundLoop):
    """A clock, and a loop of delayed calls, which `run` makes without waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._calls: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, function: Callable[[], object]) -> None:
        self._calls.append((self.now_s + delay_s, function))

    def run_all(self) -> None:
        while self._calls:
            self.now_s, function = self._calls.pop(0)  # of one request at a time, so in order
            function()


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    time_line = VirtualTime()
    monkeypatch.setattr(sending, "time", time_line)
    return time_line


class Failing:
    """Attempts that fail, or succeed after `failures`, with the seconds that each was given."""

    def __init__(self, failures: int = 1_000_000) -> None:
        self.given_s: list[float] = []
        self._failures = failures

    def __call__(self, left_s: float) -> Future[int]:
        self.given_s.append(left_s)
        future: Future[int] = Future()
        if len(self.given_s) <= self._failures:
            future.set_exception(NotReady("server"))
        else:
            future.set_result(7)
        return future


def retrier_in(virtual: VirtualTime, backoff: Backoff) -> Retrier:
    retrier = Retrier(backoff)
    retrier.loop = virtual
    return retrier


def test_attempts_are_made_until_the_deadline(virtual: VirtualTime) -> None:
    attempt = Failing()
    outcome = retrier_in(virtual, QUICK).run(attempt, timeout_s=0.2)
    virtual.run_all()
    assert isinstance(outcome.exception(0), NotReady)
    assert 0.199 <= virtual.now_s <= 0.2
    assert 100 <= len(attempt.given_s) < 5000  # no wait is longer than 2 ms


def test_each_attempt_is_given_what_is_left_of_the_deadline(virtual: VirtualTime) -> None:
    attempt = Failing()
    outcome = retrier_in(virtual, Backoff(first_s=0.02, longest_s=0.02)).run(attempt, timeout_s=0.1)
    virtual.run_all()
    assert isinstance(outcome.exception(0), NotReady)
    assert attempt.given_s[0] == 0.1
    assert len(attempt.given_s) > 2
    assert attempt.given_s == sorted(attempt.given_s, reverse=True)
    assert min(attempt.given_s) > 0
    assert attempt.given_s[-1] == pytest.approx(0.1 - virtual.now_s)


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
        started = time.monotonic()
        call(client, IMAGE.repeat(2, axis=0))
        took_s = time.monotonic() - started
    ready_s, config_s, first_s, second_s = transport.given_s
    assert ready_s <= 10
    assert config_s <= ready_s - 0.05
    assert 10 - took_s <= first_s <= config_s - 0.05
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


def test_cancelling_stops_further_attempts(virtual: VirtualTime) -> None:
    attempt = Failing()
    outcome = retrier_in(virtual, QUICK).run(attempt, timeout_s=10)
    assert outcome.cancel()
    virtual.run_all()
    assert len(attempt.given_s) == 1


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
        gone = [Unreachable("server", got="connection refused") for _ in range(3000)]
        fake.failures.extend(gone)
        predictions = client.classify(np.zeros((50, 224, 224, 3), np.uint8))
        assert [type(prediction.error) for prediction in predictions] == [Unreachable] * 50
        attempts = Counter(request.id for request in fake.requests)
        assert len(attempts) == 50
        assert sum(number > 1 for number in attempts.values()) <= 2, "those that are open at the same time"
        fake.failures.clear()
        client.timeout_s = 60
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
    gone = [Unreachable("server", got="connection refused") for _ in range(3000)]
    client = client_of(fake)
    client.model("alexnet_fp32")
    fake.failures.extend(gone)
    client.timeout_s = 0.3
    client.classify(IMAGE)  # a whole deadline: given up
    assert client._retrier.is_unreachable
    client.timeout_s = 60
    fake.failures.clear()
    fake.failures.extend(NotReady("server", got="loading") for _ in range(3))
    assert client.classify(IMAGE)[0].best.label == "0"  # the server replied, so it is waited for
    waiting = client_of(FakeTransport())
    waiting.transport.failures.extend(gone[:5])  # type: ignore[attr-defined]
    waiting._retrier.is_unreachable = True
    waiting.connect(wait_s=10)
    waiting.close()
    client.close()


def test_the_last_wait_leaves_time_for_an_attempt(virtual: VirtualTime) -> None:
    attempt = Failing(failures=1)
    outcome = retrier_in(virtual, Backoff(first_s=1000, longest_s=1000)).run(attempt, timeout_s=0.1)
    virtual.run_all()
    assert outcome.result(0) == 7
    assert attempt.given_s[1] >= 0.05
