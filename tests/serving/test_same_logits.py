"""One image gives the same logits through training's evaluation, the client and the decoder on the server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alexnet_clients import Client, FakeTransport
from alexnet_model import Contract, splits_from
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Uint8Array
from alexnet_model.progress import silent
from alexnet_training.splits import SplitInMemory, prepared_from_splits

from ..awkward_images import AWKWARD
from .decoder_backend import images_of, imported_decoder, request_of, started

CONTRACTS = [
    Contract(),
    Contract(
        size=96,
        resize="stretch",
        interpolation="nearest",
        colour="BGR",
        background=(200, 30, 90),
        mean=(0.4, 0.5, 0.6),
        std=(0.3, 0.2, 0.25),
        input_name="pixels",
        logits_name="raw",
    ),
    Contract(size=64, resize="none", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
]
IMAGES = ("exif orientation 6", "cmyk jpeg", "colour with alpha", "16-bit grey png", "palette with alpha")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose splits all have the same images."""
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for number, name in enumerate(IMAGES):
            path = root / split / f"class_{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(AWKWARD[name]())
    return root


@pytest.mark.parametrize("contract", CONTRACTS, ids=["default", "unusual", "no resize"])
def test_an_image_has_the_same_logits_on_every_path(
    contract: Contract, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, kernel_size=7, stride=5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    classifier = Classifier(network, contract).eval()

    def logits(images: Uint8Array) -> torch.Tensor:
        with torch.inference_mode():
            return classifier(torch.from_numpy(images))[1]  # type: ignore[no-any-return]

    splits = splits_from(str(folder))
    evaluated = prepared_from_splits(splits, contract, progress=silent).validation
    assert isinstance(evaluated, SplitInMemory)
    expected = logits(evaluated.images)
    assert len({tuple(row) for row in expected.tolist()}) == len(IMAGES)

    paths = [image.source for image in splits.validation.images]
    transport = FakeTransport(contract=contract, max_batch=len(paths))
    with Client("grpc://host", transport=transport) as client:
        assert not any(prediction.error for prediction in client.classify(paths))
    (request,) = transport.requests
    torch.testing.assert_close(logits(request.inputs[contract.input_name]), expected, rtol=0, atol=0)

    model = started(imported_decoder(monkeypatch), contract)
    (response,) = model.execute([request_of(*(Path(str(path)).read_bytes() for path in paths))])
    assert response.output_tensors[0].name == contract.input_name
    torch.testing.assert_close(logits(images_of(response)), expected, rtol=0, atol=0)

    # The graph normalises by the contract, in the order of its channels.
    pixels = np.moveaxis(evaluated.images, 3, 1) / 255  # (N, 3, S, S)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (contract.mean, contract.std))
    with torch.inference_mode():
        plain = network(torch.from_numpy(((pixels - mean) / std).astype(np.float32)))
    torch.testing.assert_close(expected, plain, rtol=1e-4, atol=1e-4)
