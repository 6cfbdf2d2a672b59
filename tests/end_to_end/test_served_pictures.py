"""Real pictures to a real Triton server and back: the client's promises where nothing is fake."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_bench import MeasureOptions, Plan, measure
from alexnet_bench.measuring import runner_from_artifact
from alexnet_clients import Client, ServerUrl, transport_from_url
from alexnet_clients.transport import InferRequest
from alexnet_model.contract import Contract
from alexnet_model.errors import (
    BadRequest,
    BadResponse,
    ContractMismatch,
    DeadlineExceeded,
    ModelNotFound,
    PictureError,
    Unreachable,
)
from alexnet_model.pictures import prepared_from_set, splits_from
from alexnet_serving import EmbeddedServer


CONTRACT = Contract()
DIGITS = prepared_from_set(splits_from("digits").test.sample(40), CONTRACT)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_answers_as_its_runtime_does_in_process(
    exported: Any, client: Client, precision: str
) -> None:
    artifact = next(found for found in exported.manifest.accepted if found.precision == precision)
    served = client.infer(DIGITS.images, model=f"alexnet_{precision}")
    with runner_from_artifact(artifact, exported.folder) as runner:
        logits = np.concatenate([runner.infer(DIGITS.images[i : i + 16]).logits.copy() for i in range(0, 40, 16)])
    assert np.allclose(served["logits"], logits, atol=1e-3 * np.abs(logits).max())
    assert served["probabilities"].shape == (40, 10)
    assert client.model(f"alexnet_{precision}").precision == precision
    assert client.model(f"alexnet_{precision}").max_batch == 16
