"""Encoded images to a real server: decoded as a client would, to the bit, and refused in the same words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract
from alexnet_model.decoding import MAX_ENCODED_BYTES
from alexnet_model.errors import ImageError
from alexnet_serving import EmbeddedServer

from ..awkward_images import AWKWARD, BROKEN, encoded, textured

CONTRACT = Contract()


class Asking:
    """Triton's own clients, by either protocol."""

    def __init__(self, library: Any, url: str) -> None:
        self._library = library
        self.client = library.InferenceServerClient(url, **self._patience(library))

    def pixels(self, *images: bytes) -> npt.NDArray[np.uint8]:
        answer = self._asked("alexnet_decode", ENCODED_INPUT_NAME, _column(images), "BYTES")
        return np.asarray(answer.as_numpy("image"), np.uint8)

    def classes(self, *images: bytes, outputs: Any = None) -> Any:
        return self._asked("alexnet", ENCODED_INPUT_NAME, _column(images), "BYTES", outputs)

    def classes_of_prepared(self, images: npt.NDArray[np.uint8], model: str) -> Any:
        return self._asked(model, "image", images, "UINT8")

    def requested(self, name: str, **options: int) -> Any:
        return self._library.InferRequestedOutput(name, **options)

    def _asked(
        self, model: str, name: str, values: npt.NDArray[Any], datatype: str, outputs: Any = None
    ) -> Any:
        tensor = self._library.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values)
        return self.client.infer(model, [tensor], outputs=outputs)

    @staticmethod
    def _patience(library: Any) -> dict[str, Any]:
        patient = {"connection_timeout": 120.0, "network_timeout": 120.0, "concurrency": 16}
        return patient if library is tritonclient.http else {}


