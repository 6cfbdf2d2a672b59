"""The blocking client: images in, classes out, and never a silently wrong answer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt

from alexnet_model.contract import Contract

from .core import CALLS_IN_FLIGHT, DEFAULT_MODEL, Core
from .credentials import ClientTls, Headers
from .folders import images_in_folder
from .items import Images, items_of
from .predictions import Prediction
from .preparing import ItemsInTurn
from .retrying import Backoff
from .served_model import ServedModel
from .steps import blocking
from .transports.transport import FloatArray, ModelStatistics, Transport


class Client:
    """Ask a server for the classes of images.

    >>> with Client("grpc://127.0.0.1:8001") as client:  # doctest: +SKIP
    ...     for prediction in client.classify(["cat.jpg", "dog.jpg"]):
    ...         print(prediction.image, prediction.best.label)

    `with` connects at once; without it the first request does. A model's contract and labels are checked when
    it is first asked, and again whenever the connection was lost, before an answer is believed. Every request
    has `timeout_s` to be answered in, within which it is sent again where that is safe: nobody listened, the
    server was starting or stopping, its queue was full. Safe to use from several threads, of which
    `most_in_flight` have a request open at a time.
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
        most_in_flight: int = CALLS_IN_FLIGHT,
        transport: Transport | None = None,
    ) -> None:
        """Open a transport; nothing is sent yet. A transport that is given is closed with the client.

        Args:
            url: `grpc://`, `grpcs://`, `http://` or `https://`.
            tls: for `grpcs://` and `https://`: the CA to believe, and this client's own certificate.
            headers: sent with every request, or a function that is asked for them each time.

        Raises:
            InvalidUrl: the URL does not parse.
            UsageError: the timeout is not a positive number of seconds, or certificates cannot be used.
        """
        self._core = Core(
            url,
            timeout_s=timeout_s,
            tls=tls,
            headers=headers,
            contract=contract,
            backoff=backoff,
            most_in_flight=most_in_flight,
            transport=transport,
        )
        self.url = self._core.url
        self.contract = self._core.contract
        self.transport = self._core.transport

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
        """Check that the server is there and ready; once connected, do nothing.

        With `wait_s` a server that is still starting is waited for so long.

        Raises:
            Unreachable: nobody listens there.
            ForeignServer: no Triton server answers there.
            Untrusted: a certificate does not prove who the server, or the client, is.
            NotReady: it is still loading, or shutting down.
            ClientError: any other reason for no answer.
        """
        blocking(self._core.connect(wait_s))

    def close(self) -> None:
        """End what is in flight and let go of the connection; the client is of no more use."""
        self._core.close()

    def model(self, name: str) -> ServedModel:
        """What the server says of a model, whose contract is made sure to be this client's.

        Raises:
            ModelNotFound: the server has no such model.
            ContractMismatch: the model expects other images, or is not one of this project's.
            ClientError: no answer.
        """
        return blocking(self._core.model(name))

    def statistics(self, name: str) -> ModelStatistics:
        """What the server has counted of a model: requests, queueing and computing, batches.

        Raises:
            ModelNotFound: the server has no such model.
            ClientError: no answer.
        """
        return blocking(self._core.statistics(name))

    def classify(
        self,
        images: Images,
        *,
        model: str = DEFAULT_MODEL,
        top: int = 5,
        in_flight: int | None = None,
    ) -> list[Prediction]:
        """Classify one image or many: paths, bytes, binary files, PIL images or prepared uint8 arrays.

        One prediction an image, in order. An image that cannot be read, or whose request fails once the
        model was found, has its error in its prediction and costs the others nothing. `in_flight` requests
        are open at a time: two batches, or 32 images where the model decodes them itself.

        Raises:
            UsageError: `top` or `in_flight` is less than 1.
            ImageError: an array has the wrong shape, layout or dtype, or an item can be no image.
            ClientError: the server or the model cannot be used at all.
        """
        return list(self.classify_each(images, model=model, top=top, in_flight=in_flight))

    def classify_each(
        self,
        images: Images,
        *,
        model: str = DEFAULT_MODEL,
        top: int = 5,
        in_flight: int | None = None,
    ) -> Generator[Prediction]:
        """As `classify`, each prediction as it comes, in order; as little memory for a million as for one.

        `images` may be an iterator without an end. Leaving the loop early leaves nothing running.
        """
        items = items_of(images, self.contract)
        stream = self._core.stream(ItemsInTurn(iter(items)), model, top, in_flight)

        def predictions() -> Generator[Prediction]:
            with closing(stream):
                while (found := blocking(stream.next())) is not None:
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
        """`classify_each` of the image files in a folder, by their suffixes, sorted; with those below it.

        Raises:
            DatasetError: there is no such folder.
        """
        images = images_in_folder(Path(folder), recursive=recursive)
        return self.classify_each(images, model=model, top=top, in_flight=in_flight)

    def probabilities(self, images: npt.NDArray[Any], *, model: str = DEFAULT_MODEL) -> FloatArray:
        """Class probabilities, float32 `(N, classes)`, of prepared images, uint8 `(N, 224, 224, 3)`.

        Raises:
            ImageError: the array is not the contract's.
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
        """The model's raw outputs by name, float32 `(N, classes)` each, of any number of prepared images.

        Raises:
            ImageError: the array is not the contract's.
            UsageError: the model takes encoded images only.
            ClientError: the server, the model or a request failed.
        """
        return blocking(self._core.infer(images, model, outputs))
