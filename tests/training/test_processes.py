"""Training by two real processes, which exchange gradients over gloo."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_cli import main
from alexnet_model import load_checkpoint
from alexnet_model.errors import TrainingError
from alexnet_training import devices, fit
from alexnet_training.launch import run_ranks
from alexnet_training.loop import Loop
from alexnet_training.resume import resume_path

pytestmark = pytest.mark.slow

RECIPES = ("digits", "modern")  # with dropout and random crops; the second with mixup and an average too


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """Return the arguments of a run of 2 epochs with 4 steps each."""
    contract = out.parent / "contract.json"
    contract.write_text('{"size": 64, "resize": 72}', encoding="utf-8")
    options = ["--data", str(folder), "--width", "0.05", "--epochs", "2", "--batch-size", "8"]
    return ["train", *options, "--contract", str(contract), "--device", "cpu", "--out", str(out), *more]


def run_in_fp32(words: list[str]) -> int:
    """Run in FP32 on every CPU: in bf16, half a batch gives other sums, and Adam enlarges the difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "has_bf16_instructions", lambda: False)
        return main.run(words)


def train_every_recipe(folder: Path, out: Path, *more: str) -> int:
    codes = [
        run_in_fp32(command(folder, out / f"{recipe}.safetensors", "--recipe", recipe, *more))
        for recipe in RECIPES
    ]
    return max(codes)


@pytest.fixture(scope="module")
def whole(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the checkpoints that one process wrote."""
    out = tmp_path_factory.mktemp("one")
    assert train_every_recipe(stripes, out) == 0
    return out


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert first.weights.keys() == second.weights.keys()
    for name, tensor in first.weights.items():
        torch.testing.assert_close(second.weights[name], tensor, rtol=0, atol=1e-5, msg=name)
    for name in ("validation_accuracy", "test_accuracy", "steps", "images"):
        assert second.training[name] == first.training[name]
    assert second.training["loss"] == pytest.approx(first.training["loss"], abs=1e-5)


def test_two_processes_train_to_the_weights_of_one(
    stripes: Path, tmp_path: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_ranks(2, partial(train_every_recipe, stripes, tmp_path, "--processes", "2")) == 0
    for recipe in RECIPES:
        assert_same_weights(whole / f"{recipe}.safetensors", tmp_path / f"{recipe}.safetensors")
        assert load_checkpoint(tmp_path / f"{recipe}.safetensors").training["processes"] == 2
    screen = capfd.readouterr()
    assert screen.out.count("Test accuracy") == len(RECIPES)  # rank 0 alone prints
    assert "Warning" not in screen.err


def kill_in_epoch_2(rank: int, words: list[str]) -> int:
    train_epoch = Loop.train_epoch

    def killed(loop: Loop, *arguments: Any) -> None:
        if rank == 1 and len(loop.state.history) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        train_epoch(loop, *arguments)

    pytest.MonkeyPatch().setattr(Loop, "train_epoch", killed)
    return run_in_fp32(words)


def full_disk(rank: int, words: list[str]) -> int:
    def fails(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    pytest.MonkeyPatch().setattr(fit, "save_state", fails)
    return main.run(words)


def in_rank(program: Callable[[int, list[str]], int], words: list[str]) -> int:
    """Run the program with the number of this process. The patched modules are those of a new process."""
    return program(int(os.environ["RANK"]), words)


def children() -> set[str]:
    """The processes that this one started and that still run."""
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="], capture_output=True)
    return {line for line in listed.stdout.decode().splitlines() if "spawn_main" in line}


def test_a_killed_rank_is_named_and_the_run_resumes_from_its_last_epoch_with_one_process(
    stripes: Path, tmp_path: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = command(stripes, tmp_path / "out.safetensors")
    with pytest.raises(TrainingError) as failed:
        run_ranks(2, partial(in_rank, kill_in_epoch_2, words))
    assert str(failed.value) == (
        "rank 1: got its end by SIGKILL, expected a rank that trains to the end. "
        "The same command continues after the last saved state."
    )
    assert "Error" not in capfd.readouterr().err  # rank 0 leaves the message to the process that started it
    assert not children()
    assert resume_path(tmp_path / "out.safetensors").is_file()
    assert run_in_fp32([*words, "--log", str(tmp_path / "log.jsonl")]) == 0
    assert '"event": "resume"' in (tmp_path / "log.jsonl").read_text()
    assert_same_weights(whole / "digits.safetensors", tmp_path / "out.safetensors")


def test_the_failure_of_one_rank_ends_all_with_one_line(
    stripes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert run_ranks(2, partial(in_rank, full_disk, command(stripes, out))) == 1
    errors = [text for text in capfd.readouterr().err.splitlines() if "rror" in text]
    assert errors == [f"Error: {out}.resume: No space left on device. Free some space."]
    assert not children()
    assert not out.exists()


@pytest.fixture
def running(stripes: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command and wait until it has finished the first epoch of many."""
    started: list[subprocess.Popen[str]] = []

    def start(*program: str) -> subprocess.Popen[str]:
        log = tmp_path / "run.jsonl"
        words = command(stripes, tmp_path / "out.safetensors", "--epochs", "500", f"--log={log}")[1:]
        process = subprocess.Popen(
            [sys.executable, "-m", *program, *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        deadline_s = time.monotonic() + 240
        while process.poll() is None and not (log.exists() and '"state"' in log.read_text()):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def assert_nothing_is_left_of(process: subprocess.Popen[str]) -> None:
    """Python's own helper process of `multiprocessing` ends a moment after the others."""
    deadline_s = time.monotonic() + 60
    list_session = ["ps", "-s", str(process.pid), "-o", "pid=,args="]
    while listed := subprocess.run(list_session, capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline_s, listed
        time.sleep(0.1)


def test_sigterm_stops_all_ranks_saves_the_state_and_exits_with_0(
    running: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = running("alexnet_cli", "train", "--processes", "2")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout == ""
    assert resume_path(tmp_path / "out.safetensors").is_file()
    assert stderr.count("a request to stop after ") == 1
    (line,) = re.findall("^Continue with: .*$", stderr, re.MULTILINE)
    assert line.startswith("Continue with: alexnet train --processes 2 --data ")
    assert_nothing_is_left_of(process)


def test_ctrl_c_ends_all_ranks_without_a_traceback(running: Callable[..., subprocess.Popen[str]]) -> None:
    process = running("alexnet_cli", "train", "--processes", "2")
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert [line for line in stderr.splitlines() if "nterrupt" in line] == ["Interrupted."]
    assert "Traceback" not in stderr
    assert_nothing_is_left_of(process)


def test_torchrun_starts_the_ranks_too(stripes: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    words = command(stripes, tmp_path / "out.safetensors", "--epochs", "1", "--processes", "2")[1:]
    done = subprocess.run(
        [*torchrun, "-m", "alexnet_training", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Test accuracy") == 1
    assert load_checkpoint(tmp_path / "out.safetensors").training["processes"] == 2
