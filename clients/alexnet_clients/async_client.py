"""The client for event loops: the same verbs as `Client`, over the same core."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import numpy.typing as npt

from alexnet_model.contract import Contract

from .core import CALLS_IN_FLIGHT, DEFAULT_MODEL, Core
from .credentials import ClientTls, Headers
from .folders import images_in_folder
from .items import ImageOrArray, Images, items_of
from .predictions import Prediction
from .preparing import AsyncItemsInTurn, ItemsInTurn, Source
from .retrying import Backoff
from .served_model import ServedModel
from .steps import Steps
from .transports.transport import FloatArray, ModelStatistics, Transport

T = TypeVar("T")
AsyncImages: TypeAlias = Images | AsyncIterable[ImageOrArray]


class AsyncClient:
    """`Client` for event loops. Every verb is awaited; cancelling a task leaves no request of it running.

    >>> async with AsyncClient("grpc://127.0.0.1:8001") as client:  # doctest: +SKIP
    ...     async for prediction in client.classify_each(paths):
    ...         print(prediction.image, prediction.best.label)

    Images are decoded in threads. An iterator that blocks would block the event loop: pass an asynchronous
    one. However many tasks ask, `most_in_flight` requests are open at a time.
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
        """As `Client`."""
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
        self._bell: Doorbell | None = None

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
        """As `Client.connect`."""
        await self._awaited(self._core.connect(wait_s))

    async def close(self) -> None:
        """End what is in flight and let go of the connection; the client is of no more use."""
        await asyncio.to_thread(self._core.close)

    async def model(self, name: str) -> ServedModel:
        """As `Client.model`."""
        return await self._awaited(self._core.model(name))

    async def statistics(self, name: str) -> ModelStatistics:
        """As `Client.statistics`."""
        return await self._awaited(self._core.statistics(name))

    async def classify(
        self,
        images: AsyncImages,
        *,
        model: str = DEFAULT_MODEL,
        top: int = 5,
        in_flight: int | None = None,
    ) -> list[Prediction]:
        """As `Client.classify`; an asynchronous iterable will do too."""
        each = self.classify_each(images, model=model, top=top, in_flight=in_flight)
        return [prediction async for prediction in each]

    def classify_each(
        self,
        images: AsyncImages,
        *,
        model: str = DEFAULT_MODEL,
        top: int = 5,
        in_flight: int | None = None,
    ) -> AsyncGenerator[Prediction]:
        """As `Client.classify_each`."""
        stream = self._core.stream(self._source(images), model, top, in_flight)

        async def predictions() -> AsyncGenerator[Prediction]:
            try:
                while (found := await self._awaited(stream.next())) is not None:
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
        """As `Client.classify_folder`."""
        images = images_in_folder(Path(folder), recursive=recursive)
        return self.classify_each(images, model=model, top=top, in_flight=in_flight)

    async def probabilities(self, images: npt.NDArray[Any], *, model: str = DEFAULT_MODEL) -> FloatArray:
        """As `Client.probabilities`."""
        name = self.contract.probabilities_name
        return (await self.infer(images, model=model, outputs=(name,)))[name]

    async def infer(
        self,
        images: npt.NDArray[Any],
        *,
        model: str = DEFAULT_MODEL,
        outputs: tuple[str, ...] = ("probabilities", "logits"),
    ) -> dict[str, FloatArray]:
        """As `Client.infer`."""
        return await self._awaited(self._core.infer(images, model, outputs))

    async def _awaited(self, steps: Steps[T]) -> T:
        loop = asyncio.get_running_loop()
        if self._bell is None or self._bell.loop is not loop:
            self._bell = Doorbell(loop)
        return await awaited(steps, self._bell)

    def _source(self, images: AsyncImages) -> Source:
        if isinstance(images, AsyncIterable):
            return AsyncItemsInTurn(aiter(images), _spawn)
        return ItemsInTurn(iter(items_of(images, self.contract)))


class Doorbell:
    """Futures of other threads, awaited in one event loop: one ring for all that are done when it is heard.

    `asyncio.wrap_future` wakes the loop for every future. Answers come in groups, as a server batches them,
    and to be woken costs more than to read one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[asyncio.Future[None]] = deque()
        self._is_rung = False

    async def wait(self, future: Future[Any]) -> None:
        """Until it is done, whatever comes of it."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        future.add_done_callback(lambda _: self._ring(waiter))
        await waiter

    def _ring(self, waiter: asyncio.Future[None]) -> None:
        self._done.append(waiter)
        if not self._is_rung:  # else it is yet to be heard, and this one will be seen then
            self._is_rung = True
            with suppress(RuntimeError):  # the loop was closed: nobody waits
                self.loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._is_rung = False  # first: who comes from now on rings again
        while self._done:
            waiter = self._done.popleft()
            if not waiter.done():
                waiter.set_result(None)


async def awaited(steps: Steps[T], bell: Doorbell) -> T:
    """Run to the end in this event loop. Cancelling closes the generator, which cancels what it waits for."""
    try:
        while True:
            await bell.wait(next(steps))
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()


def _spawn(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    return asyncio.run_coroutine_threadsafe(coroutine, asyncio.get_running_loop())
