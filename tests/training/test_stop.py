"""Runs that end before their last epoch: on request, killed, with a loss that is not finite."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_model import Contract
from alexnet_model.checkpoint import load_checkpoint
from alexnet_model.errors import LossNotFinite, TrainingStopped, UsageError
from alexnet_training import TrainingOptions, TrainingReport, train
from alexnet_training.devices import Compute
from alexnet_training.resume import restore_state, resume_path, save_state
from alexnet_training.state import Accuracy, EpochRecord, MovingAverage, Position, TrainingState

pytestmark = pytest.mark.slow

SMALL = Contract(size=64, resize=72)
RECIPES = ("digits", "paper-2012", "modern")


def options_of(folder: Path, recipe: str = "digits", **changes: Any) -> TrainingOptions:
    options = TrainingOptions(
        data=str(folder), recipe=recipe, width=0.05, epochs=2, batch_size=8, contract=SMALL, device="cpu"
    )
    return replace(options, **changes)


@pytest.fixture(scope="module")
def whole(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingReport]:
    """A run of every recipe that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        recipe: train(options_of(stripes, recipe), folder / f"{recipe}.safetensors") for recipe in RECIPES
    }


class StopAt:
    """A progress callback that asks to stop at one report."""

    def __init__(self, stage: str, done: int) -> None:
        self.at, self.reached = (stage, done), False

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.reached = self.reached or (stage, done) == self.at

    def should_stop(self) -> bool:
        return self.reached


def stopped_at(options: TrainingOptions, out: Path, stage: str, done: int, **arguments: Any) -> str:
    stop = StopAt(stage, done)
    with pytest.raises(TrainingStopped) as stopped:
        train(options, out, progress=stop, should_stop=stop.should_stop, **arguments)
    return str(stopped.value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_is_stopped_within_an_epoch_resumes_to_the_same_weights(
    recipe: str, stripes: Path, tmp_path: Path, whole: dict[str, TrainingReport]
) -> None:
    options, out = options_of(stripes, recipe), tmp_path / "out.safetensors"
    line = stopped_at(options, out, "training epoch 2/2", 3)
    state = resume_path(out)
    assert (
        line == f"training: got a request to stop after epoch 2, step 3. {state} holds the state of the run."
    )
    assert [path.name for path in tmp_path.iterdir()] == [state.name]
    report = train(options, out)
    assert report.epochs_resumed == 1
    expected = whole[recipe]
    assert report.checkpoint.weights_sha256 == expected.checkpoint.weights_sha256
    assert [replace(epoch, seconds=0) for epoch in report.epochs] == [
        replace(epoch, seconds=0) for epoch in expected.epochs
    ]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("stage", "done", "after"),
    [
        ("training epoch 1/2", 1, "epoch 1, step 1"),
        ("validating epoch 1/2", 12, "epoch 1, step 4"),
        ("validating epoch 2/2", 12, "epoch 2, step 4"),
    ],
)
def test_a_run_can_be_stopped_at_its_first_step_and_while_it_is_validated(
    stage: str, done: int, after: str, stripes: Path, tmp_path: Path, whole: dict[str, TrainingReport]
) -> None:
    options, out = options_of(stripes), tmp_path / "out.safetensors"
    assert f"a request to stop after {after}." in stopped_at(options, out, stage, done)
    assert train(options, out).checkpoint.weights_sha256 == whole["digits"].checkpoint.weights_sha256


def test_a_run_that_is_stopped_while_it_reads_images_writes_nothing(stripes: Path, tmp_path: Path) -> None:
    line = stopped_at(options_of(stripes), tmp_path / "out.safetensors", "reading train", 2)
    assert line == "training: got a request to stop before the first step"
    assert list(tmp_path.iterdir()) == []


