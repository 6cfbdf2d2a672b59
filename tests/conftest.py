"""The mark `slow`, and the fixtures of one run of `alexnet demo --quick` with the AlexNet that it trained."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.manifest import Manifest, manifest_from_folder

# Tests that use one of these are slow. Other slow tests, of a whole module or one by one, are marked there.
SLOW_FIXTURES = frozenset({"browser", "demo", "exported"})


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests `slow` that need Chromium, the demo's run, or a real server end to end.

    Then group them for several processes (`make test`): one process has the tests of a file, and one has all
    files that use the demo's run, so that it runs once.
    """
    of_demo = {item.path for item in items if "demo" in _fixtures(item)}
    for item in items:
        if SLOW_FIXTURES.intersection(_fixtures(item)) or "end_to_end" in item.path.parts:
            item.add_marker(pytest.mark.slow)
        group = "demo" if item.path in of_demo else str(item.path.relative_to(item.config.rootpath))
        item.add_marker(pytest.mark.xdist_group(group))


def _fixtures(item: pytest.Item) -> tuple[str, ...]:
    return tuple(getattr(item, "fixturenames", ()))


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
    folder = tmp_path_factory.mktemp("demo") / "demo"
    summary = folder / "summary.json"
    command = [sys.executable, "-m", "alexnet_cli", "demo", "--quick"]
    command += ["--out", str(folder), "--output", str(summary)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        screen, errors = process.communicate()
    assert process.returncode == 0, errors
    return Demo(folder, json.loads(summary.read_text()), screen, process.pid)


@pytest.fixture(scope="session")
def exported(demo: Demo) -> Exported:
    export = demo.folder / "export"
    return Exported(
        checkpoint=demo.folder / "checkpoint.safetensors",
        folder=export,
        manifest=manifest_from_folder(export),
        repository=demo.folder / "model_repository",
    )
