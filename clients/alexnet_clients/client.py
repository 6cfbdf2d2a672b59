"""The blocking client, and the base class with the rules that it shares with `AsyncClient`.

The rules are coroutines that wait only for the futures of a transport (see `sending.py`): what is prepared,
when a request is sent and sent again, and what is checked before a reply is accepted. `Client` runs them in
the calling thread, `AsyncClient` in the caller's event loop.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract
from alexnet_model.errors import BadResponse, ClientError, ContractMismatch, NotReady, UsageError
from alexnet_model.processes import check_same_process

from .credentials import ClientTls, Credentials, Headers
from .images import Batch, Images, PreparedBatches, SlicedBatches, SourceMaker, source_from_images
from .predictions import Prediction, numbers_from_reply, predictions_from_batch
from .sending import Backoff, FifoSemaphore, RequestWindow, Retrier, Steps, result_of, run_blocking, wait_for
from .served_model import ServedModel, served_model_from_config
from .sources import images_in_folder
from .telemetry import Call, Observer, start_observing
from .transports.balanced_transport import BalancedTransport
from .transports.error_rules import LATE
from .transports.transport import (
    FloatArray,
    InferReply,
    InferRequest,
    ModelConfig,
    ModelStatistics,
    Region,
    Transport,
    subject_of,
    transport_from_url,
)
from .url import Endpoints

T = TypeVar("T")
#: The model that a client uses if none is named.
DEFAULT_MODEL = "alexnet_fp32"
# One request is computed while the next is prepared and sent; more would only wait in the server's queue.
BATCHES_IN_FLIGHT = 2
# Encoded images are sent one a request, so that a broken one costs only itself; the server batches them.
ENCODED_IN_FLIGHT = 32
THREADS = min(8, os.cpu_count() or 1)


class BaseClient:
    """What `Client` and `AsyncClient` have in common. Thread-safe; each stream is used by one thread or task.

    Attributes:
        url: the server, or several of them.
        contract: the pinned contract; None: each model is used by the contract that it declares.
        timeout_s: how long a call, or each further batch of it, waits for the server, seconds.
        transport: what carries the requests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        tls: ClientTls | None = None,
        headers: Headers | None = None,
        contract: Contract | None = None,
        backoff: Backoff | None = None,
        max_in_flight: int = 64,
        observers: Sequence[Observer] = (),
        transport: Transport | None = None,
    ) -> None:
        """Open a transport; nothing is sent yet.

        Args:
            url: `grpc://`, `grpcs://`, `http://` or `https://`, with host and port. Several servers with one
                scheme are separated by commas (`grpc://a:8001,b:8001`). `dns:///name:8001` is gRPC to each
                address of a name.
            timeout_s: how long a call waits for the server, seconds: to connect, to read the model and for
                its request with all attempts together. Each further batch of a call has as long again.
            tls: for `grpcs://` and `https://`: the CA to trust, and this client's own certificate.
            headers: sent with every request, or a function that returns them and is called for each.
            contract: pins a contract: a model with another one is refused. Default: images are prepared by
                the contract that the served model declares (`ServedModel.contract`).
            backoff: waits between attempts. Default: `Backoff()`.
            max_in_flight: how many requests are open at once at most; others wait in the client.
            observers: are called for each request for inference, such as `Tracing()` and `Metrics()`.
            transport: used instead of one for `url`; closed with the client.

        Raises:
            InvalidUrl: the URL does not parse.
            UsageError: an option is out of range, or certificates cannot be used.
        """
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise UsageError("timeout_s", got=f"{timeout_s}", expected="a positive number of seconds")
        if max_in_flight < 1:
            raise UsageError("max_in_flight", got=f"{max_in_flight}", expected="at least 1")
        self.url = Endpoints.parse(url)
        self.contract = contract
        self.timeout_s = timeout_s
        self.transport = transport or self._transport(Credentials(tls=tls, headers=headers))
        self._name = str(self.url)
        self._pid = os.getpid()
        self._retrier = Retrier(backoff or Backoff())
        self._permits = FifoSemaphore(max_in_flight)
        self._observers = tuple(observers)
        self._id, self._numbers_of_requests = secrets.token_hex(4), count(1)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="alexnet-prepare")
        self._connected = self._closed = False
        # Each model with the transport's count of connections when it was read.
        self._models: dict[str, tuple[ServedModel, int]] = {}
        self._lock = threading.Lock()
        # Requests whose reply several callers wait for, by name and the count of connections at their start.
        self._shared: dict[tuple[str, int], Future[Any]] = {}

    def _transport(self, credentials: Credentials) -> Transport:
        if self.url.is_one:
            return transport_from_url(self.url.servers[0], credentials)
        return BalancedTransport(self.url, credentials, check=self._check_endpoint)

    def _close(self) -> None:
        """End open requests. Does not wait for an image that is being read, which may take forever.

        In a forked child it does nothing: threads, connection and requests are those of the parent.
        """
        if self._pid != os.getpid():
            return
        self._closed = True
        self._retrier.close()
        self.transport.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _subject(self, model: str) -> str:
        return subject_of(self._name, model)

    def _check_process(self) -> None:
        """Refuse a use in a forked child, before a lock that a thread of the parent may have held."""
        if self._pid != os.getpid():
            check_same_process(f"client {self._name}", self._pid, kind=ClientError)

    def _deadline(self) -> float:
        """When a call that starts now has waited long enough for the server, by the monotonic clock."""
        return time.monotonic() + self.timeout_s

    def _left_s(self, deadline: float) -> float:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise LATE.error(self._name, f"no reply in {self.timeout_s:g} s")
        return left_s

    async def _connect(self, deadline: float, wait_s: float = 0.0) -> None:
        """Check readiness once until the deadline, or repeatedly for `wait_s` seconds."""
        self._check_process()
        if self._closed:
            raise ClientError(
                self._name,
                got="a client that was closed",
                expected="an open one",
                next_step="Create a new client.",
            )
        if self._connected:
            return
        if wait_s > 0:
            await result_of(self._retrier.run(self._ready, timeout_s=wait_s, patient=True))
        else:
            await self._once_for_all("ready", lambda: self._ready(self._left_s(deadline)))
        self._connected = True

    async def _model(self, name: str, deadline: float) -> ServedModel:
        """A model's configuration, read once for each connection."""
        self._check_process()
        known = self._models.get(name)
        if known is not None and known[1] == self.transport.connections:
            return known[0]
        await self._connect(deadline)
        return await self._read_model(name, deadline)

    async def _revalidate(self, served: ServedModel) -> ServedModel:
        """Read the model again if the connection changed: another server may have sent the reply.

        This has a deadline of its own, so that a late reply is not lost.
        """
        if self._models[served.name][1] == self.transport.connections:
            return served
        return await self._read_model(served.name, self._deadline())

    async def _read_model(self, name: str, deadline: float) -> ServedModel:
        connections = self.transport.connections

        def read(left_s: float) -> Future[ModelConfig]:
            return self.transport.model_config(name, timeout_s=left_s)

        config = await self._once_for_all(
            f"model {name}", lambda: self._retrier.run(read, timeout_s=self._left_s(deadline))
        )
        if config.name != name:
            raise BadResponse(self._subject(name), got=f"the model {config.name!r}", expected=repr(name))
        served = served_model_from_config(config, subject=self._subject(name))
        self._check_contract(served, self._subject(name))
        self._models[name] = (served, connections)
        return served

    def _check_contract(self, served: ServedModel, subject: str) -> None:
        """Compare a model with the pinned contract, and with the model as it was first read.

        Images that were prepared before the connection was lost have the contract of that time, and callers
        may have kept the labels.
        """
        known = self._models[served.name][0] if served.name in self._models else served
        expected = self.contract or known.contract
        next_step = "Another export is served now: create a new client."
        if differences := expected.differences(served.contract):
            if self.contract is not None:
                next_step = "Pin the contract that the model was exported with, or none."
            raise ContractMismatch(
                subject,
                got="; ".join(differences),
                expected=f"the client's contract {expected.digest[:12]}",
                next_step=next_step,
            )
        if served.labels != known.labels or served.decodes != known.decodes:
            raise ContractMismatch(
                subject,
                got="a model with other classes since the connection was lost",
                expected=f"the {known.classes} classes that it had",
                next_step=next_step,
            )

    def _check_endpoint(self, config: ModelConfig, url: str) -> None:
        """Refuse a model of one of several servers, unless images prepared for the first one fit it."""
        subject = f"{url} {config.name}"
        served = served_model_from_config(config, subject=subject)
        self._check_contract(served, subject)
        known = self._models.get(config.name)
        if known is not None and served.max_batch < known[0].max_batch:
            raise ContractMismatch(
                subject,
                got=f"batches of at most {served.max_batch} images",
                expected=f"at least {known[0].max_batch}, as the first server had",
                next_step="Export for all servers with the same --max-batch.",
            )

    async def _model_names(self) -> tuple[str, ...]:
        deadline = self._deadline()
        await self._connect(deadline)
        return await result_of(self.transport.model_names(timeout_s=self._left_s(deadline)))

    async def _statistics(self, name: str) -> ModelStatistics:
        deadline = self._deadline()
        await self._connect(deadline)
        return await result_of(self.transport.statistics(name, timeout_s=self._left_s(deadline)))

    async def _pixels_model(self, name: str, deadline: float) -> ServedModel:
        """As `_model`, for a model that takes prepared pixels."""
        served = await self._model(name, deadline)
        if served.decodes:
            raise UsageError(
                f"model {name}",
                got="prepared pixels",
                expected="encoded images, which this model decodes itself",
                next_step="Use classify, or a model that takes pixels.",
            )
        return served

    async def _probabilities(self, images: npt.NDArray[Any], model: str) -> FloatArray:
        deadline = self._deadline()
        name = (await self._pixels_model(model, deadline)).contract.probabilities_name
        return (await self._infer(images, model, (name,), deadline))[name]

    async def _infer(
        self,
        images: npt.NDArray[Any],
        model: str,
        outputs: tuple[str, ...] | None,
        deadline: float | None = None,
    ) -> dict[str, FloatArray]:
        deadline = deadline or self._deadline()
        served = await self._pixels_model(model, deadline)
        checked = served.contract.checked(images)
        outputs = _outputs_of(served, outputs)
        pieces: dict[str, list[FloatArray]] = {name: [] for name in outputs}
        batches = SlicedBatches(checked, size=served.max_batch)
        send = self._sender(served, self._left_s(deadline), outputs=outputs)
        with closing(RequestWindow(batches, send, limit=BATCHES_IN_FLIGHT)) as window:
            while (sent := await window.next()) is not None:
                batch, future = sent
                assert future is not None  # a slice of an array holds at least one image
                assert batch.rows is not None
                reply = future.result()
                served = await self._revalidate(served)
                for name, values in self._numbers(reply, served, len(batch.rows), outputs).items():
                    pieces[name].append(values)
        return {
            name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # (N, classes)
            for name, arrays in pieces.items()
        }

    async def _infer_in_region(
        self, region: Region, images: npt.NDArray[Any], model: str, outputs: tuple[str, ...] | None
    ) -> dict[str, FloatArray]:
        """As `_infer`, for at most one batch at the start of shared memory."""
        deadline = self._deadline()
        served = await self._pixels_model(model, deadline)
        outputs = _outputs_of(served, outputs)
        left_s = self._left_s(deadline)
        batch = Batch((), images)
        future = await self._send(served, batch, outputs=outputs, region=region.name, timeout_s=left_s)
        reply = await result_of(future)
        return self._numbers(reply, await self._revalidate(served), len(images), outputs)

    def _numbers(
        self, reply: InferReply, served: ServedModel, images: int, outputs: tuple[str, ...]
    ) -> dict[str, FloatArray]:
        return {
            name: numbers_from_reply(
                reply,
                name,
                shape=(images, served.classes),
                subject=subject_of(self._name, served.name, reply.request_id),
                are_probabilities=name == served.contract.probabilities_name,
            )
            for name in outputs
        }

    def _stream(self, images: SourceMaker, model: str, top: int, in_flight: int | None) -> PredictionStream:
        if top < 1:
            raise UsageError("top", got=f"{top}", expected="at least 1")
        if in_flight is not None and in_flight < 1:
            raise UsageError("in_flight", got=f"{in_flight}", expected="at least 1")
        return PredictionStream(self, images, model=model, top=top, in_flight=in_flight)

    def _sender(
        self, served: ServedModel, left_s: float, *, outputs: tuple[str, ...], top: int = 0
    ) -> Callable[[Batch], Steps[Future[InferReply]]]:
        """A function that sends a batch. The first has what is left of the call's deadline."""
        timeouts = chain([left_s], repeat(self.timeout_s))
        return lambda batch: self._send(served, batch, outputs=outputs, top=top, timeout_s=next(timeouts))

    async def _send(
        self,
        served: ServedModel,
        batch: Batch,
        *,
        timeout_s: float,
        outputs: tuple[str, ...],
        top: int = 0,
        region: str = "",
    ) -> Future[InferReply]:
        """Wait for a permit, which is returned with the reply, then send the batch."""
        assert batch.rows is not None
        name = ENCODED_INPUT_NAME if served.decodes else served.contract.input_name
        request = InferRequest(
            model=served.name,
            inputs={name: batch.rows},
            outputs=outputs,
            top=top,
            region=region,
            id=f"{self._id}-{next(self._numbers_of_requests)}",
        )
        await self._permits.acquire()
        finish: Callable[[Future[Any]], None] | None = None
        try:
            message = self.transport.prepare(request)
            if self._observers:
                call = Call(
                    model=request.model,
                    images=len(batch.rows),
                    request_id=request.id,
                    protocol="http" if self.url.servers[0].speaks_http else "grpc",
                )
                finish = start_observing(call, self._observers)
                message = replace(message, call=call)
            future = self._retrier.run(
                lambda left_s: self.transport.submit(message, timeout_s=left_s), timeout_s=timeout_s
            )
        except BaseException as error:
            self._permits.release()
            if finish is not None:
                failed: Future[InferReply] = Future()
                failed.set_exception(error)
                finish(failed)
            raise
        future.add_done_callback(lambda _: self._permits.release())
        if finish is not None:
            future.add_done_callback(finish)
        return future

    async def _once_for_all(self, what: str, send: Callable[[], Future[T]]) -> T:
        """Send one request for all callers that need its reply at the same time."""
        key = (what, self.transport.connections)
        with self._lock:
            future = self._shared.get(key)
            is_first = future is None
            if future is None:
                future = self._shared[key] = send()
        if is_first:  # only the first removes it: later, another request may have this key
            future.add_done_callback(lambda _: self._shared.pop(key, None))
        await wait_for(future, shared=True)
        result: T = future.result()
        return result

    def _ready(self, left_s: float) -> Future[bool]:
        """A future of True, or of `NotReady`, which is an error so that it can be retried."""
        outcome: Future[bool] = Future()

        def finish(reply: Future[bool]) -> None:
            if reply.cancelled() or not outcome.set_running_or_notify_cancel():
                return
            error = reply.exception()
            if error is None and not reply.result():
                error = NotReady(
                    self._name,
                    got="a server that is not ready",
                    expected="a ready one",
                    next_step="Wait until its models have loaded.",
                )
            if error is None:
                outcome.set_result(True)
            else:
                outcome.set_exception(error)

        reply = self.transport.ready(timeout_s=left_s)
        reply.add_done_callback(finish)
        outcome.add_done_callback(lambda outcome: outcome.cancelled() and reply.cancel())
        return outcome