def test_a_state_is_written_every_few_steps_and_a_killed_run_continues_from_it(
    stripes: Path, tmp_path: Path, whole: dict[str, TrainingReport]
) -> None:
    options, out = options_of(stripes), tmp_path / "out.safetensors"

    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        if (stage, done) == ("training epoch 1/2", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, out, checkpoint_every=2, progress=interrupt)
    steps: list[int] = []

    def note(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "training epoch 1/2":
            steps.append(done)

    report = train(options, out, progress=note)
    assert steps == [3, 4]
    assert report.epochs_resumed == 0
    assert report.checkpoint.weights_sha256 == whole["digits"].checkpoint.weights_sha256


@pytest.mark.parametrize("steps", [0, -1, 1_000_001])
def test_a_wrong_number_of_steps_is_refused(steps: int, stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^checkpoint every: got {steps}, expected 1 to 1,000,000 steps"):
        train(options_of(stripes), tmp_path / "out.safetensors", checkpoint_every=steps)


def test_a_loss_that_is_not_finite_keeps_the_weights_of_the_last_state(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, out = options_of(stripes), tmp_path / "out.safetensors"
    stopped_at(options, out, "training epoch 2/2", 1)
    weights = load_state_weights(resume_path(out))
    cross_entropy, calls = torch.nn.functional.cross_entropy, []

    def breaks(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return cross_entropy(*arguments, **options) / (0 if len(calls) == 2 else 1)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", breaks)
    with pytest.raises(LossNotFinite) as failed:
        train(options, out, log=tmp_path / "log.jsonl")
    kept = tmp_path / "out.last-good.safetensors"
    assert str(failed.value) == (
        "training epoch 2, step 3: got a loss of inf, expected a finite loss. Lower the learning rate, which "
        f"is 0.002. The weights after epoch 2, step 1 are in {kept}: start from them with --weights {kept} "
        "--no-resume."
    )
    assert not out.exists()
    checkpoint = load_checkpoint(kept)
    assert checkpoint.training["stopped_after"] == "epoch 2, step 1"
    for name, tensor in checkpoint.weights.items():
        assert torch.equal(tensor, weights[name]), name
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["resume", "not_finite"]
    monkeypatch.undo()
    report = train(options_of(stripes, weights=kept, learning_rate=1e-4), out, resume=False)
    assert report.checkpoint.training["pretrained"]["source"] == str(kept)


def load_state_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name.removeprefix("weight."): tensor for name, tensor in load_file(path).items()}


def test_the_log_has_one_json_object_a_line_for_steps_epochs_and_states(
    stripes: Path, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "run.jsonl"
    options, out = options_of(stripes, epochs=2, batch_size=3), tmp_path / "out.safetensors"
    stopped_at(options, out, "training epoch 2/2", 1, log=log)
    report = train(options, out, log=log)
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [event["event"] for event in events] == [
        *("start", "step", "epoch", "state"),  # 10 steps in an epoch
        *("state", "stop", "resume", "step", "epoch", "end"),
    ]
    assert all(event["time"] for event in events)
    start, step, epoch = events[:3]
    assert (start["epochs"], start["steps_per_epoch"], start["run"]["recipe"]) == (2, 10, "digits")
    assert (step["epoch"], step["step"]) == (1, 10)
    assert step["loss"] == pytest.approx(report.epochs[0].loss)
    assert {"accuracy", "learning_rate", "images_per_s", "left_s"} <= step.keys()
    assert epoch["validation"]["images"] == 12
    assert (events[6]["epoch"], events[6]["step"]) == (2, 1)
    assert events[-1]["checkpoint"] == str(out)


def test_progress_has_rate_loss_accuracy_learning_rate_and_the_time_left(
    stripes: Path, tmp_path: Path
) -> None:
    notes: list[str] = []

    def note(stage: str, done: int, total: int, note: str = "") -> None:
        if stage.startswith("training"):
            notes.append(note)

    train(options_of(stripes, epochs=1), tmp_path / "out.safetensors", progress=note)
    pattern = r"loss \d+\.\d{3}, accuracy \d+\.\d%, [\d,]+ images/s, lr \d[\d.e-]*, \d+:\d\d left"
    assert len(notes) == 4
    for text in notes:
        assert re.fullmatch(pattern, text), text
    assert notes[-1].endswith("0:00 left")


COMMAND = [sys.executable, "-m", "alexnet_cli", "train"]


def test_sigterm_saves_the_state_exits_with_0_and_prints_the_command_that_resumes(
    stripes: Path, tmp_path: Path
) -> None:
    contract, out, log = tmp_path / "contract.json", tmp_path / "out.safetensors", tmp_path / "run.jsonl"
    contract.write_text('{"size": 64, "resize": 72}', encoding="utf-8")
    arguments = ["--data", str(stripes), "--width", "0.05", "--batch-size", "3", "--epochs", "200"]
    arguments += ["--contract", str(contract), "--out", str(out), "--log", str(log)]
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--no-resume"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline_s = time.monotonic() + 300
        while process.poll() is None and not (log.exists() and '"step": 10' in log.read_text()):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    assert stdout == ""
    assert resume_path(out).is_file()
    assert "a request to stop after epoch " in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("Continue with: ")]
    assert line == f"Continue with: alexnet train {' '.join(arguments)}"
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["event"] == "stop"


def test_a_state_keeps_momentum_average_scale_and_position(tmp_path: Path) -> None:
    def state_with(scale: float) -> TrainingState:
        torch.manual_seed(3)
        network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return TrainingState(network, optimiser, scaler, MovingAverage(network, 0.9))

    assert Compute(torch.device("cpu"), torch.float16).scaler().is_enabled()
    state = state_with(8.0)
    for step in range(3):
        state.optimiser.zero_grad()
        state.scaler.scale(state.network(torch.randn(5, 4)).square().mean()).backward()
        state.scaler.step(state.optimiser)
        state.scaler.update()
        assert state.average
        state.average.update(state.network, step)
    state.history.append(EpochRecord(0.5, 0.25, Accuracy(1, 4, 3), 2.0))
    state.position = Position(step=3, images=15, loss=1.5, correct=4, seconds=0.5)
    path = tmp_path / "state"
    save_state(path, state, run={"epochs": 4})
    read = state_with(2.0)
    restore_state(path, read, run={"epochs": 4})
    assert (read.history, read.position) == (state.history, state.position)
    assert read.scaler.get_scale() == 8.0
    assert read.average
    assert state.average
    for ours, theirs in ((read.network, state.network), (read.average.network, state.average.network)):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
    buffers = [
        [state.optimiser.state[p]["momentum_buffer"] for p in state.network.parameters()]
        for state in (read, state)
    ]
    assert all(torch.equal(*pair) for pair in zip(*buffers, strict=True))
