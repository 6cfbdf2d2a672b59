"""Real images, the real clients and a real Triton server."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_clients import Client, Images
from alexnet_export import runner_from_artifact
from alexnet_model import prepared_from_set, splits_from
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import (
    ContractMismatch,
    ImageError,
    Unreachable,
)
from alexnet_serving import EmbeddedServer

CONTRACT = Contract()


@pytest.fixture(scope="module")
def digits() -> Uint8Array:
    return prepared_from_set(splits_from("digits").test.sample(40), CONTRACT).images


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_equals_its_runtime_in_process(
    exported: Any, client: Client, digits: Uint8Array, precision: str
) -> None:
    artifact = next(found for found in exported.manifest.accepted if found.precision == precision)
    served = client.infer(digits, model=f"alexnet_{precision}")
    with runner_from_artifact(artifact, exported.folder) as runner:
        parts = [runner.infer(digits[start : start + 16]).logits.copy() for start in range(0, 40, 16)]
    logits = np.concatenate(parts)  # (40, 10)
    assert np.allclose(served["logits"], logits, atol=1e-4 * np.abs(logits).max())
    assert served["probabilities"].shape == (40, 10)
    assert client.model(f"alexnet_{precision}").precision == precision
    assert client.model(f"alexnet_{precision}").backend == "openvino_dynamic"


def test_every_input_type_of_an_image_gets_the_same_classes(client: Client, tmp_path: Path) -> None:
    image = noise(1)
    path = tmp_path / "noise.png"
    path.write_bytes(png(image))
    forms: list[Images] = [path, str(path), png(image), io.BytesIO(png(image)), image]
    forms += [CONTRACT.prepared(image), CONTRACT.prepared(image)[None]]
    answers = [client.classify(form, top=10) for form in forms]
    assert [len(predictions) for predictions in answers] == [1] * 7
    assert len({predictions[0].classes for predictions in answers}) == 1


def test_classes_are_the_highest_probabilities_with_labels(client: Client, digits: Uint8Array) -> None:
    predictions = client.classify(digits, model="alexnet_int8", top=3)
    probabilities = client.probabilities(digits, model="alexnet_int8")
    assert [prediction.best.index for prediction in predictions] == probabilities.argmax(axis=1).tolist()
    for prediction, row in zip(predictions, probabilities, strict=True):
        assert len(prediction.classes) == 3
        for found in prediction.classes:
            assert found.label == str(found.index)
            assert found.probability == pytest.approx(row[found.index], abs=1e-5)


def test_a_top_above_the_number_of_classes_returns_all(client: Client) -> None:
    (prediction,) = client.classify(noise(1), top=1000)
    assert sorted(found.index for found in prediction.classes) == list(range(10))
    assert sum(found.probability for found in prediction.classes) == pytest.approx(1, abs=1e-4)


def test_other_images_are_classified_beside_a_broken_one(client: Client, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(files):
        path.write_bytes(png(noise(number)))
    whole = client.classify(files)
    files[2].write_bytes(files[2].read_bytes()[:300])
    predictions = client.classify(files)
    assert [prediction.image for prediction in predictions] == [str(path) for path in files]
    assert isinstance(predictions[2].error, ImageError)
    assert [prediction.error is None for prediction in predictions] == [True, True, False, True, True]
    for index in (0, 1, 3, 4):
        assert predictions[index].classes[0].label == whole[index].classes[0].label


def test_request_bytes_and_latency_are_reported(client: Client, digits: Uint8Array) -> None:
    for prediction in (*client.classify(digits[0]), *client.classify(digits)):
        assert prediction.request_bytes is not None
        assert 150_528 < prediction.request_bytes < 150_528 + 1024
        assert prediction.latency_ms is not None
        assert prediction.latency_ms > 0


def test_another_contract_is_refused_and_its_differences_named(server: EmbeddedServer) -> None:
    other = Contract(resize=232, background=(0, 0, 0))
    with (
        Client(server.grpc_url, contract=other) as client,
        pytest.raises(ContractMismatch, match=r"resize: 232 here, 256 there; background: \(0, 0, 0\) here"),
    ):
        client.classify(noise(1))


def test_the_http_port_is_not_the_grpc_port(server: EmbeddedServer) -> None:
    url = server.http_url.replace("http://", "grpc://")
    with pytest.raises(Unreachable), Client(url, timeout_s=10):
        pytest.fail("entered")


def test_many_clients_and_threads_share_a_server(server: EmbeddedServer, digits: Uint8Array) -> None:
    with Client(server.grpc_url) as client, Client(server.grpc_url) as other:
        expected = client.probabilities(digits, model="alexnet_fp32")
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit((client, other)[turn % 2].probabilities, digits) for turn in range(8)]
            for future in futures:
                assert np.allclose(future.result(), expected, atol=1e-5)
