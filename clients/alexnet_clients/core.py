"""The rules of asking, once, for the blocking client and the asynchronous one (`steps.py` says how).

What is prepared, what is believed and what is asked again is decided here; the wire is a `Transport`'s.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract
from alexnet_model.errors import BadResponse, ClientError, ContractMismatch, NotReady, UsageError

from .credentials import ClientTls, Credentials, Headers
from .in_flight import InFlight, Send
from .items import encoded_of, pixels_of
from .predictions import Prediction, predictions_from_batch
from .preparing import Batch, PreparedBatches, SlicedBatches, Source
from .replies import numbers_from_reply, probabilities_from_reply
from .retrying import Backoff, Retrier
from .served_model import ServedModel, served_model_from_config
from .steps import Steps, done, result_of
from .transports.opening import transport_from_url
from .transports.transport import (
    FloatArray,
    InferReply,
    InferRequest,
    ModelConfig,
    ModelStatistics,
    Region,
    Transport,
)
from .turns import Turns
from .url import ServerUrl

T = TypeVar("T")
DEFAULT_MODEL = "alexnet_fp32"
# One request is computed while the next is prepared and sent; more would only wait in the server's queue.
BATCHES_IN_FLIGHT = 2
# Encoded images travel one a request, so that a broken one costs only itself: the server batches them.
ENCODED_IN_FLIGHT = 32
# What callers of their own threads or tasks may have open at once; the rest waits its turn here.
CALLS_IN_FLIGHT = 64
THREADS = min(8, os.cpu_count() or 1)


class Core:
    """What both clients are made of. Thread-safe, as far as each stream stays in one thread or task."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        tls: ClientTls | None,
        headers: Headers | None,
        contract: Contract | None,
        backoff: Backoff | None,
        most_in_flight: int,
        transport: Transport | None,
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise UsageError("timeout_s", got=f"{timeout_s}", expected="a positive number of seconds")
        if most_in_flight < 1:
            raise UsageError("most_in_flight", got=f"{most_in_flight}", expected="at least 1")
        self.url = ServerUrl.parse(url)
        self.contract = contract or Contract()
        self.timeout_s = timeout_s
        self.transport = transport or transport_from_url(self.url, Credentials(tls=tls, headers=headers))
        self._retrier = Retrier(backoff or Backoff())
        self._turns = Turns(most_in_flight)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="alexnet-prepare")
        self._connected = self._closed = False
        # Each with the connections that there had been when it was read.
        self._models: dict[str, tuple[ServedModel, int]] = {}
        self._lock = threading.Lock()
        # What is being asked for everyone who waits for it, by its name and the connections at its start.
        self._shared: dict[tuple[str, int], Future[Any]] = {}

    def close(self) -> None:
        """End what is in flight. Does not wait for an image that is being read: that may take for ever."""
        self._closed = True
        self._retrier.close()
        self.transport.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def subject_of(self, model: str) -> str:
        return f"{self.url} {model}"

    def connect(self, wait_s: float = 0.0) -> Steps[None]:
        """Tried once, or for `wait_s` seconds, so that a wrong URL is told at once."""
        if self._closed:
            raise ClientError(
                str(self.url),
                got="a client that was closed",
                expected="an open one",
                next_step="Make a new one.",
            )
        if self._connected:
            return
        if wait_s > 0:
            yield from result_of(self._retrier.run(self._ready, timeout_s=wait_s, patient=True))
        else:
            yield from self._asked_once("ready", lambda: self._ready(self.timeout_s))
        self._connected = True

    def model(self, name: str) -> Steps[ServedModel]:
        """Read once, and again after a connection was lost."""
        known = self._models.get(name)
        if known is not None and known[1] == self.transport.connections:
            return known[0]
        yield from self.connect()
        return (yield from self._model_read(name))

    def statistics(self, name: str) -> Steps[ModelStatistics]:
        yield from self.connect()
        return (yield from result_of(self.transport.statistics(name, timeout_s=self.timeout_s)))

    def infer(
        self, images: npt.NDArray[Any], model: str, outputs: tuple[str, ...]
    ) -> Steps[dict[str, FloatArray]]:
        checked = self.contract.checked(images)
        served = yield from self.model(model)
        if served.decodes:
            raise UsageError(
                f"model {model}",
                got="prepared pixels",
                expected="encoded images, which this model decodes itself",
                next_step="Use classify, or a model that takes pixels.",
            )
        pieces: dict[str, list[FloatArray]] = {name: [] for name in outputs}
        batches = SlicedBatches(checked, size=served.max_batch)
        asked = InFlight(batches, self._sender(served, tuple(outputs)), limit=BATCHES_IN_FLIGHT)
        with closing(asked):
            while (answered := (yield from asked.next())) is not None:
                batch, future = answered
                assert future is not None  # a slice of an array holds at least one image
                assert batch.rows is not None
                reply = future.result()
                served = yield from self.still(served)
                shape, subject = (len(batch.rows), served.classes), self.subject_of(model)
                for name in outputs:
                    pieces[name].append(self._read(reply, name, shape, subject))
        return {
            name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # (N, classes)
            for name, arrays in pieces.items()
        }

    def infer_in_region(
        self, region: Region, images: npt.NDArray[Any], model: str, outputs: tuple[str, ...]
    ) -> Steps[dict[str, FloatArray]]:
        """As `infer`, of at most a batch that lies at the start of shared memory."""
        served = yield from self.model(model)
        request = InferRequest(
            model=model, inputs={self.contract.input_name: images}, outputs=tuple(outputs), region=region.name
        )
        reply = yield from result_of((yield from self._sent(request)))
        served = yield from self.still(served)
        shape, subject = (len(images), served.classes), self.subject_of(model)
        return {name: self._read(reply, name, shape, subject) for name in outputs}

    def stream(self, source: Source, model: str, top: int, in_flight: int | None) -> PredictionStream:
        if top < 1:
            raise UsageError("top", got=f"{top}", expected="at least 1")
        if in_flight is not None and in_flight < 1:
            raise UsageError("in_flight", got=f"{in_flight}", expected="at least 1")
        return PredictionStream(self, source, model=model, top=top, in_flight=in_flight)

    def requests_for(self, served: ServedModel, source: Source, top: int, in_flight: int | None) -> InFlight:
        batches = PreparedBatches(
            source,
            (encoded_of if served.decodes else pixels_of)(self.contract),
            contract=self.contract,
            size=1 if served.decodes else served.max_batch,
            takes_arrays=not served.decodes,
            pool=self._pool,
            threads=THREADS,
        )
        limit = in_flight or (ENCODED_IN_FLIGHT if served.decodes else BATCHES_IN_FLIGHT)
        send = self._sender(served, (self.contract.probabilities_name,), top)
        return InFlight(batches, send, limit=limit)

    def _sender(self, served: ServedModel, outputs: tuple[str, ...], top: int = 0) -> Send:
        input_name = ENCODED_INPUT_NAME if served.decodes else self.contract.input_name

        def send(batch: Batch) -> Steps[Future[InferReply]]:
            assert batch.rows is not None
            request = InferRequest(
                model=served.name, inputs={input_name: batch.rows}, outputs=outputs, top=top
            )
            return (yield from self._sent(request))

        return send

    def _sent(self, request: InferRequest) -> Steps[Future[InferReply]]:
        """Send, when it is this request's turn, which ends with its answer."""
        yield from self._turns.take()
        try:
            message = self.transport.prepare(request)
            future = self._retrier.run(
                lambda left_s: self.transport.submit(message, timeout_s=left_s),
                timeout_s=self.timeout_s,
            )
        except BaseException:
            self._turns.give()
            raise
        future.add_done_callback(lambda _: self._turns.give())
        return future

    def _read(self, reply: InferReply, name: str, shape: tuple[int, ...], subject: str) -> FloatArray:
        is_distribution = name == self.contract.probabilities_name
        read = probabilities_from_reply if is_distribution else numbers_from_reply
        return read(reply, name, shape=shape, subject=subject)

    def still(self, served: ServedModel) -> Steps[ServedModel]:
        """The model that answered, read again if another server may have: an answer is believed after that.

        Raises:
            ContractMismatch: it is another model than was asked.
        """
        if self._models[served.name][1] == self.transport.connections:
            return served
        now = yield from self._model_read(served.name)
        if now.labels != served.labels or now.decodes != served.decodes:
            raise ContractMismatch(
                self.subject_of(served.name),
                got="a model with other classes since the connection was lost",
                expected=f"the {served.classes} classes that it had",
                next_step="Another export is served now: make a new client.",
            )
        return now

    def _model_read(self, name: str) -> Steps[ServedModel]:
        connections = self.transport.connections

        def read(left_s: float) -> Future[ModelConfig]:
            return self.transport.model_config(name, timeout_s=left_s)

        config = yield from self._asked_once(
            f"model {name}", lambda: self._retrier.run(read, timeout_s=self.timeout_s)
        )
        if config.name != name:
            raise BadResponse(self.subject_of(name), got=f"the model {config.name!r}", expected=repr(name))
        served = served_model_from_config(config, self.contract, subject=self.subject_of(name))
        self._models[name] = (served, connections)
        return served

    def _asked_once(self, what: str, ask: Callable[[], Future[T]]) -> Steps[T]:
        """One question for all who have it at the same time: a thousand tasks begin with one request."""
        key = (what, self.transport.connections)
        with self._lock:
            future = self._shared.get(key)
            is_mine = future is None
            if future is None:
                future = self._shared[key] = ask()
        if is_mine:  # nobody else: by then another question may have this place
            future.add_done_callback(lambda _: self._shared.pop(key, None))
        yield from done(future, shared=True)
        answer: T = future.result()
        return answer

    def _ready(self, left_s: float) -> Future[bool]:
        """A future of True, or of NotReady: only that can be asked again."""
        outcome: Future[bool] = Future()

        def take(answer: Future[bool]) -> None:
            if answer.cancelled() or not outcome.set_running_or_notify_cancel():
                return
            error = answer.exception()
            if error is None and not answer.result():
                error = NotReady(
                    str(self.url),
                    got="a server that is not ready",
                    expected="a ready one",
                    next_step="Wait until its models have loaded.",
                )
            if error is None:
                outcome.set_result(True)
            else:
                outcome.set_exception(error)

        answer = self.transport.ready(timeout_s=left_s)
        answer.add_done_callback(take)
        outcome.add_done_callback(lambda outcome: outcome.cancelled() and answer.cancel())
        return outcome


class PredictionStream:
    """Predictions in the order of the images, some at a time. Nothing is asked before the first `next`."""

    def __init__(self, core: Core, source: Source, *, model: str, top: int, in_flight: int | None) -> None:
        self._core = core
        self._source = source
        self._model = model
        self._top = top
        self._in_flight = in_flight
        self._served: ServedModel | None = None
        self._requests: InFlight | None = None

    def next(self) -> Steps[tuple[Prediction, ...] | None]:
        """The next predictions, None after the last."""
        core = self._core
        if self._served is None or self._requests is None:
            self._served = yield from core.model(self._model)
            self._requests = core.requests_for(self._served, self._source, self._top, self._in_flight)
        answered = yield from self._requests.next()
        if answered is None:
            return None
        batch, future = answered
        if future is not None and future.exception() is None:
            self._served = yield from core.still(self._served)
        return tuple(
            predictions_from_batch(
                batch,
                future,
                output=core.contract.probabilities_name,
                top=self._top,
                labels=self._served.labels,
                subject=core.subject_of(self._model),
            )
        )

    def close(self) -> None:
        """Leave nothing running."""
        if self._requests is not None:
            self._requests.close()
