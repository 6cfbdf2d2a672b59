"""The client: pictures in, classes out, and never a silently wrong answer.

Contract, batches and replies are handled by functions that know no protocol (`served_model`, `preparing`,
`predictions`, `replies`) and the wire by a `Transport`; this file only joins them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import NotReady, UsageError

from .predictions import Prediction, predictions_from_batch
from .preparing import Batch, Pictures, batches_from_pictures
from .replies import numbers_from_reply, probabilities_from_reply
from .served_model import ServedModel, served_model_from_config
from .transport import FloatArray, InferReply, InferRequest, Transport
from .url import ServerUrl

DEFAULT_MODEL = "alexnet_fp32"
# One request is computed while the next is prepared and sent; more would only wait in the server's queue.
_IN_FLIGHT = 2


class Client:
    """Ask a server for the classes of pictures.

    >>> with Client("grpc://127.0.0.1:8001") as client:  # doctest: +SKIP
    ...     for prediction in client.classify(["cat.jpg", "dog.jpg"]):
    ...         print(prediction.picture, prediction.best.label)

    `with` connects at once; without it the first request does. A model's contract is checked when it is
    first asked. Every request has `timeout_s` to be answered in. Safe to use from several threads.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        contract: Contract | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Open a transport; nothing is sent yet. A transport that is given is closed with the client.

        Raises:
            InvalidUrl: the URL does not parse.
            UsageError: the timeout is not a positive number of seconds.
        """
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise UsageError("timeout_s", got=f"{timeout_s}", expected="a positive number of seconds")
        self.url = ServerUrl.parse(url)
        self.contract = contract or Contract()
        self._timeout_s = timeout_s
        self._transport = transport or transport_from_url(self.url)
        self._connected = False
        self._models: dict[str, ServedModel] = {}

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Check that the server is there and ready; once connected, do nothing.

        Raises:
            Unreachable: no Triton server answers there.
            NotReady: it is still loading, or shutting down.
            ClientError: any other reason for no answer.
        """
        if self._connected:
            return
        if not self._transport.ready(timeout_s=self._timeout_s):
            raise NotReady(
                str(self.url),
                got="a server that is not ready",
                expected="a ready one",
                next_step="Wait until its models have loaded.",
            )
        self._connected = True

    def close(self) -> None:
        """End what is in flight and let go of the connection; the client is of no more use."""
        self._transport.close()

    def model(self, name: str) -> ServedModel:
        """Read a model's configuration, once, and make sure that its contract is this client's.

        Raises:
            ModelNotFound: the server has no such model.
            ContractMismatch: the model expects other pictures, or is not one of this project's.
            ClientError: no answer.
        """
        if name not in self._models:
            self.connect()
            config = self._transport.model_config(name, timeout_s=self._timeout_s)
            self._models[name] = served_model_from_config(
                config, self.contract, subject=self._subject_of(name)
            )
        return self._models[name]

    def classify(self, pictures: Pictures, *, model: str = DEFAULT_MODEL, top: int = 5) -> list[Prediction]:
        """Classify one picture or many: paths, bytes, binary files, PIL images or prepared uint8 arrays.

        One prediction a picture, in order. A picture that cannot be read, or whose request fails once the
        model was found, has its error in its prediction and costs the others nothing.

        Raises:
            UsageError: `top` is less than 1.
            PictureError: an array has the wrong shape, layout or dtype, or an item can be no picture.
            ClientError: the server or the model cannot be used at all.
        """
        if top < 1:
            raise UsageError("top", got=f"{top}", expected="at least 1")
        served = self.model(model)
        output = self.contract.probabilities_name
        batches = batches_from_pictures(pictures, self.contract, max_batch=served.max_batch)
        predictions: list[Prediction] = []
        with closing(batches), closing(self._answered(batches, model, (output,), top)) as answered:
            for batch, future in answered:
                predictions.extend(
                    predictions_from_batch(
                        batch,
                        future,
                        output=output,
                        top=top,
                        classes=served.classes,
                        subject=self._subject_of(model),
                    )
                )
        return predictions

    def probabilities(self, images: npt.NDArray[Any], *, model: str = DEFAULT_MODEL) -> FloatArray:
        """Class probabilities, float32 `(N, classes)`, of prepared pictures, uint8 `(N, 224, 224, 3)`.

        Raises:
            PictureError: the array is not the contract's.
            ClientError: the server, the model or a request failed.
        """
        name = self.contract.probabilities_name
        return self.infer(images, model=model, outputs=(name,))[name]

    def infer(
        self,
        images: npt.NDArray[Any],
        *,
        model: str = DEFAULT_MODEL,
        outputs: tuple[str, ...] = ("probabilities", "logits"),
    ) -> dict[str, FloatArray]:
        """The model's raw outputs by name, float32 `(N, classes)` each, of any number of prepared pictures.

        Raises:
            PictureError: the array is not the contract's.
            ClientError: the server, the model or a request failed.
        """
        checked = self.contract.checked(images)
        served = self.model(model)
        subject = self._subject_of(model)
        pieces: dict[str, list[FloatArray]] = {name: [] for name in outputs}
        with closing(self._answered(_slices(checked, served.max_batch), model, outputs)) as answered:
            for batch, future in answered:
                assert future is not None  # a slice of an array holds at least one picture
                assert batch.images is not None
                reply, shape = future.result(), (len(batch.images), served.classes)
                for name in outputs:
                    is_distribution = name == self.contract.probabilities_name
                    read = probabilities_from_reply if is_distribution else numbers_from_reply
                    pieces[name].append(read(reply, name, shape=shape, subject=subject))
        return {name: np.concatenate(arrays) for name, arrays in pieces.items()}  # (N, classes)

    def _subject_of(self, model: str) -> str:
        return f"{self.url} {model}"

    def _answered(
        self, batches: Iterator[Batch], model: str, outputs: tuple[str, ...], top: int = 0
    ) -> Generator[tuple[Batch, Future[InferReply] | None]]:
        """Each batch with its request's future, in order, a bounded number of requests ahead."""
        waiting: deque[tuple[Batch, Future[InferReply] | None]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, self._submitted(batch, model, outputs, top)))
                if len(waiting) == _IN_FLIGHT:
                    yield waiting[0]
                    waiting.popleft()
            while waiting:
                yield waiting[0]
                waiting.popleft()
        finally:
            for _, future in waiting:  # an error or an interrupt leaves no request running
                if future is not None:
                    future.cancel()

    def _submitted(
        self, batch: Batch, model: str, outputs: tuple[str, ...], top: int
    ) -> Future[InferReply] | None:
        if batch.images is None:
            return None
        request = InferRequest(
            model=model,
            images=batch.images,
            input_name=self.contract.input_name,
            outputs=outputs,
            top=top,
        )
        return self._transport.submit(self._transport.prepare(request), timeout_s=self._timeout_s)


def transport_from_url(url: ServerUrl) -> Transport:
    """The transport that speaks a URL's scheme; the protocol's library is imported here and not before."""
    from .grpc_transport import GrpcTransport

    return GrpcTransport(url)


def _slices(images: Uint8Array, size: int) -> Iterator[Batch]:
    for start in range(0, len(images), size):
        yield Batch((), images[start : start + size])
