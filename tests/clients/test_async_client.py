from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_clients import AsyncClient, Client, FakeTransport, Prediction
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import BadResponse, ImageError, NotReady

URL = "grpc://127.0.0.1:8001"


def images(count: int, level: int = 0) -> Uint8Array:
    return np.full((count, 224, 224, 3), level, np.uint8)


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (300, 300), (level, level, level))


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def test_both_clients_have_the_same_methods_and_options() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if callable(member) and not name.startswith("_")
        }

    assert methods(AsyncClient) == methods(Client)
    assert AsyncClient.__init__ is Client.__init__


def test_async_client_returns_what_the_blocking_client_returns(fake: FakeTransport) -> None:
    items = [grey(0), b"no image", grey(255), images(1, 128)[0]]

    async def run() -> tuple[list[Prediction], Any, Any]:
        async with AsyncClient(URL, transport=fake) as client:
            served = await client.model("alexnet_int8")
            return await client.classify(items), await client.probabilities(images(40)), served

    predictions, probabilities, served = asyncio.run(run())
    with Client(URL, transport=FakeTransport()) as client:
        expected = client.classify(items)
        assert np.array_equal(probabilities, client.probabilities(images(40)))
        assert served == client.model("alexnet_int8")
    assert [isinstance(prediction.error, ImageError) for prediction in predictions] == [0, 1, 0, 0]
    assert [prediction.classes for prediction in predictions] == [
        prediction.classes for prediction in expected
    ]
    assert [prediction.image for prediction in predictions] == [prediction.image for prediction in expected]
    assert fake.closed


def test_classify_each_reads_an_asynchronous_iterator_lazily(fake: FakeTransport) -> None:
    taken = 0

    async def images() -> AsyncIterator[Image.Image]:
        nonlocal taken
        for level in (0, 255) * 50:
            await asyncio.sleep(0)
            taken += 1
            yield grey(level)

    async def run() -> list[str]:
        fake.max_batch = 4
        async with AsyncClient(URL, transport=fake) as client:
            labels: list[str] = []
            async for prediction in client.classify_each(images()):
                assert taken < len(labels) + 40
                labels.append(prediction.best.label)
            return labels

    assert asyncio.run(run()) == ["0", "9"] * 50


def test_an_error_of_an_asynchronous_iterator_is_raised_unchanged(fake: FakeTransport) -> None:
    async def images() -> AsyncIterator[Image.Image]:
        yield grey(0)
        raise KeyError("the caller's own")

    async def run() -> None:
        async with AsyncClient(URL, transport=fake) as client:
            await client.classify(images())

    with pytest.raises(KeyError, match="own"):
        asyncio.run(run())
    assert fake.in_flight == 0


def test_cancelling_a_task_cancels_its_requests(fake: FakeTransport) -> None:
    async def run() -> None:
        async with AsyncClient(URL, transport=fake) as client:
            await client.model("alexnet_fp32")
            fake.hold()
            for verb in (client.classify(images(100)), client.probabilities(images(100))):
                task = asyncio.ensure_future(verb)
                await until(lambda: fake.in_flight == 2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert fake.in_flight == 0
            fake.release()
            assert len(await client.classify(images(3))) == 3  # and the client is as good as before

    asyncio.run(run())


def test_leaving_a_loop_early_cancels_open_requests(fake: FakeTransport) -> None:
    async def run() -> None:
        fake.max_batch = 1
        async with AsyncClient(URL, transport=fake) as client:
            each = client.classify_each(images(50))
            async for _ in each:
                fake.hold()
                break
            await each.aclose()
            assert fake.in_flight == 0
            assert len(fake.requests) <= 3

    asyncio.run(run())


@pytest.mark.slow
def test_ten_thousand_calls_at_once_have_64_open_requests(fake: FakeTransport) -> None:
    image = images(1, 255)

    async def run() -> list[Any]:
        fake.delay_s = 0.0001
        async with AsyncClient(URL, transport=fake) as client:
            return await asyncio.gather(*(client.probabilities(image) for _ in range(10_000)))

    answers = asyncio.run(run())
    assert len(answers) == 10_000
    assert all(answer.argmax() == 9 for answer in answers)
    assert fake.peak_in_flight == 64


def test_cancelled_calls_return_their_permits(fake: FakeTransport) -> None:
    async def run() -> None:
        async with AsyncClient(URL, transport=fake, max_in_flight=1) as client:
            await client.model("alexnet_fp32")
            fake.hold()
            tasks = [asyncio.ensure_future(client.probabilities(images(1))) for _ in range(4)]
            await until(lambda: fake.in_flight == 1)
            tasks[0].cancel()  # has the turn
            tasks[2].cancel()  # waits for one
            await asyncio.sleep(0.01)
            fake.release()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            asyncio.CancelledError,
            np.ndarray,
            asyncio.CancelledError,
            np.ndarray,
        ]

    asyncio.run(run())


def test_async_client_raises_the_same_errors(fake: FakeTransport) -> None:
    async def run() -> None:
        async with AsyncClient(URL, transport=fake) as client:
            fake.predict = lambda request: np.full((len(request.images), 10), np.nan, np.float32)
            with pytest.raises(BadResponse, match="NaN"):
                await client.probabilities(images(1))
            with pytest.raises(ImageError):
                await client.classify(np.zeros((3, 224, 224), np.uint8))

    asyncio.run(run())


def test_entering_fails_and_closes_if_the_server_is_not_ready(fake: FakeTransport) -> None:
    fake.is_ready = False

    async def run() -> None:
        async with AsyncClient(URL, transport=fake):
            pytest.fail("entered")

    with pytest.raises(NotReady):
        asyncio.run(run())
    assert fake.closed
