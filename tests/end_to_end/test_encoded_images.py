"""Encoded images to a real server: the same pixels and the same error messages as in the client."""

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


class TritonClient:
    """Triton's own client for one protocol."""

    def __init__(self, library: Any, url: str) -> None:
        self._library = library
        self.client = library.InferenceServerClient(url, **self._timeouts(library))

    def pixels(self, *images: bytes) -> npt.NDArray[np.uint8]:
        answer = self._infer("alexnet_decode", ENCODED_INPUT_NAME, _column(images), "BYTES")
        return np.asarray(answer.as_numpy("image"), np.uint8)

    def classes(self, *images: bytes, outputs: Any = None) -> Any:
        return self._infer("alexnet", ENCODED_INPUT_NAME, _column(images), "BYTES", outputs)

    def classes_of_prepared(self, images: npt.NDArray[np.uint8], model: str) -> Any:
        return self._infer(model, "image", images, "UINT8")

    def requested(self, name: str, **options: int) -> Any:
        return self._library.InferRequestedOutput(name, **options)

    def _infer(
        self, model: str, name: str, values: npt.NDArray[Any], datatype: str, outputs: Any = None
    ) -> Any:
        tensor = self._library.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values)
        return self.client.infer(model, [tensor], outputs=outputs)

    @staticmethod
    def _timeouts(library: Any) -> dict[str, Any]:
        patient = {"connection_timeout": 120.0, "network_timeout": 120.0, "concurrency": 16}
        return patient if library is tritonclient.http else {}


