"""The client for event loops: the methods of `Client`, to be awaited, over the same rules."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import numpy.typing as npt

from .client import DEFAULT_MODEL, BaseClient
from .images import AsyncIteratorSource, ImageOrArray, Images, SourceMaker, source_from_images
from .predictions import Prediction
from .sending import Steps
from .served_model import ServedModel
from .sources import images_in_folder
from .transports.transport import FloatArray, ModelStatistics

T = TypeVar("T")
AsyncImages: TypeAlias = Images | AsyncIterable[ImageOrArray]


class AsyncClient(BaseClient):
    """Classify images on a Triton server from an event loop.

    Arguments and methods are those of `Client`, and each method raises what `Client`'s raises.

    >>> async with AsyncClient("grpc://127.0.0.1:8001") as client:  # doctest: +SKIP
    ...     async for prediction in client.classify_each(paths):
    ...         print(prediction.image, prediction.best.label)

    Cancelling a task cancels its requests. Images are decoded in threads, but an iterator that blocks would
    block the event loop: pass an asynchronous one. Any number of tasks may share a client.
    """

    _wakeup: LoopWakeup | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self, *, wait_s: float = 0.0) -> None:
        """Check that the server is reachable and ready. Does nothing once connected.

        >>> await client.connect(wait_s=60)  # doctest: +SKIP

        Args:
            wait_s: how long to keep trying, for a server that is starting; 0 tries once.

        Raises:
            ClientError: the server is not reachable, not trusted or not ready.
        """
        await self._run(self._connect(self._deadline(), wait_s))

    async def close(self) -> None:
        """Cancel open requests and close the connection. The client cannot be used afterwards."""
        if self._pid == os.getpid():
            await asyncio.to_thread(self._close)

    async def model(self, name: str) -> ServedModel:
        """Read a model's configuration: its contract, classes, precision and largest batch.

        >>> (await client.model("alexnet_int8")).labels[0]  # doctest: +SKIP

        Args:
            name: such as `alexnet_int8`.

        Raises:
            ClientError: the server has no such model, or not with the pinned contract.
        """
        return await self._run(self._model(name, self._deadline()))

    async def model_names(self) -> tuple[str, ...]:
        """Read the names of all models that the server serves, also of those that this project did not write.

        Raises:
            BadRequest: the server does not report them.
            ClientError: no reply.
        """
        return await self._run(self._model_names())

    async def statistics(self, name: str) -> ModelStatistics:
        """Read the server's own counts of a model: requests, times in the queue and computing, batches.

        >>> (await client.statistics("alexnet_int8")).requests  # doctest: +SKIP

        Args:
            name: such as `alexnet_int8`.

        Raises:
            ClientError: the server has no such model, or does not reply.
        """
        return await self._run(self._statistics(name))

    async def classify(
        self, images: AsyncImages, *, model: str = DEFAULT_MODEL, top: int = 5, in_flight: int | None = None
    ) -> list[Prediction]:
        """Classify one image or many.

        >>> (prediction,) = await client.classify("cat.jpg", top=1)  # doctest: +SKIP

        An image that cannot be read, or whose request fails, has its error in its prediction.

        Args:
            images: what `Client.classify` takes, or an asynchronous iterable of single images.
            model: the model's name on the server.
            top: how many classes each prediction has, best first.
            in_flight: how many requests are open at once. Default: as in `Client.classify`.

        Returns:
            One prediction for each image, in order.
        """
        each = self.classify_each(images, model=model, top=top, in_flight=in_flight)
        return [prediction async for prediction in each]

    def classify_each(
        self, images: AsyncImages, *, model: str = DEFAULT_MODEL, top: int = 5, in_flight: int | None = None
    ) -> AsyncGenerator[Prediction]:
        """As `classify`, but yield each prediction as soon as it is there, in order.

        >>> async for prediction in client.classify_each(paths):  # doctest: +SKIP
        ...     print(prediction.best.label)

        Needs as little memory for a million images as for one; `images` may be endless. After leaving the
        loop early, `aclose()` cancels the open requests.
        """
        stream = self._stream(self._source(images), model, top, in_flight)

        async def predictions() -> AsyncGenerator[Prediction]:
            try:
                while (found := await self._run(stream.next())) is not None:
                    for prediction in found:
                        yield prediction
            finally:
                stream.close()

        return predictions()

    def classify_folder(
        self,
        folder: str | Path,
        *,
        recursive: bool = False,
        model: str = DEFAULT_MODEL,
        top: int = 5,
        in_flight: int | None = None,
    ) -> AsyncGenerator[Prediction]:
        """As `classify_each`, for the image files in a folder, sorted by name.

        >>> async for prediction in client.classify_folder("images", recursive=True):  # doctest: +SKIP
        ...     print(prediction.image)

        Args:
            folder: the folder; files are chosen by their suffix.
            recursive: also the folders inside it.
        """
        images = images_in_folder(Path(folder), recursive=recursive)
        return self.classify_each(images, model=model, top=top, in_flight=in_flight)

    async def probabilities(self, images: npt.NDArray[Any], *, model: str = DEFAULT_MODEL) -> FloatArray:
        """Class probabilities, float32 `(N, classes)`, of prepared images.

        >>> (await client.probabilities(images)).argmax(axis=1)  # doctest: +SKIP

        Args:
            images: uint8 `(N, size, size, 3)` or one image `(size, size, 3)`, as the model's contract
                prepares them.
            model: the model's name on the server.
        """
        return await self._run(self._probabilities(images, model))

    async def infer(
        self,
        images: npt.NDArray[Any],
        *,
        model: str = DEFAULT_MODEL,
        outputs: tuple[str, ...] | None = None,
    ) -> dict[str, FloatArray]:
        """The model's raw outputs by name, float32 `(N, classes)` each, of any number of prepared images.

        >>> (await client.infer(images, outputs=("logits",)))["logits"]  # doctest: +SKIP

        Args:
            images: uint8 `(N, size, size, 3)` or one image `(size, size, 3)`, as the model's contract
                prepares them.
            model: the model's name on the server.
            outputs: names of the outputs to return. Default: probabilities and logits.
        """
        return await self._run(self._infer(images, model, outputs))

    async def _run(self, coroutine: Steps[T]) -> T:
        """Run a coroutine of `BaseClient`. A cancelled task closes it, which cancels what it waits for."""
        loop = asyncio.get_running_loop()
        if self._wakeup is None or self._wakeup.loop is not loop:
            self._wakeup = LoopWakeup(loop)
        wakeup = self._wakeup
        try:
            while True:
                await wakeup.wait(coroutine.send(None))
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            coroutine.close()

    def _source(self, images: AsyncImages) -> SourceMaker:
        if isinstance(images, AsyncIterable):
            source = AsyncIteratorSource(aiter(images), _spawn)
            return lambda _: source
        return partial(source_from_images, images)


class LoopWakeup:
    """Wait in one event loop for futures of other threads, with one wakeup for all that are done by then.

    `asyncio.wrap_future` wakes the loop for every future. Replies come in groups, as a server batches them,
    and a wakeup costs more than reading a reply.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False

    async def wait(self, future: Future[Any]) -> None:
        """Wait until a future is done. Its result or error is not taken."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        future.add_done_callback(lambda _: self._add(waiter))
        await waiter

    def _add(self, waiter: asyncio.Future[None]) -> None:
        self._done.append(waiter)
        if not self._is_scheduled:  # else the scheduled call will find this waiter too
            self._is_scheduled = True
            with suppress(RuntimeError):  # the loop was closed
                self.loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        self._is_scheduled = False  # first: a future that is done from now on schedules another call
        while self._done:
            waiter = self._done.popleft()
            if not waiter.done():
                waiter.set_result(None)


def _spawn(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    return asyncio.run_coroutine_threadsafe(coroutine, asyncio.get_running_loop())
