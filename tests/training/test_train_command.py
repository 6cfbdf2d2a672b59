from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_cli.main import run
from alexnet_model import load_checkpoint


@pytest.mark.slow
def test_the_command_passes_its_options_and_prints_the_training_record(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    command = ["train", "--data", str(stripes), "--arch", "lenet", "--width", "0.5", "--epochs", "1"]
    command += ["--batch-size", "16", "--learning-rate", "0.01", "--seed", "3", "--out", str(out), "--json"]
    assert run(command) == 0
    record = json.loads(capsys.readouterr().out)
    checkpoint = load_checkpoint(out)
    assert record == checkpoint.training
    assert (checkpoint.architecture, checkpoint.options) == ("lenet", {"width": 0.5})
    names = ("data", "epochs", "batch_size", "learning_rate", "seed")
    assert [record[name] for name in names] == [str(stripes), 1, 16, 0.01, 3]


def test_a_wrong_option_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--epochs", "0", "--out", str(tmp_path / "out.safetensors")]) == 2
    assert "epochs: got 0, expected 1 to 100,000" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