@pytest.fixture(scope="module", params=["grpc", "http"])
def triton(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[TritonClient]:
    library = {"grpc": tritonclient.grpc, "http": tritonclient.http}[request.param]
    url = server.grpc_url if request.param == "grpc" else server.http_url
    triton = TritonClient(library, url.partition("://")[2])
    yield triton
    triton.client.close()


@pytest.fixture
def over_grpc(server: EmbeddedServer) -> Iterator[TritonClient]:
    triton = TritonClient(tritonclient.grpc, server.grpc_url.partition("://")[2])
    yield triton
    triton.client.close()


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


def refusal(infer: Any, *images: bytes) -> str:
    """The server's error message; its status must be that of an invalid request."""
    with pytest.raises(InferenceServerException) as caught:
        infer(*images)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    return str(caught.value.message())


def in_process(image: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        CONTRACT.prepared(image)
    return f"ImageError: {caught.value}"


def test_pixels_decoded_by_the_server_equal_the_clients(awkward: bytes, triton: TritonClient) -> None:
    pixels = triton.pixels(awkward)
    assert pixels.shape == (1, 224, 224, 3)
    np.testing.assert_array_equal(pixels[0], CONTRACT.prepared(awkward))


def test_several_images_in_one_request(triton: TritonClient) -> None:
    images = [AWKWARD[name]() for name in AWKWARD if name != "12000x9000"][:16]
    expected = np.stack([CONTRACT.prepared(image) for image in images])
    assert len(np.unique(expected.reshape(16, -1), axis=0)) > 10, "equal images would not show a wrong order"
    np.testing.assert_array_equal(triton.pixels(*images), expected)
    np.testing.assert_array_equal(triton.pixels(*reversed(images)), expected[::-1])


@pytest.mark.parametrize("count", [1, 3, 16])
def test_the_ensemble_equals_the_network_inside(count: int, triton: TritonClient, jpegs: list[bytes]) -> None:
    images = np.stack([CONTRACT.prepared(image) for image in jpegs[:count]])
    answer = triton.classes(*jpegs[:count])
    inside = triton.classes_of_prepared(images, "alexnet_int8")
    for name in ("logits", "probabilities"):
        np.testing.assert_array_equal(answer.as_numpy(name), inside.as_numpy(name))
    other = triton.classes_of_prepared(images, "alexnet_fp32")
    assert (other.as_numpy("logits") != inside.as_numpy("logits")).any(), "equal models would prove nothing"


def test_the_ensemble_returns_requested_outputs_and_classes(triton: TritonClient, jpegs: list[bytes]) -> None:
    numbers = triton.classes(*jpegs[:2], outputs=[triton.requested("probabilities")])
    assert numbers.as_numpy("logits") is None
    probabilities = numbers.as_numpy("probabilities")
    top = triton.requested("probabilities", class_count=3)
    labelled = triton.classes(*jpegs[:2], outputs=[top]).as_numpy("probabilities")
    for row, values in zip(labelled, probabilities, strict=True):
        found = [entry.decode().split(":") for entry in row]
        assert [int(index) for _, index, _ in found] == np.argsort(-values)[:3].tolist()
        assert all(index == label for _, index, label in found)


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_image_has_the_clients_error_message(words: str, triton: TritonClient) -> None:
    image = BROKEN[words]()
    expected = in_process(image)
    assert words in expected
    assert expected.startswith("ImageError: image: got ")
    assert refusal(triton.pixels, image) == expected
    assert refusal(triton.classes, image) == f"in ensemble 'alexnet', {expected}"


def test_a_broken_image_among_several_is_named_by_its_row(triton: TritonClient, jpegs: list[bytes]) -> None:
    images = [*jpegs[:3], b"", jpegs[3], b"no image"]
    expected = in_process(b"").replace("image:", "image 3:", 1)
    assert refusal(triton.pixels, *images) == expected
    assert refusal(triton.classes, *images) == f"in ensemble 'alexnet', {expected}"


def test_an_image_above_the_size_limit_is_refused(over_grpc: TritonClient, jpegs: list[bytes]) -> None:
    """Over gRPC only: the server limits an HTTP request to the same size."""
    padded = jpegs[0] + bytes(MAX_ENCODED_BYTES - len(jpegs[0]))
    np.testing.assert_array_equal(over_grpc.pixels(padded)[0], CONTRACT.prepared(jpegs[0]))
    assert "ImageError: image: got more than 67,108,864 bytes" in refusal(over_grpc.pixels, padded + b"x")


def test_requests_beside_broken_images_succeed(
    server: EmbeddedServer, over_grpc: TritonClient, jpegs: list[bytes]
) -> None:
    """They run at the same time, and many in one execution of the decoder."""
    broken = [make() for make in BROKEN.values()]
    images = [jpegs[turn % 16] if turn % 3 else broken[turn % len(broken)] for turn in range(90)]
    expected = {id(image): CONTRACT.prepared(image) for image in jpegs}

    def is_right(image: bytes) -> bool:
        if id(image) in expected:
            return bool((over_grpc.pixels(image)[0] == expected[id(image)]).all())
        return refusal(over_grpc.pixels, image) == in_process(image)

    before = executions(over_grpc)
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(is_right, images))
    assert executions(over_grpc) - before < len(images), "no two shared an execution"
    server.check()  # the decoder's process still runs


def executions(triton: TritonClient) -> int:
    statistics = triton.client.get_inference_statistics("alexnet_decode")
    return int(statistics.model_stats[0].execution_count)


@pytest.mark.parametrize("model", ["pixels", "classes"])
def test_a_batch_above_the_maximum_is_refused(model: str, triton: TritonClient, jpegs: list[bytes]) -> None:
    assert "batch-size must be <= 16" in refusal(getattr(triton, model), *jpegs, jpegs[0])


def test_the_configuration_has_contract_labels_and_precision(over_grpc: TritonClient) -> None:
    config = over_grpc.client.get_model_config("alexnet").config
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters["contract_digest"] == CONTRACT.digest
    assert parameters["labels"] == '["0","1","2","3","4","5","6","7","8","9"]'
    assert (parameters["precision"], parameters["computes_in"]) == ("int8", "i8")
    (tensor,) = config.input
    assert (tensor.name, list(tensor.dims)) == (ENCODED_INPUT_NAME, [1])
