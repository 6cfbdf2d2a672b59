"""Two exports on one real server, a second version of one of them, and the return to its first version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_cli.main import run
from alexnet_clients import Client
from alexnet_export import runner_from_artifact
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Uint8Array
from alexnet_pipeline import ExportOptions, ExportResult, export_model
from alexnet_serving import EmbeddedServer, lint

from ..networks import SMALL, random_checkpoint

IMAGES: Uint8Array = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
QUICKLY = ("--concurrency", "1", "--seconds", "1", "--repeats", "1", "--burn-in", "0")
FLOWERS = tuple(f"flower {number}" for number in range(10))


def scaled(by: float, classes: Sequence[str]) -> Checkpoint:
    """Return the random network with another bias, so that its predictions differ, and other classes."""
    checkpoint = random_checkpoint(contract=SMALL)
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    last = list(weights)[-1]
    weights[last] += by * torch.arange(len(classes))
    return replace(checkpoint, weights=weights, class_names=tuple(classes))


def expected(result: ExportResult) -> list[tuple[str, float]]:
    """Return the best class of each image and its probability, computed in process."""
    assert result.folder is not None
    (artifact,) = result.manifest.artifacts
    with runner_from_artifact(artifact, result.folder) as runner:
        probabilities = runner.infer(IMAGES).probabilities  # (N, classes)
    return [(result.manifest.model.class_names[row.argmax()], float(row.max())) for row in probabilities]


def check_served(client: Client, model: str, result: ExportResult) -> None:
    """Check that a served model classifies all images as its export does in process."""
    predictions = client.classify(list(IMAGES), model=model, top=1)
    for prediction, (label, probability) in zip(predictions, expected(result), strict=True):
        assert prediction.best.label == label
        assert prediction.best.probability == pytest.approx(probability, abs=1e-5)


def test_two_names_a_second_version_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "models"

    def exported(checkpoint: Checkpoint, out: str, **options: object) -> ExportResult:
        defaults = ExportOptions(
            precisions=("fp32",), max_batch=4, out=tmp_path / out, repository=repository, encoded=False
        )
        return export_model(checkpoint, replace(defaults, **options))  # type: ignore[arg-type]

    digits = exported(random_checkpoint(contract=SMALL), "digits")
    one = exported(scaled(1.0, FLOWERS), "one", name="flowers", add=True)
    two = exported(scaled(-1.0, FLOWERS[::-1]), "two", name="flowers", model_version=2)
    assert lint(repository) == ()
    assert expected(one) != expected(two)

    with EmbeddedServer(repository) as server, Client(server.grpc_url) as client:
        assert server.models == ("alexnet_fp32", "flowers_fp32")
        check_served(client, "alexnet_fp32", digits)
        check_served(client, "flowers_fp32", two)
        bench = ["bench", "server", "--model", "flowers_fp32", "--url", server.grpc_url, *QUICKLY]
        assert run([*bench, "--repository", str(repository), "--name", "flowers"]) == 0

    assert run(["rollback", "flowers", "--repository", str(repository)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "flowers: version 2 -> version 1"
    assert lint(repository) == ()
    with EmbeddedServer(repository) as server, Client(server.grpc_url) as client:
        check_served(client, "alexnet_fp32", digits)
        check_served(client, "flowers_fp32", one)
