"""Callers that reuse their images while they are classified, and that close things early."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from alexnet_clients import AsyncClient, Backoff, Client, FakeTransport
from alexnet_model.contract import Contract, ImageInput, Uint8Array
from alexnet_model.errors import BadResponse, ClientError, ImageError, NotReady, Unreachable

URL = "grpc://127.0.0.1:8001"
LEVELS = [round(255 * digit / 9) for digit in range(10)]  # the fake transport classifies each as its digit
DIGITS = [str(digit) for digit in range(10)]


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (300, 300), (level, level, level))


def encoded(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def labels(client: Client, images: object) -> list[str]:
    return [prediction.best.label for prediction in client.classify(images)]  # type: ignore[arg-type]


def test_an_array_may_be_reused_by_the_iterator(client: Client) -> None:
    frame = np.empty((224, 224, 3), np.uint8)

    def camera() -> Iterator[Uint8Array]:
        for level in LEVELS:
            frame[:] = level
            yield frame

    assert labels(client, camera()) == DIGITS


def test_frames_of_a_gif_are_classified_one_by_one(client: Client) -> None:
    content = io.BytesIO()
    first, *others = [grey(level) for level in LEVELS]
    first.save(content, "GIF", save_all=True, append_images=others)
    with Image.open(io.BytesIO(content.getvalue())) as gif:
        assert labels(client, ImageSequence.Iterator(gif)) == DIGITS


def test_one_opened_image_may_be_repeated(client: Client) -> None:
    with Image.open(io.BytesIO(encoded(grey(255)))) as image:
        assert labels(client, [image] * 40) == ["9"] * 40


def test_files_may_be_closed_by_the_iterator(client: Client, tmp_path: Path) -> None:
    for digit, level in enumerate(LEVELS):
        (tmp_path / f"{digit}.png").write_bytes(encoded(grey(level)))

    def opened() -> Iterator[object]:
        for path in sorted(tmp_path.iterdir()):
            with path.open("rb") as file:
                yield file

    assert labels(client, opened()) == DIGITS


def test_an_exception_of_a_file_is_its_images_error(client: Client) -> None:
    class Fails:
        name = "mine"

        def read(self, size: int) -> bytes:
            raise RuntimeError("lens cap on")

    first, second, third = client.classify([grey(0), Fails(), grey(255)])
    assert (first.best.label, third.best.label) == ("0", "9")
    assert "lens cap on" in str(second.error)


def test_none_among_the_images_is_an_error_and_not_the_end(client: Client) -> None:
    with pytest.raises(ImageError, match=r"images\[2\]: got NoneType"):
        client.classify([grey(0), grey(0), None, grey(0)])  # type: ignore[list-item]


def test_a_slow_source_is_sent_before_the_batch_is_full(client: Client) -> None:
    taken = 0

    def camera() -> Iterator[Image.Image]:
        nonlocal taken
        while taken < 1000:
            time.sleep(0.1)  # longer than images are collected for
            taken += 1
            yield grey(255)

    each = client.classify_each(camera())
    assert next(each).best.label == "9"
    assert taken < 32, "fewer than a batch"
    each.close()


def test_few_images_are_decoded_at_the_same_time(
    fake: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_clients.client.THREADS", 2)
    both, prepared = threading.Barrier(2, timeout=30), Contract.prepared

    def in_two_threads(contract: Contract, image: ImageInput) -> Uint8Array:
        both.wait()
        return prepared(contract, image)

    monkeypatch.setattr(Contract, "prepared", in_two_threads)
    with Client(URL, transport=fake) as client:
        predictions = client.classify([encoded(grey(0)), encoded(grey(255))])
    assert [prediction.error for prediction in predictions] == [None, None]


def test_max_in_flight_limits_all_calls_together(
    fake: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_clients.images.LINGER_S", 60)  # a busy machine sends no incomplete batches
    fake.delay_s = 0.001
    images = np.zeros((32, 224, 224, 3), np.uint8)
    fake.max_batch = 4

    async def run() -> None:
        async with AsyncClient(URL, transport=fake, max_in_flight=3) as client:
            streams = [client.classify(images) for _ in range(8)]
            calls = [client.probabilities(images) for _ in range(8)]
            await asyncio.gather(*streams, *calls)

    asyncio.run(run())
    assert fake.peak_in_flight == 3
    assert len(fake.requests) == 16 * 8


def test_many_first_calls_read_the_configuration_once(fake: FakeTransport) -> None:
    readies = 0
    plain = fake.ready

    def ready(*, timeout_s: float) -> object:
        nonlocal readies
        readies += 1
        return plain(timeout_s=timeout_s)

    fake.ready = ready  # type: ignore[assignment,method-assign]

    async def run() -> None:
        async with AsyncClient(URL, transport=fake) as client:
            image = np.zeros((1, 224, 224, 3), np.uint8)
            config = fake.model_config
            held: list[Callable[[], None]] = []

            def slowly(model: str, *, timeout_s: float) -> object:
                from concurrent.futures import Future

                outcome: Future[object] = Future()
                held.append(lambda: outcome.set_result(config(model, timeout_s=timeout_s).result()))
                return outcome

            fake.model_config = slowly  # type: ignore[assignment,method-assign]
            tasks = [asyncio.ensure_future(client.probabilities(image)) for _ in range(100)]
            while not held:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            tasks[0].cancel()  # the call that sent the request: the others still get its reply
            assert len(held) == 1
            held[0]()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(answer, np.ndarray) for answer in answers) == 99

    asyncio.run(run())
    assert readies <= 2


@pytest.mark.parametrize("kind", [NotReady, Unreachable])
def test_closing_ends_waiting_retries(kind: type[ClientError], fake: FakeTransport) -> None:
    client = Client(URL, transport=fake, backoff=Backoff(first_s=5, longest_s=5), timeout_s=60)
    client.model("alexnet_fp32")
    fake.failures.extend(kind("server", got="still") for _ in range(100))
    errors: list[object] = []
    thread = threading.Thread(
        target=lambda: errors.append(client.classify(np.zeros((1, 224, 224, 3), np.uint8))[0].error)
    )
    thread.start()
    while not client._retrier.waiting:
        time.sleep(0.001)
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(errors[0], kind)


def test_closing_ends_open_requests(fake: FakeTransport) -> None:
    client = Client(URL, transport=fake, timeout_s=60)
    client.model("alexnet_fp32")
    fake.hold()
    errors: list[object] = []
    thread = threading.Thread(
        target=lambda: errors.append(client.classify(np.zeros((1, 224, 224, 3), np.uint8))[0].error)
    )
    thread.start()
    while not fake.in_flight:
        time.sleep(0.001)
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(errors[0], ClientError)


def test_a_closed_client_cannot_be_used(fake: FakeTransport) -> None:
    client = Client(URL, transport=fake)
    client.connect()
    client.close()
    for ask in (client.connect, lambda: client.classify([grey(0)]), lambda: client.model("alexnet_fp32")):
        with pytest.raises(ClientError, match="closed"):
            ask()


def test_closing_in_the_middle_of_a_stream_raises_an_error(fake: FakeTransport) -> None:
    fake.max_batch = 2
    client = Client(URL, transport=fake)
    outcomes: list[object] = []

    def images() -> Iterator[bytes]:
        content = encoded(grey(9))
        for number in itertools.count():
            if number == 50:
                client.close()
            yield content

    with pytest.raises(ClientError, match="clos"):
        outcomes.extend(client.classify_each(images()))
    assert len(outcomes) < 100


def test_an_asynchronous_client_in_one_event_loop_after_another(fake: FakeTransport) -> None:
    client = AsyncClient(URL, transport=fake)
    image = np.zeros((1, 224, 224, 3), np.uint8)
    fake.delay_s = 0.001
    for _ in range(2):
        assert asyncio.run(client.probabilities(image)).shape == (1, 10)
    client._close()


def test_a_configuration_of_another_model_is_refused(fake: FakeTransport, client: Client) -> None:
    config = fake.model_config
    fake.model_config = lambda model, *, timeout_s: config("alexnet_fp32", timeout_s=timeout_s)  # type: ignore[method-assign]
    with pytest.raises(BadResponse, match="alexnet_fp32"):
        client.model("alexnet_int8")


def test_outputs_may_be_a_list(client: Client) -> None:
    image = np.zeros((1, 224, 224, 3), np.uint8)
    assert set(client.infer(image, outputs=["logits"])) == {"logits"}  # type: ignore[arg-type]


def test_a_forked_child_cannot_use_the_client(fake: FakeTransport) -> None:
    fake.delay_s = 0.001
    client = Client(URL, transport=fake, timeout_s=5)
    image = np.zeros((1, 224, 224, 3), np.uint8)
    client.probabilities(image)
    child = os.fork()
    if child == 0:
        try:
            client.probabilities(image)
            os._exit(1)
        except Exception:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    client.close()
