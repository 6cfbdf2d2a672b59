"""The mark `slow`, and the fixtures of one run of `alexnet demo --quick` with the AlexNet that it trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from alexnet_model.manifest import Manifest, manifest_from_folder

# Tests that use one of these are slow. Other slow tests, of a whole module or one by one, are marked there.
SLOW_FIXTURES = frozenset({"browser", "demo", "exported"})

# Processes that run tests side by side share the cores. With a thread for each core in every process,
# PyTorch's threads wait for one another in busy loops, and training takes three times the CPU time. PyTorch
# reads this when it is imported, here and in the processes that tests start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests `slow` that need Chromium, the demo's run, or a real server end to end.

    Slow files come first: one process runs the demo while the others do slow tests without it, and no slow
    file is left for the end.
    """
    for item in items:
        fixtures = SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if fixtures or "end_to_end" in item.path.parts:
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    of_demo = {item.path for item in items if "demo" in getattr(item, "fixturenames", ())}
    items.sort(
        key=lambda item: (item.path.name != "test_demo.py", item.path not in slow, item.path in of_demo)
    )


@dataclass(frozen=True)
class Demo:
    """The results of the demo: its folder, its summary as JSON, and what it printed."""

    folder: Path
    summary: dict[str, Any]
    screen: str
    process_id: int


@dataclass(frozen=True)
class Exported:
    """A trained network's checkpoint, ONNX files and repository. Copy a file before changing it."""

    checkpoint: Path
    folder: Path
    manifest: Manifest
    repository: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run the demo once; of several processes (`make test`) the first runs it, and the others wait."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the folder of all processes
    record = folder / "demo.json"
    with FileLock(folder / "demo.lock"):
        if not record.exists():
            record.write_text(json.dumps(_run_demo(folder / "demo")))
    values = json.loads(record.read_text())
    assert values["exit_code"] == 0, values["errors"]
    summary = json.loads((folder / "demo" / "summary.json").read_text())
    return Demo(folder / "demo", summary, values["screen"], values["process_id"])


def _run_demo(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "alexnet_cli", "demo", "--quick"]
    command += ["--out", str(folder), "--output", str(folder / "summary.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        screen, errors = process.communicate()
    return {
        "exit_code": process.returncode,
        "process_id": process.pid,
        "screen": screen,
        "errors": errors,
    }


@pytest.fixture(scope="session")
def exported(demo: Demo) -> Exported:
    export = demo.folder / "export"
    return Exported(
        checkpoint=demo.folder / "checkpoint.safetensors",
        folder=export,
        manifest=manifest_from_folder(export),
        repository=demo.folder / "model_repository",
    )
