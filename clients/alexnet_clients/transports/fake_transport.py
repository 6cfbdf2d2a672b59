"""A server without a server, for tests: answers at once, or late, or wrongly, or not at all."""

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

Answer = Callable[[InferRequest], npt.NDArray[Any]]
T = TypeVar("T")
ENCODED_MODEL = "alexnet"
MODELS = (ENCODED_MODEL, "alexnet_fp32", "alexnet_fp16", "alexnet_int8")


class FakeTransport:
    """Plays a server's part.

    `answer` gives the probabilities of a request, which may be wrong ones (NaN, another shape), or raises
    what the server would have answered with. An answer takes `delay_s`, or after `hold` until `release`.
    `failures` are raised first, one by each call of any kind; raise `connections` to play a server that came
    back.

    `requests` holds what was asked, in order, and `most_in_flight` how many requests were open at once.
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
        answer: Answer | None = None,
    ) -> None:
        self.contract = contract or Contract()
        self.class_names = class_names
        self.models = models
        self.max_batch = max_batch
        self.is_ready = is_ready
        self.delay_s = delay_s
        self.answer = answer or self.brightness_as_class
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
        self.most_in_flight = 0
        self.closed = False
        self._lock = threading.Lock()
        self._loop = BackgroundLoop()
        self._held: list[Callable[[], None]] | None = None
        self._pending: set[Future[Any]] = set()

    def hold(self) -> None:
        """Answer no image until `release`, or until its deadline."""
        self._held = []

    def release(self) -> None:
        """Answer what was held back."""
        held, self._held = self._held or [], None
        for finish in held:
            finish()

    def ready(self, *, timeout_s: float) -> Future[bool]:
        return self._answered(lambda: self.is_ready)

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        return self._answered(lambda: self._config(model))

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        return self._answered(lambda: self._statistics(model))

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        return self._answered(lambda: tuple(self.known_regions.values()))

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        return self._answered(lambda: self.known_regions.update({region.name: region}))

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        def forget() -> None:
            self.known_regions.pop(name, None)

        return self._answered(forget)

    def prepare(self, request: InferRequest) -> Message:
        return Message(request, b"")

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        request, started = message.request, time.perf_counter()
        with self._lock:
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        counted_out = threading.Event()

        def count_out() -> None:
            with self._lock:
                if not counted_out.is_set():
                    counted_out.set()
                    self.in_flight -= 1

        def reply() -> InferReply:
            count_out()  # before anyone can see the answer
            return self._reply(request, started)

        future = self._answered(reply, takes_s=self.delay_s, timeout_s=timeout_s)
        future.add_done_callback(lambda _: count_out())
        return future

    def close(self) -> None:
        self.closed = True
        self._loop.close()
        for future in list(self._pending):
            if future.set_running_or_notify_cancel():
                future.set_exception(_closed())

    def brightness_as_class(self, request: InferRequest) -> FloatArray:
        """Probabilities that favour a class by the image's mean: 0 is the first class, 255 the last."""
        count = len(self.class_names)
        pixels = self._pixels(request)
        share = pixels.reshape(len(pixels), -1).mean(axis=1) / 255  # (N,)
        distance = np.abs(np.arange(count) - share[:, None] * (count - 1))  # (N, classes)
        weights = np.exp(-distance)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

    def _answered(
        self, answer: Callable[[], T], *, takes_s: float = 0.0, timeout_s: float = math.inf
    ) -> Future[T]:
        """At once where nothing delays it, else by a clock and not by a thread: thousands may wait."""
        future: Future[T] = Future()
        failure = self.failures.popleft() if self.failures else None

        def finish() -> None:
            if future.done() or not future.set_running_or_notify_cancel():
                return
            try:
                if failure is not None:
                    raise failure
                result = answer()
            except Exception as error:  # as a real transport: the future knows
                future.set_exception(error)
            else:
                future.set_result(result)

        def expire() -> None:
            if not future.done() and future.set_running_or_notify_cancel():
                late = DeadlineExceeded("fake server", got=f"no answer in {timeout_s:g} s")
                future.set_exception(late)

        if self.closed:
            future.set_exception(_closed())
        elif self._held is not None and timeout_s < math.inf:
            self._wait_with(future)
            self._held.append(finish)
            self._loop.call_later(timeout_s, expire)
        elif takes_s > 0:
            self._wait_with(future)
            self._loop.call_later(min(takes_s, timeout_s), finish if takes_s <= timeout_s else expire)
        else:
            finish()
        return future

    def _wait_with(self, future: Future[Any]) -> None:
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

    def _config(self, model: str) -> ModelConfig:
        self.configs_read += 1
        if model not in self.models:
            raise ModelNotFound(model, got="no such model", expected=", ".join(self.models))
        answers = TensorSpec(datatype="FP32", shape=(len(self.class_names),))
        pixels = TensorSpec(datatype="UINT8", shape=self.contract.image_shape)
        encoded = TensorSpec(datatype="BYTES", shape=(1,))
        return ModelConfig(
            name=model,
            backend="fake",
            max_batch=self.max_batch,
            inputs={ENCODED_INPUT_NAME: encoded}
            if model == ENCODED_MODEL
            else {self.contract.input_name: pixels},
            outputs={self.contract.probabilities_name: answers, self.contract.logits_name: answers},
            parameters={"precision": model.rpartition("_")[2], **self.parameters},
        )

    def _statistics(self, model: str) -> ModelStatistics:
        asked = [request for request in self.requests if request.model == model]
        images = sum(len(request.images) for request in asked)
        return ModelStatistics(requests=len(asked), images=images, executions=len(asked))

    def _pixels(self, request: InferRequest) -> npt.NDArray[np.uint8]:
        if request.images.dtype != np.object_:
            return np.asarray(request.images, dtype=np.uint8)
        try:
            return np.stack([self.contract.prepared(io.BytesIO(row[0])) for row in request.images])
        except ImageError as error:  # as the decoder on a server says it
            raise BadRequest(request.model, got=f"in ensemble 'alexnet', ImageError: {error}") from error

    def _reply(self, request: InferRequest, started: float) -> InferReply:
        probabilities = self.answer(request)
        outputs: dict[str, npt.NDArray[Any]] = {}
        for name in request.outputs:
            if request.top:
                outputs[name] = self._best(probabilities, request.top)
            elif name == self.contract.logits_name:
                outputs[name] = np.log(probabilities)
            else:
                outputs[name] = probabilities
        return InferReply(
            outputs=outputs,
            latency_ms=1e3 * (time.perf_counter() - started),
            request_bytes=self._size_of(request),
        )

    def _size_of(self, request: InferRequest) -> int:
        if request.images.dtype == np.object_:
            return sum(len(row[0]) for row in request.images)
        return request.images.nbytes

    def _best(self, probabilities: npt.NDArray[Any], top: int) -> npt.NDArray[np.object_]:
        """As Triton's classification extension writes it: `value:index:label`, the best first."""
        labels = dict(enumerate(self.class_names))
        order = np.argsort(-probabilities, axis=1)[:, :top]
        rows = [
            [f"{values[index]:f}:{index}:{labels.get(index, '')}" for index in best]
            for values, best in zip(probabilities, order, strict=True)
        ]
        return np.array(rows, dtype=np.object_)  # (N, top)


def _closed() -> ClientError:
    return ClientError("fake server", got="a closed transport", expected="an open one")
