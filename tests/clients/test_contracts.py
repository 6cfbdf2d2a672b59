"""Clients prepare images by the contract that the served model declares."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_clients import AsyncClient, Client, FakeTransport, ModelConfig, SharedImages
from alexnet_clients.ui.inference import classify_with_timing
from alexnet_model.contract import Contract
from alexnet_model.errors import ContractMismatch, ImageError, UsageError

from ..awkward_images import AWKWARD, encoded, textured

URL = "grpc://127.0.0.1:8001"
UNUSUAL = Contract(
    input_name="pixels",
    probabilities_name="scores",
    logits_name="raw",
    size=40,
    resize="stretch",
    interpolation="nearest",
    colour="BGR",
    mean=(0.5, 0.5, 0.5),
)
PHOTO = textured(90, 61)
FILE = encoded(PHOTO, "PNG")


@pytest.fixture
def unusual() -> Iterator[FakeTransport]:
    transport = FakeTransport(contract=UNUSUAL)
    yield transport
    transport.close()


@pytest.fixture
def their_client(unusual: FakeTransport) -> Iterator[Client]:
    with Client(URL, transport=unusual) as client:
        yield client


def test_files_are_prepared_by_the_contract_of_the_model(
    unusual: FakeTransport, their_client: Client
) -> None:
    assert their_client.contract is None
    assert their_client.model("alexnet_int8").contract == UNUSUAL
    predictions = their_client.classify([FILE, PHOTO, UNUSUAL.prepared(FILE)], model="alexnet_int8")
    assert [prediction.error for prediction in predictions] == [None] * 3
    rows = [row for request in unusual.requests for row in request.inputs["pixels"]]
    assert len(rows) == 3
    for row in rows:
        np.testing.assert_array_equal(row, UNUSUAL.prepared(PHOTO))


def test_the_async_client_too(unusual: FakeTransport) -> None:
    async def classify() -> dict[str, Any]:
        async with AsyncClient(URL, transport=unusual) as client:
            (prediction,) = await client.classify(FILE)
            assert prediction.error is None
            contract = (await client.model("alexnet_fp32")).contract
            images = contract.prepared(FILE)
            assert (await client.probabilities(images)).shape == (1, 10)
            return await client.infer(images)

    assert set(asyncio.run(classify())) == {"scores", "raw"}
    for request in unusual.requests:
        np.testing.assert_array_equal(request.inputs["pixels"][0], UNUSUAL.prepared(FILE))


def test_the_page_and_shared_memory_too(unusual: FakeTransport, their_client: Client) -> None:
    assert classify_with_timing(their_client, "alexnet_int8", FILE).classes
    np.testing.assert_array_equal(unusual.requests[-1].inputs["pixels"][0], UNUSUAL.prepared(FILE))
    with SharedImages(their_client, capacity=3, model="alexnet_int8") as shared:
        assert shared.images.shape == (3, 40, 40, 3)
        assert shared.region.size_bytes == 3 * 40 * 40 * 3
        shared.images[:2] = UNUSUAL.prepared(FILE)
        assert set(shared.infer(2)) == {"scores", "raw"}
        assert shared.probabilities(2).shape == (2, 10)
    assert unusual.requests[-1].model == "alexnet_int8"


def test_encoded_images_are_sent_as_they_are(unusual: FakeTransport, their_client: Client) -> None:
    (prediction,) = their_client.classify(FILE, model="alexnet")
    assert prediction.error is None
    assert unusual.requests[0].inputs["encoded"][0, 0] == FILE
    with (
        pytest.raises(UsageError, match="expected encoded images"),
        SharedImages(their_client, capacity=1, model="alexnet") as shared,
    ):
        shared.probabilities(1)


@pytest.mark.parametrize("name", ["exif orientation 6", "grey jpeg", "palette with alpha"])
def test_an_opened_image_is_sent_upright_to_a_model_that_decodes(
    name: str, unusual: FakeTransport, their_client: Client
) -> None:
    their_client.classify(Image.open(io.BytesIO(AWKWARD[name]())), model="alexnet")
    sent = unusual.requests[0].inputs["encoded"][0, 0]
    np.testing.assert_array_equal(UNUSUAL.prepared(sent), UNUSUAL.prepared(AWKWARD[name]()))


@pytest.mark.parametrize("model", ["alexnet", "alexnet_fp32"])
@pytest.mark.parametrize("size", [(480, 640), (20, 1000), (224, 224), (1, 1)])
def test_an_array_of_another_size_is_prepared_like_an_image(
    size: tuple[int, int], model: str, unusual: FakeTransport, their_client: Client
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    expected = [UNUSUAL.prepared(Image.fromarray(frame)) for frame in frames]
    mirrored = frames[:, :, ::-1]  # not contiguous
    for images in (frames, list(frames), iter(frames), np.ascontiguousarray(mirrored)[:, :, ::-1]):
        unusual.requests.clear()
        assert len(their_client.classify(images, model=model)) == 2
        sent = [row for request in unusual.requests for row in request.images]
        pixels = [UNUSUAL.prepared(row[0]) for row in sent] if model == "alexnet" else sent
        np.testing.assert_array_equal(pixels, expected)
    (one,) = their_client.classify(frames[0], model=model)
    assert one.image == "image 0"


def test_an_array_of_the_contracts_size_is_prepared_already(
    unusual: FakeTransport, their_client: Client
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *UNUSUAL.image_shape), np.uint8)
    for given in (images, list(images)):
        unusual.requests.clear()
        their_client.classify(given)
        np.testing.assert_array_equal(unusual.requests[0].images, images)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 224, 224, 3), np.uint8), [np.zeros((224, 224, 3), np.uint8)]]
)
def test_arrays_to_infer_are_checked_against_the_contract_of_the_model(
    images: Any, unusual: FakeTransport, their_client: Client
) -> None:
    with pytest.raises(ImageError, match=r"expected \(N, 40, 40, 3\) uint8"):
        their_client.infer(np.asarray(images))
    assert unusual.requests == []


class TwoContracts(FakeTransport):
    """One model has another contract than the others."""

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        self.contract = UNUSUAL if model == "alexnet_fp16" else Contract()
        self.parameters |= {"contract": self.contract.to_json(), "contract_digest": self.contract.digest}
        return super().model_config(model, timeout_s=timeout_s)


def test_models_of_one_server_may_have_different_contracts() -> None:
    transport = TwoContracts()
    with Client(URL, transport=transport) as client:
        for model in ("alexnet_fp16", "alexnet_int8", "alexnet_fp16"):
            client.classify(FILE, model=model)
    shapes = [array.shape for request in transport.requests for array in request.inputs.values()]
    assert shapes == [(1, 40, 40, 3), (1, 224, 224, 3), (1, 40, 40, 3)]


def test_a_pinned_contract_refuses_a_model_with_another_one(unusual: FakeTransport) -> None:
    with Client(URL, transport=unusual, contract=UNUSUAL) as client:
        assert client.classify(FILE)[0].error is None
    unusual = FakeTransport(contract=UNUSUAL)
    with Client(URL, transport=unusual, contract=Contract()) as client:
        with pytest.raises(ContractMismatch, match="size: 224 here, 40 there") as refused:
            client.classify(FILE)
        assert "Pin the contract that the model was exported with, or none." in str(refused.value)
    assert unusual.requests == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "got 1, expected 2. Install alexnet-serving 0.1, which wrote this contract"),
        ({"version": 3, "gamma": 2}, "got 3, expected 2. Install an alexnet-serving that is newer than 0.2."),
        ({"resize": "border"}, "got 'border', expected 1 to 4096 whole pixels"),
    ],
)
def test_a_contract_that_this_version_does_not_implement_is_refused(
    changes: dict[str, Any], message: str, fake: FakeTransport, client: Client
) -> None:
    fake.parameters["contract"] = json.dumps(json.loads(Contract().to_json()) | changes)
    with pytest.raises(ContractMismatch) as refused:
        client.classify(io.BytesIO(FILE))
    line = str(refused.value)
    assert line.startswith(f"{URL} alexnet_fp32: contract field {next(iter(changes))}: ")
    assert message in line
    assert "\n" not in line
    assert fake.requests == []


def test_a_contract_with_another_digest_is_refused(fake: FakeTransport, client: Client) -> None:
    fake.parameters["contract"] = Contract(mean=(0.1, 0.1, 0.1)).to_json()
    with pytest.raises(ContractMismatch, match="alexnet_fp32: parameter contract_digest: got "):
        client.classify(FILE)


def test_a_contract_that_changed_between_two_calls_is_refused(fake: FakeTransport, client: Client) -> None:
    """An array of the same shape could have been prepared with another mean, filter or colour order."""
    images = client.model("alexnet_fp32").contract.prepared(FILE)
    client.probabilities(images)
    other = Contract(colour="BGR")
    fake.parameters |= {"contract": other.to_json(), "contract_digest": other.digest}
    fake.connections += 1
    for _ in range(2):
        with pytest.raises(ContractMismatch, match=r"colour: RGB here, BGR there.*create a new client"):
            client.probabilities(images)
    assert len(fake.requests) == 1


NAMES = (
    "a:b:c",
    "0.5:1:",
    ":",
    "crane, bird",
    ' " quoted" ',
    "Köln 東京 🐈",
    "e\u0301 ne\u0301",
    "tab\tand nbsp\u00a0",
    "line\u2028separator\x85",
    "'; --",
)


@pytest.mark.parametrize("model", ["alexnet_fp32", "alexnet"])
def test_class_names_of_any_characters_are_returned_unchanged(model: str) -> None:
    with Client(URL, transport=FakeTransport(class_names=NAMES)) as client:
        (prediction,) = client.classify(FILE, model=model, top=len(NAMES))
        assert client.model(model).labels == NAMES
    assert {found.index: found.label for found in prediction.classes} == dict(enumerate(NAMES))


def test_classify_writes_such_names(tmp_path: Path) -> None:
    from alexnet_clients import LineFormat, ResultFile

    with Client(URL, transport=FakeTransport(class_names=NAMES)) as client:
        (prediction,) = client.classify(FILE, top=len(NAMES))
    for kind in ("json", "csv"):
        lines = LineFormat(kind, len(NAMES))
        with ResultFile(tmp_path / kind, lines, "alexnet_fp32") as file:
            file.write(prediction)
        assert ResultFile(tmp_path / kind, lines, "alexnet_fp32", resume=True).done == {prediction.image: 1}
    row = json.loads((tmp_path / "json").read_bytes().partition(b"\n")[0])
    assert {found["label"] for found in row["classes"]} == set(NAMES)
