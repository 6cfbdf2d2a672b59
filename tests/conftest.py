"""What the slower tests share: one run of `alexnet demo --quick`, with the small AlexNet that it trained."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.manifest import Manifest, manifest_from_folder


@dataclass(frozen=True)
class Demo:
    """What a user has after the demo."""

    folder: Path
    summary: dict[str, Any]
    screen: str


@dataclass(frozen=True)
class Exported:
    """A trained network's checkpoint, ONNX files and repository. Tests copy what they change."""

    checkpoint: Path
    folder: Path
    manifest: Manifest
    repository: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    summary = folder / "summary.json"
    command = [sys.executable, "-m", "alexnet_cli", "demo", "--quick"]
    done = subprocess.run(
        [*command, "--out", str(folder), "--json", str(summary)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Demo(folder, json.loads(summary.read_text()), done.stdout)


@pytest.fixture(scope="session")
def exported(demo: Demo) -> Exported:
    export = demo.folder / "export"
    return Exported(
        checkpoint=demo.folder / "checkpoint.safetensors",
        folder=export,
        manifest=manifest_from_folder(export),
        repository=demo.folder / "model_repository",
    )
