"""A transport without a server, for tests: replies at once, late, wrongly, or not at all."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from alexnet_model.class_names import DIGITS
from alexnet_model.contract import ENCODED_INPUT_NAME, Contract
from alexnet_model.errors import BadRequest, ClientError, DeadlineExceeded, ImageError, ModelNotFound

from .background import BackgroundLoop
from .transport import (
    FloatArray,
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    TensorSpec,
)

Predict = Callable[[InferRequest], npt.NDArray[Any]]
T = TypeVar("T")
ENCODED_MODEL = "alexnet"
MODELS = (ENCODED_MODEL, "alexnet_fp32", "alexnet_fp16", "alexnet_int8")


class FakeTransport:
    """Replies like a server. Its attributes may be changed at any time.

    Args:
        contract: of its models. Default: `Contract()`.
        class_names: labels of the classes.
        models: names of its models; `alexnet` takes encoded images, the others take pixels.
        max_batch: of each model.
        is_ready: what it replies to a request for readiness.
        delay_s: how long each inference takes, seconds.
        predict: returns the probabilities of a request, which may be wrong (NaN, another shape), or raises
            the server's error. Default: the image's mean brightness selects the class.

    Attributes:
        connections: increase it to simulate a server that was restarted.
        failures: errors to raise first, one for each call of any kind.
        requests: the requests, in order.
        in_flight: how many requests are open.
        peak_in_flight: how many requests were open at once at most.
    """

    def __init__(
        self,
        *,
        contract: Contract | None = None,
        class_names: tuple[str, ...] = DIGITS,
        models: tuple[str, ...] = MODELS,
        max_batch: int = 32,
        is_ready: bool = True,
        delay_s: float = 0.0,
        predict: Predict | None = None,
    ) -> None:
        self.contract = contract or Contract()
        self.class_names = class_names
        self.models = models
        self.max_batch = max_batch
        self.is_ready = is_ready
        self.delay_s = delay_s
        self.predict = predict or self.brightness_as_class
        self.parameters = {
            "contract": self.contract.to_json(),
            "contract_digest": self.contract.digest,
            "labels": json.dumps(class_names),
        }
        self.connections = 1
        self.failures: deque[ClientError] = deque()
        self.requests: list[InferRequest] = []
        self.configs_read = 0
        self.known_regions: dict[str, Region] = {}
        self.in_flight = 0
        self.peak_in_flight = 0
        self.closed = False
        self._lock = threading.Lock()
        self._loop = BackgroundLoop()
        self._held: list[Callable[[], None]] | None = None
        self._pending: set[Future[Any]] = set()

    def hold(self) -> None:
        """Hold back every inference until `release`, or until its deadline."""
        self._held = []

    def release(self) -> None:
        """Reply to what was held back."""
        held, self._held = self._held or [], None
        for finish in held:
            finish()

    def ready(self, *, timeout_s: float) -> Future[bool]:
        return self._reply_with(lambda: self.is_ready)

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        return self._reply_with(lambda: self._config(model))

    def model_names(self, *, timeout_s: float) -> Future[tuple[str, ...]]:
        return self._reply_with(lambda: self.models)

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        return self._reply_with(lambda: self._statistics(model))

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        return self._reply_with(lambda: tuple(self.known_regions.values()))

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        return self._reply_with(lambda: self.known_regions.update({region.name: region}))

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        def forget() -> None:
            self.known_regions.pop(name, None)

        return self._reply_with(forget)

    def prepare(self, request: InferRequest) -> Message:
        return Message(request, b"")

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        request, started = message.request, time.perf_counter()
        message.headers_for("fake server")
        with self._lock:
            self.requests.append(request)
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        is_counted = True

        def count_out() -> None:
            nonlocal is_counted
            with self._lock:
                self.in_flight -= is_counted
                is_counted = False

        def reply() -> InferReply:
            count_out()  # before anyone can see the reply
            return self._reply(request, started)

        future = self._reply_with(reply, takes_s=self.delay_s, timeout_s=timeout_s)
        future.add_done_callback(lambda _: count_out())
        return future

    def close(self) -> None:
        self.closed = True
        self._loop.close()
        for future in list(self._pending):
            if future.set_running_or_notify_cancel():
                future.set_exception(_closed())

    def brightness_as_class(self, request: InferRequest) -> FloatArray:
        """Probabilities by each image's mean: 0 is the first class, 255 the last."""
        count = len(self.class_names)
        pixels = self._pixels(request)
        share = pixels.reshape(len(pixels), -1).mean(axis=1) / 255  # (N,)
        distance = np.abs(np.arange(count) - share[:, None] * (count - 1))  # (N, classes)
        weights = np.exp(-distance)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

    def _reply_with(
        self, result_of: Callable[[], T], *, takes_s: float = 0.0, timeout_s: float = math.inf
    ) -> Future[T]:
        """Reply at once, or after a delay by a clock and not by a thread: thousands may wait."""
        future: Future[T] = Future()
        failure = self.failures.popleft() if self.failures else None

        def finish() -> None:
            if future.done() or not future.set_running_or_notify_cancel():
                return
            try:
                if failure is not None:
                    raise failure
                result = result_of()
            except Exception as error:  # as in a real transport, the future holds it
                future.set_exception(error)
            else:
                future.set_result(result)

        def expire() -> None:
            if not future.done() and future.set_running_or_notify_cancel():
                late = DeadlineExceeded("fake server", got=f"no reply in {timeout_s:g} s")
                future.set_exception(late)

        is_held = self._held is not None and timeout_s < math.inf
        if self.closed:
            future.set_exception(_closed())
        elif is_held or takes_s > 0:
            self._pending.add(future)
            future.add_done_callback(self._pending.discard)
            if is_held and self._held is not None:
                self._held.append(finish)
                self._loop.call_later(timeout_s, expire)
            else:
                self._loop.call_later(min(takes_s, timeout_s), finish if takes_s <= timeout_s else expire)
        else:
            finish()
        return future

    def _config(self, model: str) -> ModelConfig:
        self.configs_read += 1
        if model not in self.models:
            raise ModelNotFound(model, got="no such model", expected=", ".join(self.models))
        output = TensorSpec(datatype="FP32", shape=(len(self.class_names),))
        pixels = TensorSpec(datatype="UINT8", shape=self.contract.image_shape)
        encoded = TensorSpec(datatype="BYTES", shape=(1,))
        return ModelConfig(
            name=model,
            backend="fake",
            max_batch=self.max_batch,
            inputs={ENCODED_INPUT_NAME: encoded}
            if model == ENCODED_MODEL
            else {self.contract.input_name: pixels},
            outputs={self.contract.probabilities_name: output, self.contract.logits_name: output},
            parameters={"precision": model.rpartition("_")[2], **self.parameters},
        )

    def _statistics(self, model: str) -> ModelStatistics:
        requests = [request for request in self.requests if request.model == model]
        images = sum(len(request.images) for request in requests)
        return ModelStatistics(requests=len(requests), images=images, executions=len(requests))

    def _pixels(self, request: InferRequest) -> npt.NDArray[np.uint8]:
        if request.images.dtype != np.object_:
            return np.asarray(request.images, dtype=np.uint8)
        try:
            return np.stack([self.contract.prepared(io.BytesIO(row[0])) for row in request.images])
        except ImageError as error:  # in the words of the server's decoder
            raise BadRequest(request.model, got=f"in ensemble 'alexnet', ImageError: {error}") from error

    def _reply(self, request: InferRequest, started: float) -> InferReply:
        probabilities = self.predict(request)
        outputs: dict[str, npt.NDArray[Any]] = {}
        for name in request.outputs:
            if request.top:
                outputs[name] = self._best(probabilities, request.top)
            elif name == self.contract.logits_name:
                outputs[name] = np.log(probabilities)
            else:
                outputs[name] = probabilities
        is_encoded = request.images.dtype == np.object_
        return InferReply(
            outputs=outputs,
            latency_ms=1e3 * (time.perf_counter() - started),
            request_bytes=sum(len(row[0]) for row in request.images) if is_encoded else request.images.nbytes,
            model_version="1",
            request_id=request.id,
        )

    def _best(self, probabilities: npt.NDArray[Any], top: int) -> npt.NDArray[np.object_]:
        """The best classes as Triton's classification extension writes them: `value:index:label`."""
        labels = dict(enumerate(self.class_names))
        order = np.argsort(-probabilities, axis=1)[:, :top]
        rows = [
            [f"{values[index]:f}:{index}:{labels.get(index, '')}" for index in best]
            for values, best in zip(probabilities, order, strict=True)
        ]
        return np.array(rows, dtype=np.object_)  # (N, top)


def _closed() -> ClientError:
    return ClientError("fake server", got="a closed transport", expected="an open one")
