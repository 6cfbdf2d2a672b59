"""The mark `slow`; fixtures that are made once a run: `alexnet demo --quick`, and a small trained AlexNet."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from alexnet_model.manifest import Manifest, manifest_from_folder

if TYPE_CHECKING:
    from alexnet_model.checkpoint import Checkpoint

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


def once_per_run(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that one process makes, and that all processes of a run (`make test`) read.

    Args:
        tmp_path_factory: The fixture of pytest.
        name: The folder's name.
        make: Writes the folder, which does not exist. The other processes wait for it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the folder of all processes
    folder, made = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process in which `make` failed
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def _networks_are_converted_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let `export_onnx` take the FP32 file of a network that it has converted before in this run.

    The file is a function of the checkpoint and the largest batch, which tests/export/test_convert.py checks.
    PyTorch needs three seconds for the smallest network.
    """
    if "torch" not in sys.modules:  # no test of this run converts, and the import takes seconds
        yield
        return
    from alexnet_export import onnx_export
    from alexnet_export.convert import onnx_from_checkpoint

    def converted(checkpoint: Checkpoint, path: Path, *, max_batch: int) -> None:
        if checkpoint.module is not None:  # its code is unknown
            onnx_from_checkpoint(checkpoint, path, max_batch=max_batch)
            return
        of = (checkpoint.weights_sha256, checkpoint.architecture, sorted(checkpoint.options.items()))
        key = hashlib.sha256(repr((of, checkpoint.contract.digest, max_batch)).encode()).hexdigest()

        def make(folder: Path) -> None:
            folder.mkdir()
            onnx_from_checkpoint(checkpoint, folder / "model.onnx", max_batch=max_batch)

        shutil.copyfile(once_per_run(tmp_path_factory, f"onnx-{key}", make) / "model.onnx", path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "onnx_from_checkpoint", converted)
        yield


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = once_per_run(tmp_path_factory, "demo", _run_demo)
    values = json.loads((folder / "run.json").read_text())
    assert values["exit_code"] == 0, values["errors"]
    summary = json.loads((folder / "summary.json").read_text())
    return Demo(folder, summary, values["screen"], values["process_id"])


def _run_demo(folder: Path) -> None:
    command = [sys.executable, "-m", "alexnet_cli", "demo", "--quick"]
    command += ["--out", str(folder), "--output", str(folder / "summary.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        screen, errors = process.communicate()
    folder.mkdir(exist_ok=True)
    run = {
        "exit_code": process.returncode,
        "process_id": process.pid,
        "screen": screen,
        "errors": errors,
    }
    (folder / "run.json").write_text(json.dumps(run))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An AlexNet for images of 64 pixels that was trained for seconds; the gate accepts all precisions."""
    folder = once_per_run(tmp_path_factory, "exported", _export_small_network)
    return Exported(
        checkpoint=folder / "checkpoint.safetensors",
        folder=folder / "export",
        manifest=manifest_from_folder(folder / "export"),
        repository=folder / "model_repository",
    )


def _export_small_network(folder: Path) -> None:
    from alexnet_model.checkpoint import save_checkpoint
    from alexnet_pipeline import ExportOptions, export_model

    from .networks import small_trained_checkpoint

    folder.mkdir()
    save_checkpoint(small_trained_checkpoint(), folder / "checkpoint.safetensors")
    options = ExportOptions(
        calibration="digits",
        max_batch=16,
        runtime="openvino",
        out=folder / "export",
        repository=folder / "model_repository",
    )
    export_model(folder / "checkpoint.safetensors", options)