@pytest.fixture(scope="module", params=["grpc", "http"])
def asking(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[Asking]:
    library = {"grpc": tritonclient.grpc, "http": tritonclient.http}[request.param]
    url = server.grpc_url if request.param == "grpc" else server.http_url
    asking = Asking(library, url.partition("://")[2])
    yield asking
    asking.client.close()


@pytest.fixture
def over_grpc(server: EmbeddedServer) -> Iterator[Asking]:
    asking = Asking(tritonclient.grpc, server.grpc_url.partition("://")[2])
    yield asking
    asking.client.close()


@pytest.fixture(scope="module", params=AWKWARD)
def awkward(request: pytest.FixtureRequest) -> bytes:
    return AWKWARD[request.param]()


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    return [encoded(textured(200 + 13 * n, 300 - 7 * n), "JPEG") for n in range(16)]


def _column(images: Sequence[bytes]) -> npt.NDArray[np.object_]:
    column = np.empty((len(images), 1), np.object_)
    column[:, 0] = images
    return column


def refusal(asked: Any, *images: bytes) -> str:
    """The server's words, with the status of a request that is at fault itself."""
    with pytest.raises(InferenceServerException) as caught:
        asked(*images)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    return str(caught.value.message())


def in_process(image: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        CONTRACT.prepared(image)
    return f"ImageError: {caught.value}"


def test_pixels_are_the_clients_to_the_bit(awkward: bytes, asking: Asking) -> None:
    pixels = asking.pixels(awkward)
    assert pixels.shape == (1, 224, 224, 3)
    np.testing.assert_array_equal(pixels[0], CONTRACT.prepared(awkward))


def test_several_images_in_one_request(asking: Asking) -> None:
    images = [AWKWARD[name]() for name in AWKWARD if name != "12000x9000"][:16]
    expected = np.stack([CONTRACT.prepared(image) for image in images])
    assert len(np.unique(expected.reshape(16, -1), axis=0)) > 10, "images that look alike prove no order"
    np.testing.assert_array_equal(asking.pixels(*images), expected)
    np.testing.assert_array_equal(asking.pixels(*reversed(images)), expected[::-1])


@pytest.mark.parametrize("count", [1, 3, 16])
def test_the_ensemble_answers_as_the_network_inside(count: int, asking: Asking, jpegs: list[bytes]) -> None:
    images = np.stack([CONTRACT.prepared(image) for image in jpegs[:count]])
    answer = asking.classes(*jpegs[:count])
    inside = asking.classes_of_prepared(images, "alexnet_int8")
    for name in ("logits", "probabilities"):
        np.testing.assert_array_equal(answer.as_numpy(name), inside.as_numpy(name))
    other = asking.classes_of_prepared(images, "alexnet_fp32")
    assert (other.as_numpy("logits") != inside.as_numpy("logits")).any(), "this could tell them apart"


def test_the_ensemble_names_classes_and_answers_what_is_asked(asking: Asking, jpegs: list[bytes]) -> None:
    numbers = asking.classes(*jpegs[:2], outputs=[asking.requested("probabilities")])
    assert numbers.as_numpy("logits") is None
    probabilities = numbers.as_numpy("probabilities")
    top = asking.requested("probabilities", class_count=3)
    labelled = asking.classes(*jpegs[:2], outputs=[top]).as_numpy("probabilities")
    for row, values in zip(labelled, probabilities, strict=True):
        found = [entry.decode().split(":") for entry in row]
        assert [int(index) for _, index, _ in found] == np.argsort(-values)[:3].tolist()
        assert all(index == label for _, index, label in found)


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_image_is_refused_in_the_clients_words(words: str, asking: Asking) -> None:
    image = BROKEN[words]()
    expected = in_process(image)
    assert words in expected
    assert expected.startswith("ImageError: image: got ")
    assert refusal(asking.pixels, image) == expected
    assert refusal(asking.classes, image) == f"in ensemble 'alexnet', {expected}"


def test_a_broken_one_among_several_is_named_by_its_row(asking: Asking, jpegs: list[bytes]) -> None:
    images = [*jpegs[:3], b"", jpegs[3], b"no image"]
    expected = in_process(b"").replace("image:", "image 3:", 1)
    assert refusal(asking.pixels, *images) == expected
    assert refusal(asking.classes, *images) == f"in ensemble 'alexnet', {expected}"


def test_longer_than_the_limit(over_grpc: Asking, jpegs: list[bytes]) -> None:
    """HTTP's own limit is as large."""
    padded = jpegs[0] + bytes(MAX_ENCODED_BYTES - len(jpegs[0]))
    np.testing.assert_array_equal(over_grpc.pixels(padded)[0], CONTRACT.prepared(jpegs[0]))
    assert "ImageError: image: got more than 67,108,864 bytes" in refusal(over_grpc.pixels, padded + b"x")


def test_neighbours_of_broken_images_are_answered(
    server: EmbeddedServer, over_grpc: Asking, jpegs: list[bytes]
) -> None:
    """In one moment, and many of them in one execution of the decoder."""
    broken = [make() for make in BROKEN.values()]
    asked = [jpegs[turn % 16] if turn % 3 else broken[turn % len(broken)] for turn in range(90)]
    expected = {id(image): CONTRACT.prepared(image) for image in jpegs}

    def ask(image: bytes) -> bool:
        if id(image) in expected:
            return bool((over_grpc.pixels(image)[0] == expected[id(image)]).all())
        return refusal(over_grpc.pixels, image) == in_process(image)

    before = executions(over_grpc)
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, asked))
    assert executions(over_grpc) - before < len(asked), "no two shared an execution"
    server.check()  # the decoder's process is still there


def executions(asking: Asking) -> int:
    statistics = asking.client.get_inference_statistics("alexnet_decode")
    return int(statistics.model_stats[0].execution_count)


@pytest.mark.parametrize("model", ["pixels", "classes"])
def test_more_images_than_the_maximum(model: str, asking: Asking, jpegs: list[bytes]) -> None:
    assert "batch-size must be <= 16" in refusal(getattr(asking, model), *jpegs, jpegs[0])


def test_what_clients_are_told_of_it(over_grpc: Asking) -> None:
    config = over_grpc.client.get_model_config("alexnet").config
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters["contract_digest"] == CONTRACT.digest
    assert parameters["labels"] == '["0","1","2","3","4","5","6","7","8","9"]'
    assert (parameters["precision"], parameters["computes_in"]) == ("int8", "i8")
    (asked,) = config.input
    assert (asked.name, list(asked.dims)) == (ENCODED_INPUT_NAME, [1])
