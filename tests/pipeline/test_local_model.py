"""`alexnet predict`: a network in this process, from its checkpoint and from its export."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_cli.main import run
from alexnet_export import TorchRunner
from alexnet_model.checkpoint import save_checkpoint
from alexnet_pipeline import ExportResult

from ..networks import random_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        Image.effect_noise((300, 260), 60 * number + 20).convert("RGB").save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    save_checkpoint(random_checkpoint(), path)
    return path


def rows(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> list[dict[str, object]]:
    assert run(["predict", *map(str, words), "--json"]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_checkpoints_predictions_are_those_of_pytorch(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, folder: Path
) -> None:
    found = rows(capsys, folder, "--checkpoint", checkpoint, "--top", 3)
    network = random_checkpoint()
    images = sorted(folder.iterdir())
    with TorchRunner(network) as runner:
        expected = runner.infer(np.stack([network.contract.prepared(path) for path in images])).probabilities
    assert [row["image"] for row in found] == [str(path) for path in images]
    for row, probabilities in zip(found, expected, strict=True):
        classes = row["classes"]
        assert isinstance(classes, list)
        assert [each["index"] for each in classes] == np.argsort(-probabilities)[:3].tolist()
        assert [each["probability"] for each in classes] == pytest.approx(sorted(probabilities)[:-4:-1])


def test_an_export_is_loaded_without_the_import_of_pytorch(result: ExportResult) -> None:
    """It takes three seconds of processor time."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from alexnet_pipeline import model_from_export\n"
        "with model_from_export(Path(sys.argv[1])):\n"
        "    sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(result.folder)]).returncode == 0


def test_an_export_and_its_repository_predict_what_the_checkpoint_does(
    capsys: pytest.CaptureFixture[str], result: ExportResult, folder: Path
) -> None:
    of_export = rows(capsys, folder, "--export", result.folder, "--top", 1)
    of_repository = rows(capsys, folder, "--export", result.repository, "--precision", "fp32", "--top", 1)
    assert of_export == of_repository
    assert {row["model"] for row in of_export} == {"alexnet_fp32"}
    assert len(of_export) == 3
    assert run(["predict", str(folder), "--export", str(result.folder), "--precision", "int8"]) == 2
    assert "got an export whose gate accepted fp32" in capsys.readouterr().err


def test_other_images_are_predicted_beside_broken_ones(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes((folder / "0.png").read_bytes()[:200])
    images = [torn, folder / "1.png", tmp_path / "missing.png"]
    found = rows(capsys, *images, "--checkpoint", checkpoint, code=1)
    assert [row["error_type"] for row in found] == ["ImageError", None, "UnreadableImage"]


def test_standard_input_is_predicted_like_a_file(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stdin:
        buffer = io.BytesIO((folder / "2.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    (from_stdin,) = rows(capsys, "-", "--checkpoint", checkpoint)
    (from_file,) = rows(capsys, folder / "2.png", "--checkpoint", checkpoint)
    assert from_stdin["image"] == "-"
    assert from_stdin["classes"] == from_file["classes"]
