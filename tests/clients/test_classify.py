from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_clients import Client, FakeTransport, Images
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import ImageError, UsageError

from ..waiting import wait_until


def grey(level: int) -> Image.Image:
    """The fake server finds class 0 in black, class 9 in white."""
    return Image.new("RGB", (40, 30), (level, level, level))


def encoded(level: int) -> bytes:
    buffer = io.BytesIO()
    grey(level).save(buffer, "PNG")
    return buffer.getvalue()


def prepared(*levels: int) -> Uint8Array:
    return np.stack([np.full((224, 224, 3), level, dtype=np.uint8) for level in levels])


def labels(client: Client, images: Images) -> list[str]:
    return [prediction.best.label for prediction in client.classify(images)]


def test_classify_takes_one_image_in_every_form(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    path.write_bytes(encoded(255))
    assert labels(client, path) == ["9"]
    assert labels(client, str(path)) == ["9"]
    for content in (encoded(255), bytearray(encoded(255)), memoryview(encoded(255))):
        assert labels(client, content) == ["9"]
        assert labels(client, [content]) == ["9"]
        assert labels(client, iter([content])) == ["9"]
    assert client.classify(bytearray(b"x"))[0].image == "image 0"
    assert labels(client, io.BytesIO(encoded(255))) == ["9"]
    assert labels(client, grey(255)) == ["9"]
    assert labels(client, prepared(255)[0]) == ["9"]
    assert labels(client, prepared(0, 255)) == ["0", "9"]
    with path.open("rb") as file:
        assert labels(client, file) == ["9"]


def test_many_images_of_mixed_forms_from_an_iterator_keep_their_order(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "black.png"
    path.write_bytes(encoded(0))
    forms = [path, encoded(255), grey(0), prepared(255)[0], io.BytesIO(encoded(0))]
    predictions = client.classify(iter(forms))
    assert [prediction.best.label for prediction in predictions] == ["0", "9", "0", "9", "0"]
    assert [prediction.image for prediction in predictions] == [
        str(path),
        "image 1",
        "image 2",
        "image 3",
        "image 4",
    ]


def test_an_empty_list_gives_no_predictions(client: Client, fake: FakeTransport) -> None:
    assert client.classify([]) == []
    assert fake.requests == []


def test_pixels_are_prepared_by_the_contract(client: Client, fake: FakeTransport) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8))
    client.classify(noise)
    assert np.array_equal(fake.requests[0].images[0], Contract().prepared(noise))


def test_top_limits_the_classes_best_first(client: Client) -> None:
    (prediction,) = client.classify(grey(255), top=3)
    assert [found.index for found in prediction.classes] == [9, 8, 7]
    assert prediction.classes[0].probability > prediction.classes[1].probability
    (prediction,) = client.classify(grey(255), top=1000)
    assert len(prediction.classes) == 10
    with pytest.raises(UsageError, match="top: got 0"):
        client.classify(grey(255), top=0)


def test_other_images_are_classified_beside_broken_ones(client: Client, tmp_path: Path) -> None:
    missing = tmp_path / "missing.jpg"
    predictions = client.classify([grey(0), b"not an image", grey(255), missing, b""])
    assert [bool(prediction.error) for prediction in predictions] == [False, True, False, True, True]
    assert [prediction.best.label for prediction in predictions if not prediction.error] == ["0", "9"]
    assert predictions[3].image == str(missing)
    assert isinstance(predictions[1].error, ImageError)
    with pytest.raises(ImageError, match="not an image"):
        _ = predictions[1].best


def test_only_broken_images_send_no_request(client: Client, fake: FakeTransport) -> None:
    predictions = client.classify([b"", b"x"])
    assert all(isinstance(prediction.error, ImageError) for prediction in predictions)
    assert fake.requests == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((224, 224, 3), np.float32), "as uint8"),
        (np.zeros((3, 224, 224), np.uint8), "channels last"),
        (np.zeros((2, 3, 224, 224), np.uint8), "channels last"),
        (np.zeros((100, 100, 4), np.uint8), "the model's contract"),
        (np.zeros((100, 0, 3), np.uint8), "the model's contract"),
        (np.zeros((0, 224, 224, 3), np.uint8), "the model's contract"),
        ([np.zeros((2, 224, 224, 3), np.uint8)], r"images\[0\]"),
        ([np.zeros((224, 224), np.uint8)], r"images\[0\]"),
        ([7], r"images\[0\]: got int"),
        (7, "images: got int"),
        (None, "images: got NoneType"),
    ],
)
def test_wrong_arguments_raise_image_errors(
    client: Client, fake: FakeTransport, images: Images, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        client.classify(images)
    assert fake.requests == []


def test_batches_fill_up_to_the_models_maximum(fake: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_clients.images.LINGER_S", 60)  # on a busy machine, decoding takes longer
    fake.max_batch = 4
    with Client("grpc://host", transport=fake) as client:
        forms: list[bytes | Image.Image] = [grey(255)] * 10
        forms.insert(2, b"broken")
        predictions = client.classify(forms)
    assert [len(request.images) for request in fake.requests] == [4, 4, 2]
    assert [index for index, prediction in enumerate(predictions) if prediction.error] == [2]


def test_few_requests_are_open_and_few_images_are_taken_ahead(fake: FakeTransport) -> None:
    fake.max_batch = 2
    fake.hold()
    taken = 0

    def images() -> Iterator[Image.Image]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield grey(255)

    with Client("grpc://host", transport=fake) as client:
        thread = threading.Thread(target=lambda: client.classify(images()))
        thread.start()
        wait_until(lambda: fake.in_flight == 2, "two requests are open")
        time.sleep(0.05)  # room to go wrong in
        taken_while_waiting = taken
        fake.release()
        thread.join()
    assert taken_while_waiting < 30
    assert fake.peak_in_flight == 2
    assert taken == 100


def test_raw_outputs_of_more_images_than_a_batch_holds(fake: FakeTransport) -> None:
    fake.max_batch = 4
    levels = [0, 255] * 5
    with Client("grpc://host", transport=fake) as client:
        probabilities = client.probabilities(prepared(*levels), model="alexnet_int8")
        outputs = client.infer(prepared(*levels), model="alexnet_int8")
        alone = client.probabilities(prepared(0)[0], model="alexnet_int8")
    assert probabilities.shape == (10, 10)
    assert probabilities.dtype == np.float32
    assert probabilities.argmax(axis=1).tolist() == [0, 9] * 5
    assert set(outputs) == {"probabilities", "logits"}
    assert np.array_equal(outputs["probabilities"], probabilities)
    assert np.array_equal(alone, probabilities[:1])
    assert {request.model for request in fake.requests} == {"alexnet_int8"}
