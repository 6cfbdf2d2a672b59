from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_clients import Backoff, Client, FakeTransport, InferReply, InferRequest, Message
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import (
    BadResponse,
    ContractMismatch,
    DeadlineExceeded,
    InvalidUrl,
    ModelNotFound,
    NotReady,
    Overloaded,
    Unreachable,
    UsageError,
)

from ..waiting import wait_until

URL = "grpc://127.0.0.1:8001"
TWICE = Backoff(first_s=0.001, longest_s=0.001, max_attempts=2)


def images(count: int) -> Uint8Array:
    return np.zeros((count, 224, 224, 3), np.uint8)


def test_entering_fails_and_closes_if_the_server_is_not_ready(fake: FakeTransport) -> None:
    fake.is_ready = False
    with pytest.raises(NotReady, match="not ready"), Client(URL, transport=fake):
        pytest.fail("entered")
    assert fake.closed


def test_the_first_request_connects_without_with(fake: FakeTransport) -> None:
    fake.is_ready = False
    client = Client(URL, transport=fake)
    with pytest.raises(NotReady):
        client.classify(images(1))
    fake.is_ready = True
    assert len(client.classify(images(1))) == 1


def test_an_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(ModelNotFound, match="alexnet_int4"):
        client.classify(images(1), model="alexnet_int4")


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_the_timeout_must_be_positive_and_finite(timeout_s: float, fake: FakeTransport) -> None:
    with pytest.raises(UsageError, match="timeout_s"):
        Client(URL, timeout_s=timeout_s, transport=fake)


def test_an_invalid_url_is_refused() -> None:
    with pytest.raises(InvalidUrl):
        Client("127.0.0.1:8001")


def test_another_contract_is_refused_and_its_differences_named() -> None:
    served = Contract(resize=232, interpolation="bicubic")
    fake = FakeTransport(contract=served)
    with Client(URL, transport=fake, contract=Contract()) as client:
        with pytest.raises(ContractMismatch, match="resize: 256 here, 232 there; interpolation: ") as caught:
            client.classify(images(1))
        assert "mean" not in caught.value.got
        with pytest.raises(ContractMismatch):  # nor is it accepted the second time
            client.classify(images(1))
    assert fake.requests == []
    with Client(URL, transport=FakeTransport(contract=served), contract=served) as client:
        assert len(client.classify(images(1))) == 1


def test_an_unreadable_contract_is_refused(fake: FakeTransport, client: Client) -> None:
    fake.parameters = {"contract_digest": "0" * 64, "contract": "no JSON"}
    with pytest.raises(ContractMismatch, match="alexnet_fp32: contract: got text that is not JSON"):
        client.classify(images(1))


def test_a_model_without_a_contract_is_refused(fake: FakeTransport, client: Client) -> None:
    fake.parameters = {}
    with pytest.raises(ContractMismatch, match="without a contract"):
        client.classify(images(1))


def test_a_model_without_batching_is_refused(fake: FakeTransport, client: Client) -> None:
    fake.max_batch = 0
    with pytest.raises(ContractMismatch, match="max_batch_size 0"):
        client.classify(images(1))


def test_a_failed_request_affects_only_its_own_images(fake: FakeTransport) -> None:
    client = Client(URL, transport=fake, backoff=TWICE)
    fake.max_batch = 2
    answered = fake.brightness_as_class

    def black_fails(request: InferRequest) -> Any:
        if not request.images.any():
            raise Overloaded("alexnet_fp32", got="a full queue")
        return answered(request)

    fake.predict = black_fails
    three_batches = images(6)
    three_batches[[0, 1, 4, 5]] = 255
    predictions = client.classify(three_batches)
    refused = [isinstance(prediction.error, Overloaded) for prediction in predictions]
    assert refused == [False, False, True, True, False, False]
    assert [prediction.best.label for prediction in predictions if not prediction.error] == ["9"] * 4
    with pytest.raises(Overloaded):
        client.probabilities(three_batches)  # an array has no place for an error


def test_a_late_reply_is_a_deadline_error(fake: FakeTransport) -> None:
    with Client(URL, transport=fake) as client:
        client.model("alexnet_fp32")
        fake.delay_s, client.timeout_s = 60, 0.5
        (prediction,) = client.classify(images(1))
        assert isinstance(prediction.error, DeadlineExceeded)
        with pytest.raises(DeadlineExceeded):
            client.probabilities(images(1))


def _uniform(count: int, classes: int = 10) -> Any:
    return np.full((count, classes), 1 / classes, np.float32)


