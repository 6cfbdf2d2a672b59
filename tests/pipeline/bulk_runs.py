"""A model of one multiplication for tests of bulk classification, and runs of it that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_model.contract import Contract, Uint8Array
from alexnet_pipeline import BulkModel, classify_in_bulk
from alexnet_pipeline.bulk_files import FloatArray

pq = pytest.importorskip("pyarrow.parquet", reason="needs the [bulk] extra")

CONTRACT = Contract(size=16, resize=16)
NAMES = ("dark", "middle", "bright")
IMAGES = 40


def by_brightness(images: Uint8Array) -> FloatArray:
    """Probabilities `(N, 3)` of uint8 `(N, S, S, 3)`."""
    mean = images.mean(axis=(1, 2, 3))[:, None] / 255  # (N, 1)
    closeness = 1 - np.abs(mean - np.array([[0.0, 0.5, 1.0]]))
    probabilities: FloatArray = (closeness / closeness.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


class Opened:
    """Opens a model, and counts the images that it has classified."""

    def __init__(self, name: str = "brightness_fp32") -> None:
        self.name = name
        self.images = 0

    @contextmanager
    def __call__(self) -> Iterator[BulkModel]:
        def counted(images: Uint8Array) -> FloatArray:
            self.images += len(images)
            return by_brightness(images)

        yield BulkModel(
            name=self.name, contract=CONTRACT, class_names=NAMES, probabilities=counted, batch=4, in_flight=2
        )


def images_in(folder: Path) -> list[str]:
    """Write 40 images of which one is broken and one is missing, and return their names."""
    for number in range(IMAGES - 2):
        Image.new("L", (20, 18), 255 * number // IMAGES).save(folder / f"{number:03}.png")
    (folder / "torn.png").write_bytes((folder / "000.png").read_bytes()[:40])
    return [*map(str, sorted(folder.iterdir())), str(folder / "missing.png")]


def contents(out: Path) -> dict[str, tuple[int, bytes]]:
    """The files of a folder, with their inodes: a file that was written again has another one."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in sorted(out.iterdir())}


def rows(out: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(out).to_pylist()
    return found


def assert_complete(out: Path, names: list[str]) -> None:
    assert [row["image"] for row in rows(out)] == sorted(names)
    assert [name for name in contents(out) if not name.endswith((".parquet", ".json"))] == []


RUN = """
import sys
from pathlib import Path
from tests.pipeline.bulk_runs import slow_model
from alexnet_pipeline import classify_in_bulk

if __name__ == "__main__":
    names = [line for line in sys.stdin.read().splitlines()]
    print("begun", flush=True)
    report = lambda stage, done, total, note="": print(done, flush=True)
    classify_in_bulk(names, slow_model, Path(sys.argv[1]), shards=10, workers=2, progress=report)
"""


@contextmanager
def slow_model() -> Iterator[BulkModel]:
    """The same model, which takes long enough to be killed while it computes."""

    def slowly(images: Uint8Array) -> FloatArray:
        time.sleep(0.02)
        return by_brightness(images)

    yield BulkModel(
        name="brightness_fp32", contract=CONTRACT, class_names=NAMES, probabilities=slowly, batch=2
    )


def children_of(process: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()}


def run_and_kill(out: Path, names: list[str], moments: random.Random, number: signal.Signals) -> int:
    """Start a run in another process, end it at a random moment, and return its exit code."""
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", RUN, str(out)]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(names))
        process.stdin.close()
        last = moments.randrange(0, IMAGES // 2)
        while (line := process.stdout.readline()) and (line == "begun\n" or int(line) < last):
            pass
        time.sleep(moments.uniform(0, 0.03))
        children = children_of(process.pid)
        process.send_signal(number)
        process.stdout.read()
        code = process.wait(30)
        until_s = time.monotonic() + 10
        while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until_s:
            time.sleep(0.02)
        assert not [child for child in children if Path(f"/proc/{child}").exists()]
    return code


def kill_until_complete(out: Path, names: list[str], kills: int) -> None:
    """Kill a run again and again; shards that were finished stay as they are."""
    moments = random.Random(0)
    kept: dict[str, tuple[int, bytes]] = {}
    for _ in range(kills):
        run_and_kill(out, names, moments, signal.SIGKILL)
        files = contents_without_parts(out)
        assert kept.items() <= files.items()
        kept = files
    result = classify_in_bulk(names, slow_model, out, shards=10, workers=0)
    assert result.kept == len([name for name in kept if name.endswith(".parquet")])
    assert_complete(out, names)
    assert kept.items() <= contents(out).items()


def interrupt(command: list[str], out: Path, wait_s: float) -> tuple[int, str]:
    """Press Ctrl-C in a command some time after it has written its next file to `out`.

    Returns:
        The exit code and standard error.
    """
    files = len(contents_without_parts(out))
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while len(contents_without_parts(out)) <= files:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(wait_s)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def linked_images(folder: Path, count: int) -> None:
    """Write an image under many names: more than a test waits for."""
    Image.effect_noise((300, 260), 60).save(folder / "0.png")
    for number in range(1, count):
        os.link(folder / "0.png", folder / f"{number}.png")


def contents_without_parts(out: Path) -> dict[str, tuple[int, bytes]]:
    """As `contents`, of a folder in which a killed process has left hidden folders."""
    files = [path for path in out.iterdir() if path.is_file()] if out.exists() else []
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in files}
