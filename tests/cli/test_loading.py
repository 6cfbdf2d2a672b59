"""Worker processes that decode training images, as the command line sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_cli.main import run

# The command line, for which every dataset is a large one.
PROGRAM = """
from alexnet_training import splits
from alexnet_cli.main import main
splits.MAX_BYTES_IN_MEMORY = 0
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def test_the_loader_is_measured_against_decoding_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--seconds", "0.1", "--repeats", "2", "--workers", "2", "--batch-size", "4"]
    assert run(["bench", "loader", str(folder), *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["size"], report["workers"], report["batch_size"]) == (40, 256, 2, 4)
    assert report["read"] >= 32
    shares = [
        loader / decode for loader, decode in zip(report["loader_per_s"], report["decode_per_s"], strict=True)
    ]
    assert report["share_of_decode_alone"] == pytest.approx(sum(shares) / 2, abs=1e-4)
    assert run(["bench", "loader", str(folder), *options, "--recipe", "digits"]) == 0
    printed = capsys.readouterr().out
    assert "40 training images" in printed
    assert "prepared at 224 pixels in batches of 4" in printed
    assert "of decoding alone (median of 2)" in printed


def test_unreadable_images_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for path in (folder / "train" / name).iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    options = ["--seconds", "0.1", "--repeats", "1", "--workers", "1", "--batch-size", "32"]
    for path in sorted((tmp_path / "a").iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:50])
    assert run(["bench", "loader", str(tmp_path), *options]) == 0
    assert "images cannot be read." in capsys.readouterr().out


@pytest.fixture
def running(folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A training in its own process group, after its first logged step."""
    options = ["--data", str(folder), "--width", "0.02", "--epochs", "1000", "--batch-size", "4"]
    log, out = tmp_path / "log.jsonl", tmp_path / "out.safetensors"
    command = [sys.executable, "-c", PROGRAM, "train", *options, "--log", str(log), "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (log.exists() and '"step"' in log.read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def members(group: int) -> list[int]:
    """The processes of a process group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, their_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(their_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def ended_worker(process: subprocess.Popen[str]) -> None:
    while not (workers := [pid for pid in members(process.pid) if pid != process.pid]):  # between two epochs
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        (lambda process: os.killpg(process.pid, signal.SIGINT), 130, "Interrupted."),
        (lambda process: os.killpg(process.pid, signal.SIGTERM), 0, "Continue with: alexnet train"),
        (ended_worker, 1, "Error: worker process"),
    ],
    ids=["Ctrl-C", "SIGTERM", "killed worker"],
)
def test_a_training_ends_with_its_workers(
    running: subprocess.Popen[str], end: Callable[[subprocess.Popen[str]], None], code: int, line: str
) -> None:
    end(running)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == code, errors
    last = [one for one in errors.splitlines() if one.strip()][-1]
    assert last.startswith(line), errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert members(running.pid) == []
