"""Two exports in one repository and on one real server, a second version of one, and the return to the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_cli.main import run
from alexnet_clients import Client, Prediction
from alexnet_export import runner_from_artifact
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Uint8Array
from alexnet_pipeline import ExportOptions, ExportResult, export_model
from alexnet_serving import EmbeddedServer, lint

from ..networks import random_checkpoint

IMAGES: Uint8Array = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
QUICKLY = ("--concurrency", "1", "--seconds", "0.2", "--repeats", "1", "--burn-in", "0")
FLOWERS = tuple(f"flower {number}" for number in range(10))


def scaled(by: float, classes: Sequence[str]) -> Checkpoint:
    """Return the random network with another bias, so that its predictions differ, and other classes."""
    checkpoint = random_checkpoint()
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    last = list(weights)[-1]
    weights[last] += by * torch.arange(len(classes))
    return replace(checkpoint, weights=weights, class_names=tuple(classes))


def expected(result: ExportResult) -> list[tuple[str, float]]:
    """The best class of each image and its probability, computed in process."""
    assert result.folder is not None
    (artifact,) = result.manifest.artifacts
    with runner_from_artifact(artifact, result.folder) as runner:
        probabilities = runner.infer(IMAGES).probabilities  # (N, classes)
    names = result.manifest.model.class_names
    return [(names[row.argmax()], pytest.approx(float(row.max()), abs=1e-5)) for row in probabilities]


def found(predictions: Sequence[Prediction]) -> list[tuple[str, float]]:
    return [(prediction.best.label, prediction.best.probability) for prediction in predictions]


def test_two_names_a_second_version_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "models"

    def exported(checkpoint: Checkpoint, out: str, **options: object) -> ExportResult:
        defaults = ExportOptions(
            precisions=("fp32",), max_batch=4, out=tmp_path / out, repository=repository, encoded=False
        )
        return export_model(checkpoint, replace(defaults, **options))  # type: ignore[arg-type]

    digits = exported(random_checkpoint(), "digits")
    one = exported(scaled(1.0, FLOWERS), "one", name="flowers", add=True)
    two = exported(scaled(-1.0, FLOWERS[::-1]), "two", name="flowers", model_version=2)
    assert lint(repository) == ()
    assert expected(one) != expected(two)

    with EmbeddedServer(repository) as server, Client(server.grpc_url) as client:
        assert server.models == ("alexnet_fp32", "flowers_fp32")
        assert found(client.classify(list(IMAGES), model="alexnet_fp32", top=1)) == expected(digits)
        assert found(client.classify(list(IMAGES), model="flowers_fp32", top=1)) == expected(two)
        bench = ["bench", "server", "--model", "flowers_fp32", "--url", server.grpc_url, *QUICKLY]
        assert run([*bench, "--repository", str(repository), "--name", "flowers"]) == 0

    assert run(["rollback", "flowers", "--repository", str(repository)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "flowers: version 2 -> version 1"
    assert lint(repository) == ()
    with EmbeddedServer(repository) as server, Client(server.grpc_url) as client:
        assert found(client.classify(list(IMAGES), model="alexnet_fp32", top=1)) == expected(digits)
        assert found(client.classify(list(IMAGES), model="flowers_fp32", top=1)) == expected(one)