def _outputs_of(served: ServedModel, outputs: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names of the outputs to request. Default: probabilities and logits."""
    contract = served.contract
    return (contract.probabilities_name, contract.logits_name) if outputs is None else tuple(outputs)


class PredictionStream:
    """Predictions in the order of the images, a batch at a time. Nothing is sent before the first `next`.

    `images` makes the source of images by the contract of the model, which is not known before.
    """

    def __init__(
        self, client: BaseClient, images: SourceMaker, *, model: str, top: int, in_flight: int | None
    ) -> None:
        self._client = client
        self._images = images
        self._name = model
        self._top = top
        self._in_flight = in_flight
        self._served: ServedModel | None = None
        self._window: RequestWindow | None = None

    async def next(self) -> tuple[Prediction, ...] | None:
        """The predictions of the next batch; None after the last."""
        client = self._client
        client._check_process()
        if self._served is None or self._window is None:
            deadline = client._deadline()
            served = self._served = await client._model(self._name, deadline)
            left_s = client._left_s(deadline)
            batches = PreparedBatches(
                self._images(served.contract),
                served.contract,
                size=1 if served.decodes else served.max_batch,
                encoded=served.decodes,
                pool=client._pool,
                threads=THREADS,
            )
            limit = self._in_flight or (ENCODED_IN_FLIGHT if served.decodes else BATCHES_IN_FLIGHT)
            outputs = (served.contract.probabilities_name,)
            send = client._sender(served, left_s, outputs=outputs, top=self._top)
            self._window = RequestWindow(batches, send, limit=limit)
        sent = await self._window.next()
        if sent is None:
            return None
        batch, future = sent
        if future is not None and future.exception() is None:
            self._served = await client._revalidate(self._served)
        return predictions_from_batch(
            batch,
            future,
            output=self._served.contract.probabilities_name,
            top=self._top,
            labels=self._served.labels,
            subject=client._subject(self._name),
        )

    def close(self) -> None:
        """Cancel the open requests, unless they are those of a parent that this process was forked from."""
        if self._window is not None and self._client._pid == os.getpid():
            self._window.close()


class Client(BaseClient):
    """Classify images on a Triton server, blocking the calling thread.

    >>> with Client("grpc://127.0.0.1:8001") as client:  # doctest: +SKIP
    ...     for prediction in client.classify(["cat.jpg", "dog.jpg"]):
    ...         print(prediction.image, prediction.best.label)

    `with` connects; without it the first request does. A model's contract and labels are checked before its
    first request, and again whenever the connection was lost, before a reply is accepted. A request is sent
    again within its deadline where that is safe: the server was unreachable, was starting or stopping, or its
    queue was full. Several threads may share a client.
    """

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, *, wait_s: float = 0.0) -> None:
        """Check that the server is reachable and ready. Does nothing once connected.

        Args:
            wait_s: how long to keep trying, for a server that is starting; 0 tries once.

        Raises:
            Unreachable: no server listens at the URL.
            ForeignServer: what listens there is not Triton.
            Untrusted: a certificate does not prove who the server, or the client, is.
            NotReady: the server is still loading, or shutting down.
            ClientError: no reply for another reason.
        """
        run_blocking(self._connect(self._deadline(), wait_s))

    def close(self) -> None:
        """Cancel open requests and close the connection. The client cannot be used afterwards."""
        self._close()

    def model(self, name: str) -> ServedModel:
        """Read a model's configuration: its contract, classes, precision and largest batch.

        Args:
            name: such as `alexnet_int8`.

        Raises:
            ModelNotFound: the server has no model of that name.
            ContractMismatch: the model's contract is not the pinned one, has another version or has changed,
                or the model is not one of this project's.
            ClientError: no reply.
        """
        return run_blocking(self._model(name, self._deadline()))

    def model_names(self) -> tuple[str, ...]:
        """Read the names of all models that the server serves, also of those that this project did not write.

        Raises:
            BadRequest: the server does not report them.
            ClientError: no reply.
        """
        return run_blocking(self._model_names())

    def statistics(self, name: str) -> ModelStatistics:
        """Read the server's own counts of a model: requests, times in the queue and computing, batches.

        Args:
            name: such as `alexnet_int8`.

        Raises:
            ModelNotFound: the server has no model of that name.
            ClientError: no reply.
        """
        return run_blocking(self._statistics(name))

    def classify(
        self, images: Images, *, model: str = DEFAULT_MODEL, top: int = 5, in_flight: int | None = None
    ) -> list[Prediction]:
        """Classify one image or many.

        An image that cannot be read, or whose request fails, has its error in its prediction; the others are
        classified all the same.

        Args:
            images: one image or an iterable of them: paths, encoded images (`bytes`, `bytearray`,
                `memoryview`), binary files, PIL images, or uint8 RGB arrays `(H, W, 3)`; or one array
                `(N, H, W, 3)`. An array that has exactly the size of the model's contract is taken as
                prepared. Others are prepared like any image. Frames of OpenCV are BGR: pass
                `frame[..., ::-1]`.
            model: the model's name on the server.
            top: how many classes each prediction has, best first.
            in_flight: how many requests are open at once. Default: 2 batches, or 32 images for a model that
                decodes on the server.

        Returns:
            One prediction for each image, in order.

        Raises:
            UsageError: `top` or `in_flight` is less than 1.
            ImageError: an array has the wrong shape, layout or dtype, or an item cannot be an image.
            ClientError: the server or the model cannot be used at all.
        """
        return list(self.classify_each(images, model=model, top=top, in_flight=in_flight))

    def classify_each(
        self, images: Images, *, model: str = DEFAULT_MODEL, top: int = 5, in_flight: int | None = None
    ) -> Generator[Prediction]:
        """As `classify`, but yield each prediction as soon as it is there, in order.

        Needs as little memory for a million images as for one; `images` may be an endless iterator. Leaving
        the loop early cancels the open requests.
        """
        stream = self._stream(partial(source_from_images, images), model, top, in_flight)

        def predictions() -> Generator[Prediction]:
            with closing(stream):
                while (found := run_blocking(stream.next())) is not None:
                    yield from found

        return predictions()

    def classify_folder(
        self,
        folder: str | Path,
        *,
        recursive: bool = False,
        model: str = DEFAULT_MODEL,
        top: int = 5,
        in_flight: int | None = None,
    ) -> Generator[Prediction]:
        """As `classify_each`, for the image files in a folder, sorted by name.

        Args:
            folder: the folder; files are chosen by their suffix.
            recursive: also the folders inside it.

        Raises:
            DatasetError: the folder does not exist or cannot be read.
        """
        images = images_in_folder(Path(folder), recursive=recursive)
        return self.classify_each(images, model=model, top=top, in_flight=in_flight)

    def probabilities(self, images: npt.NDArray[Any], *, model: str = DEFAULT_MODEL) -> FloatArray:
        """Class probabilities, float32 `(N, classes)`, of prepared images.

        Args:
            images: uint8 `(N, size, size, 3)` or one image `(size, size, 3)`, as the model's contract
                prepares them: `client.model(name).contract.prepared(path)`.
            model: the model's name on the server.

        Raises:
            ImageError: the array does not fit the contract.
            UsageError: the model takes encoded images only.
            ClientError: the server, the model or a request failed.
        """
        return run_blocking(self._probabilities(images, model))

    def infer(
        self,
        images: npt.NDArray[Any],
        *,
        model: str = DEFAULT_MODEL,
        outputs: tuple[str, ...] | None = None,
    ) -> dict[str, FloatArray]:
        """The model's raw outputs by name, float32 `(N, classes)` each, of any number of prepared images.

        Args:
            images: uint8 `(N, size, size, 3)` or one image `(size, size, 3)`, as the model's contract
                prepares them.
            model: the model's name on the server.
            outputs: names of the outputs to return. Default: probabilities and logits.

        Raises:
            ImageError: the array does not fit the contract.
            UsageError: the model takes encoded images only.
            ClientError: the server, the model or a request failed.
        """
        return run_blocking(self._infer(images, model, outputs))
