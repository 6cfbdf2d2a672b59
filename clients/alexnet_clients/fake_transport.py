"""A server without a server, for tests: answers at once, or late, or wrongly, or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_model.class_names import DIGITS
from alexnet_model.contract import Contract
from alexnet_model.errors import DeadlineExceeded, ModelNotFound

from .transport import FloatArray, InferReply, InferRequest, Message, ModelConfig

Answer = Callable[[InferRequest], npt.NDArray[Any]]
MODELS = ("alexnet_fp32", "alexnet_fp16", "alexnet_int8")


class FakeTransport:
    """Plays a server's part. `answer` gives the probabilities of a request, which may be wrong ones (NaN,
    another shape), or raises what the server would have answered with.

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
        }
        self.requests: list[InferRequest] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.closed = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(64, thread_name_prefix="fake-server")

    def ready(self, *, timeout_s: float) -> bool:
        return self.is_ready

    def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        if model not in self.models:
            raise ModelNotFound(model, got="no such model", expected=", ".join(self.models))
        classes = len(self.class_names)
        return ModelConfig(
            name=model,
            backend="fake",
            max_batch=self.max_batch,
            output_shapes={
                self.contract.probabilities_name: (classes,),
                self.contract.logits_name: (classes,),
            },
            parameters={"precision": model.rpartition("_")[2], **self.parameters},
        )

    def prepare(self, request: InferRequest) -> Message:
        return Message(request, b"")

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        request = message.request
        with self._lock:
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        future = self._pool.submit(self._answered, request, timeout_s)
        future.add_done_callback(lambda future: self._count_out() if future.cancelled() else None)
        return future

    def close(self) -> None:
        self.closed = True
        self._pool.shutdown(cancel_futures=True)

    def brightness_as_class(self, request: InferRequest) -> FloatArray:
        """Probabilities that favour a class by the picture's mean: 0 is the first class, 255 the last."""
        count = len(self.class_names)
        share = request.images.reshape(len(request.images), -1).mean(axis=1) / 255  # (N,)
        distance = np.abs(np.arange(count) - share[:, None] * (count - 1))  # (N, classes)
        weights = np.exp(-distance)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)

    def _answered(self, request: InferRequest, timeout_s: float) -> InferReply:
        try:
            return self._reply(request, timeout_s)
        finally:
            self._count_out()  # before anyone can see the answer

    def _reply(self, request: InferRequest, timeout_s: float) -> InferReply:
        started = time.perf_counter()
        time.sleep(min(self.delay_s, timeout_s))
        if self.delay_s > timeout_s:
            raise DeadlineExceeded(request.model, got=f"no answer in {timeout_s} s")
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
            request_bytes=request.images.nbytes,
        )

    def _best(self, probabilities: npt.NDArray[Any], top: int) -> npt.NDArray[np.object_]:
        """As Triton's classification extension writes it: `value:index:label`, the best first."""
        labels = dict(enumerate(self.class_names))
        order = np.argsort(-probabilities, axis=1)[:, :top]
        rows = [
            [f"{values[index]:f}:{index}:{labels.get(index, '')}" for index in best]
            for values, best in zip(probabilities, order, strict=True)
        ]
        return np.array(rows, dtype=np.object_)  # (N, top)

    def _count_out(self) -> None:
        with self._lock:
            self.in_flight -= 1
