"""A real server for a model with an unusual contract and with class names of any characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from alexnet_clients import Client
from alexnet_export import OnnxOptions, export_onnx
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Contract
from alexnet_serving import EmbeddedServer, lint, write_repository

from ..awkward_images import AWKWARD
from ..networks import random_checkpoint
from .conftest import NO_TOLERANCES

# A size at which the features of AlexNet have the shape that its first linear layer takes.
CONTRACT = Contract(
    size=240,
    resize="stretch",
    interpolation="nearest",
    colour="BGR",
    background=(200, 30, 90),
    mean=(0.4, 0.5, 0.6),
    std=(0.3, 0.2, 0.25),
    input_name="pixels",
    probabilities_name="scores",
    logits_name="raw",
)
NAMES = (
    *("a:b:c", "0.5:1:", ":", "crane, bird", ' "quoted" ', "Köln 東京 🐈", "e\u0301", "tab\tand nbsp\u00a0"),
    *("'; --", "::::"),
)
FILES = [AWKWARD[name]() for name in ("exif orientation 6", "cmyk jpeg", "colour with alpha", "1x1")]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return replace(random_checkpoint(), contract=CONTRACT, class_names=NAMES)


@pytest.fixture(scope="module")
def unusual(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("unusual")
    options = OnnxOptions(precisions=("fp32",), max_batch=4, tolerances=NO_TOLERANCES)
    manifest = export_onnx(checkpoint, folder / "export", options)
    write_repository(manifest, folder / "export", folder / "models")
    assert lint(folder / "models") == ()
    with EmbeddedServer(folder / "models") as server:
        yield server


@pytest.mark.parametrize("protocol", ["grpc_url", "http_url"])
def test_clients_prepare_by_the_served_contract(
    unusual: EmbeddedServer, checkpoint: Checkpoint, protocol: str
) -> None:
    images = np.stack([CONTRACT.prepared(file) for file in FILES])
    with torch.inference_mode():
        classifier = Classifier(checkpoint.network(), CONTRACT).eval()
        probabilities, logits = (output.numpy() for output in classifier(torch.from_numpy(images)))
    with Client(getattr(unusual, protocol)) as client:
        assert client.model("alexnet_fp32").contract == client.model("alexnet").contract == CONTRACT
        outputs = client.infer(images)
        scale = np.abs(logits).max()
        np.testing.assert_allclose(outputs["raw"], logits, atol=1e-3 * scale)
        np.testing.assert_allclose(outputs["scores"], probabilities, atol=1e-3)
        for model in ("alexnet_fp32", "alexnet"):  # prepared by the client, and by the server
            predictions = client.classify(FILES, model=model, top=len(NAMES))
            assert [prediction.error for prediction in predictions] == [None] * len(FILES)
            for prediction, expected in zip(predictions, probabilities, strict=True):
                found = {one.index: one.probability for one in prediction.classes}
                assert len(found) == len(NAMES)
                np.testing.assert_allclose([found[index] for index in range(len(NAMES))], expected, atol=1e-3)


@pytest.mark.parametrize("protocol", ["grpc_url", "http_url"])
@pytest.mark.parametrize("model", ["alexnet_fp32", "alexnet"])
def test_class_names_of_any_characters_are_returned_unchanged(
    unusual: EmbeddedServer, protocol: str, model: str
) -> None:
    with Client(getattr(unusual, protocol)) as client:
        (prediction,) = client.classify(FILES[0], model=model, top=len(NAMES))
    assert {found.index: found.label for found in prediction.classes} == dict(enumerate(NAMES))
