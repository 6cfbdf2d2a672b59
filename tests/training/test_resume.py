from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from alexnet_model.architectures import ARCHITECTURES
from alexnet_model.checkpoint import load_checkpoint
from alexnet_model.errors import TrainingError
from alexnet_training import TrainingOptions, TrainingReport, train
from alexnet_training.resume import resume_path

pytestmark = pytest.mark.slow

KILLED_IN_EPOCH_2 = """
import os, signal, sys
from pathlib import Path
from alexnet_training import TrainingOptions, train

def kill(stage, done, total, note=""):
    if stage == "training epoch 2/3" and done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

options = TrainingOptions(data=sys.argv[1], width=0.05, epochs=3, batch_size=8, device="cpu")
train(options, Path(sys.argv[2]), progress=kill)
"""


@pytest.fixture(scope="module")
def options(stripes: Path) -> TrainingOptions:
    return TrainingOptions(data=str(stripes), width=0.05, epochs=3, batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def uninterrupted(options: TrainingOptions, tmp_path_factory: pytest.TempPathFactory) -> TrainingReport:
    return train(options, tmp_path_factory.mktemp("whole") / "out.safetensors")


@pytest.fixture(scope="module")
def killed_state(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state of a run that was killed in its second epoch."""
    out = tmp_path_factory.mktemp("killed") / "out.safetensors"
    command = [sys.executable, "-c", KILLED_IN_EPOCH_2, str(stripes), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["out.safetensors.resume"]
    return resume_path(out).read_bytes()


@pytest.fixture
def out(tmp_path: Path, killed_state: bytes) -> Path:
    """The checkpoint path of that run, with its state beside it."""
    out = tmp_path / "out.safetensors"
    resume_path(out).write_bytes(killed_state)
    return out


def test_a_killed_run_resumes_to_the_same_weights(
    out: Path, options: TrainingOptions, uninterrupted: TrainingReport
) -> None:
    stages: list[str] = []

    def note(stage: str, done: int, total: int, note: str = "") -> None:
        stages.append(stage)

    report = train(options, out, progress=note)
    assert report.checkpoint.weights_sha256 == uninterrupted.checkpoint.weights_sha256
    assert report.epochs_resumed == 1
    assert "training epoch 1/3" not in stages
    assert "training epoch 2/3" in stages
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_history_has_the_epochs_before_and_after_the_resume(
    out: Path, options: TrainingOptions, uninterrupted: TrainingReport
) -> None:
    report = train(options, out)
    timeless = [replace(epoch, seconds=0) for epoch in report.epochs]
    assert timeless == [replace(epoch, seconds=0) for epoch in uninterrupted.epochs]
    assert report.seconds == pytest.approx(sum(epoch.seconds for epoch in report.epochs))


def test_an_interrupt_keeps_the_state_and_the_old_checkpoint(
    tmp_path: Path, options: TrainingOptions, uninterrupted: TrainingReport
) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("an older checkpoint")

    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training epoch 3/3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, out, progress=interrupt)
    assert out.read_text() == "an older checkpoint"
    report = train(options, out)
    assert report.epochs_resumed == 2
    assert report.checkpoint.weights_sha256 == uninterrupted.checkpoint.weights_sha256


def batch_norm_network(classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


def test_a_network_with_batch_norm_resumes_to_the_same_weights_and_statistics(
    tmp_path: Path, options: TrainingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "batch-norm", batch_norm_network)
    options = replace(options, architecture="batch-norm", width=None)
    whole = train(options, tmp_path / "whole.safetensors").checkpoint.weights

    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training epoch 3/3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, tmp_path / "out.safetensors", progress=interrupt)
    report = train(options, tmp_path / "out.safetensors")
    assert report.epochs_resumed == 2
    assert whole["1.num_batches_tracked"] == 12
    for name, tensor in whole.items():
        assert torch.equal(report.checkpoint.weights[name], tensor), name
    loaded = load_checkpoint(tmp_path / "out.safetensors")
    assert loaded.weights_sha256 == report.checkpoint.weights_sha256


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 5}, "got epochs 3, expected 5"),
        ({"seed": 1, "batch_size": 4}, "got batch_size 8, seed 0, expected 4, 1"),
        ({"learning_rate": 0.001}, "got learning_rate None, expected 0.001"),
        ({"recipe": "modern"}, "got recipe digits, expected modern"),
        ({"architecture": "alexnet-bn"}, "got architecture alexnet, expected alexnet-bn"),
        ({"width": 0.06}, "got width 0.05, expected 0.06"),
    ],
    ids=str,
)
def test_a_state_of_other_options_is_refused_and_kept(
    out: Path, options: TrainingOptions, killed_state: bytes, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(TrainingError, match=f"{words}.*remove that file"):
        train(replace(options, **changes), out)
    assert resume_path(out).read_bytes() == killed_state
    assert not out.exists()


def test_a_state_of_other_images_is_refused(
    tmp_path: Path, own_stripes: Path, options: TrainingOptions
) -> None:
    options = replace(options, data=str(own_stripes))
    out = tmp_path / "out.safetensors"

    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training epoch 2/3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, out, progress=interrupt)
    (own_stripes / "train/lying/00.png").unlink()
    with pytest.raises(TrainingError, match="an unfinished run: got images "):
        train(options, out)


def test_without_resume_the_state_is_ignored(
    out: Path, options: TrainingOptions, uninterrupted: TrainingReport
) -> None:
    report = train(options, out, resume=False)
    assert report.epochs_resumed == 0
    assert report.checkpoint.weights_sha256 == uninterrupted.checkpoint.weights_sha256
    assert not resume_path(out).exists()


def refusal(options: TrainingOptions, out: Path) -> str:
    before = resume_path(out).read_bytes()
    with pytest.raises(TrainingError) as refused:
        train(options, out)
    assert resume_path(out).read_bytes() == before
    assert not out.exists()
    line = str(refused.value)
    assert line.startswith(str(resume_path(out)))
    assert line.endswith("Remove that file to start again.")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_state_is_refused(out: Path, options: TrainingOptions, share: float) -> None:
    whole = resume_path(out).read_bytes()
    resume_path(out).write_bytes(whole[: int(len(whole) * share)])
    assert "a broken state" in refusal(options, out)


def test_another_safetensors_file_is_refused(out: Path, options: TrainingOptions) -> None:
    save_file({"a": torch.ones(2)}, resume_path(out))
    assert "the format None" in refusal(options, out)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("weight.features.0.bias", None),
        ("weight.features.0.bias", torch.zeros(99)),
        ("exp_avg.features.0.bias", None),
        ("exp_avg.features.0.bias", torch.zeros(99)),
        ("step.features.0.bias", None),
    ],
)
def test_a_state_with_tensors_that_do_not_fit_is_refused(
    out: Path, options: TrainingOptions, name: str, tensor: torch.Tensor | None
) -> None:
    with safe_open(resume_path(out), framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(resume_path(out)) | ({} if tensor is None else {name: tensor})
    if tensor is None:
        del tensors[name]
    save_file(tensors, resume_path(out), metadata=metadata)
    assert "a broken state" in refusal(options, out)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("run", "{"), ("run", "[]"), ("history", "{"), ("history", "[{}]"), ("history", "[]")),
        *(("position", "{"), ("position", "[]"), ("position", '{"place": 1}')),
    ],
)
def test_a_state_with_a_malformed_record_is_refused(
    out: Path, options: TrainingOptions, name: str, text: str
) -> None:
    with safe_open(resume_path(out), framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(resume_path(out)), resume_path(out), metadata={**metadata, name: text})
    refusal(options, out)
