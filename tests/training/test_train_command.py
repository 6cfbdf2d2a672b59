from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alexnet_cli.main import run
from alexnet_model import Contract, load_checkpoint
from alexnet_training import resume_path

from ..stand_ins import small_networks


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


@pytest.mark.slow
def test_the_command_fine_tunes_weights(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = tmp_path / "weights.pth", tmp_path / "fine tuned.safetensors"
    network = small_networks.small_resnet(7, width=4)
    torch.save({"model": network.state_dict(), "other": network.state_dict()}, weights)
    arch = f"{small_networks.__name__}:small_resnet"
    command = ["train", "--data", str(stripes), "--weights", str(weights), "--key", "other", "--arch", arch]
    command += ["--arch-option", "width=4", "--freeze", "conv1,bn1", "--freeze", "layer1", "--epochs", "1"]
    contract = tmp_path / "contract.json"
    contract.write_text('{"size": 48, "resize": 56, "colour": "BGR"}', encoding="utf-8")
    command += ["--body-learning-rate", "0.001", "--contract", str(contract), "--out", str(out)]
    assert run(command) == 0
    screen = capsys.readouterr()
    assert "Test accuracy " in screen.out
    assert "Replaced the layer fc of 7 classes by one of 2." in screen.err
    assert f"Next: alexnet export '{out}' --arch {arch}" in screen.err
    checkpoint = load_checkpoint(out, architecture=arch)
    assert checkpoint.contract == Contract(size=48, resize=56, colour="BGR")
    record = checkpoint.training
    assert record["frozen"] == ["conv1", "bn1", "layer1"]
    assert record["pretrained"]["learning_rate"] == 0.001


def test_a_wrong_option_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--epochs", "0", "--out", str(tmp_path / "out.safetensors")]) == 2
    assert "epochs: got 0, expected 1 to 100,000" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_too_small_for_the_network_are_one_line(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract, out = tmp_path / "contract.json", tmp_path / "out.safetensors"
    contract.write_text('{"size": 32, "resize": 40}', encoding="utf-8")
    command = ["train", "--data", str(stripes), "--width", "0.05", "--contract", str(contract)]
    assert run([*command, "--out", str(out)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: network AlexNet: got RuntimeError: ")
    assert "expected it to take float images (3, 3, 32, 32)" in error
    assert not out.exists()


def test_a_finished_run_is_replaced_only_with_force(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    command = ["train", "--data", str(stripes), "--arch", "lenet", "--width", "0.1", "--epochs", "1"]
    command += ["--out", str(out)]
    assert run(command) == 0
    before = out.read_bytes()
    capsys.readouterr()
    for repeated in (command, [*command, "--seed", "1"], [*command, "--no-resume"]):
        assert run(repeated) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.rstrip().endswith("Choose another one, or replace it with --force.")
        assert out.read_bytes() == before
    assert run([*command, "--seed", "1", "--force"]) == 0
    assert out.read_bytes() != before


def test_an_unfinished_run_that_replaces_a_checkpoint_needs_no_second_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"an earlier checkpoint")
    resume_path(out).write_bytes(b"the state of another run")
    assert run(["train", "--arch", "lenet", "--width", "0.1", "--out", str(out)]) == 1
    assert str(resume_path(out)) in capsys.readouterr().err