WRONG_OUTPUTS: dict[str, Callable[[InferRequest], Any]] = {
    "NaN": lambda request: _uniform(len(request.images)) * np.float32("nan"),
    "infinity": lambda request: _uniform(len(request.images)) * np.float32("inf"),
    "too few rows": lambda request: _uniform(len(request.images) - 1),
    "too many rows": lambda request: _uniform(len(request.images) + 1),
    "too few classes": lambda request: _uniform(len(request.images), 4),
    "negative": lambda request: _uniform(len(request.images)) * np.float32(-1),
    "above one": lambda request: _uniform(len(request.images)) * np.float32(20),
}


@pytest.mark.parametrize("wrong", WRONG_OUTPUTS.values(), ids=WRONG_OUTPUTS)
def test_invalid_outputs_are_bad_responses(
    wrong: Callable[[InferRequest], Any], fake: FakeTransport, client: Client
) -> None:
    fake.predict = wrong
    with pytest.raises(BadResponse):
        client.probabilities(images(2))
    predictions = client.classify(images(2))
    assert [type(prediction.error) for prediction in predictions] == [BadResponse, BadResponse]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda request: _uniform(len(request.images)).astype(np.float64), id="another dtype"),
        pytest.param(lambda request: _uniform(len(request.images)) * np.float32(0.9), id="no distribution"),
    ],
)
def test_dtype_and_sum_of_probabilities_are_checked(
    answer: Callable[[InferRequest], Any], fake: FakeTransport, client: Client
) -> None:
    fake.predict = answer
    with pytest.raises(BadResponse):
        client.probabilities(images(2))


def test_a_missing_output_is_a_bad_response(client: Client) -> None:
    class NoOutputs(FakeTransport):
        def _reply(self, request: InferRequest, started: float) -> Any:
            reply = super()._reply(request, started)
            return type(reply)(outputs={}, latency_ms=reply.latency_ms, request_bytes=reply.request_bytes)

    with Client(URL, transport=NoOutputs()) as client, pytest.raises(BadResponse, match="probabilities"):
        client.probabilities(images(1))


@pytest.mark.parametrize(
    "texts",
    [
        ["0.9:1:one", "nan:2:two"],
        ["0.1:1:one", "0.9:2:two"],
        ["0.9:1:one", "0.1:10:ten"],
        ["0.9:1:one", "0.1:-1:minus"],
        ["0.9:1:one", "0.1:2:"],
        ["0.9:1:one", "0.1:2"],
        ["0.9:1:one", "0.1"],
        ["0.9:1:one", "two:2:two"],
        ["1.5:1:one", "0.1:2:two"],
        ["0.9:1:one"],
    ],
)
def test_classifications_are_checked(texts: list[str]) -> None:
    class Wrong(FakeTransport):
        def _best(self, probabilities: Any, top: int) -> Any:
            return np.array([texts], dtype=np.object_)

    with Client(URL, transport=Wrong()) as client:
        (prediction,) = client.classify(images(1), top=2)
    assert isinstance(prediction.error, BadResponse)


def test_labels_may_hold_colons_and_commas() -> None:
    names = ("ratio 1:2", "a, b", *"cdefghij")
    with Client(URL, transport=FakeTransport(class_names=names)) as client:
        (prediction,) = client.classify(images(1), top=2)
    assert [found.label for found in prediction.classes] == ["ratio 1:2", "a, b"]


def test_an_error_in_the_callers_iterator_cancels_open_requests() -> None:
    open_requests: list[Future[InferReply]] = []

    class RepliesOnce(FakeTransport):
        def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
            if not self.requests:
                return super().submit(message, timeout_s=timeout_s)
            open_requests.append(Future())
            return open_requests[-1]

    def images() -> Iterator[Image.Image]:
        while not open_requests:
            yield Image.new("RGB", (8, 8))
        raise KeyError("the caller's own")

    before = set(threading.enumerate())
    with (
        Client(URL, transport=RepliesOnce(max_batch=1)) as client,
        pytest.raises(KeyError, match="the caller's own"),
    ):
        client.classify(images())
    assert [request.cancelled() for request in open_requests] == [True]

    def preparing() -> list[str]:
        started = set(threading.enumerate()) - before
        return [thread.name for thread in started if "prepare" in thread.name]

    wait_until(lambda: not preparing(), "the threads that prepare images end")


def test_a_server_that_stops_between_two_calls_is_unreachable(fake: FakeTransport) -> None:
    client = Client(URL, transport=fake, backoff=TWICE)
    assert client.classify(images(1))[0].error is None

    def gone(request: InferRequest) -> Any:
        raise Unreachable("grpc://127.0.0.1:8001", got="socket closed")

    fake.predict = gone
    assert isinstance(client.classify(images(1))[0].error, Unreachable)
