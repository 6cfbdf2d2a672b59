"""The wheel, in an environment of its own: commands work without the source tree."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from alexnet_model.checkpoint import save_checkpoint

from . import distributions
from .networks import random_checkpoint

pytestmark = pytest.mark.slow
pytest.importorskip("hatchling", reason="`make setup` installs it")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distributions.built(tmp_path_factory.mktemp("dist"), "wheel")


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new environment") / "venv"
    return distributions.new_environment(folder, wheel, with_packages_here=True)


def test_the_wheel_holds_what_commands_need(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    deployed = {
        f"alexnet_serving/{path.relative_to(distributions.ROOT / 'serving')}"
        for path in (distributions.ROOT / "serving" / "deploy").rglob("*")
        if path.is_file()
    }
    assert {"alexnet_serving/deploy/compose.yaml", "alexnet_serving/deploy/Dockerfile"} <= deployed <= names
    assert "alexnet_model/samples/flower.jpg" in names
    assert "alexnet_model/samples/LICENSE.md" in names
    assert "alexnet_model/imagenet_classes.txt" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "examples/"))]


def test_help_version_and_doctor(commands: Path, tmp_path: Path) -> None:
    shown = distributions.run(commands, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Classify images:" in shown.stdout
    version = distributions.run(commands, "--version", cwd=tmp_path).stdout
    in_git = (distributions.ROOT / ".git").exists()
    assert bool(re.search(r"\([0-9a-f]{7,}\+?\)$", version.strip())) == in_git
    report = json.loads(distributions.run(commands, "doctor", "--json", cwd=tmp_path).stdout)
    assert report["checks"]


def test_classify_without_a_server_is_one_line(commands: Path, tmp_path: Path) -> None:
    words = ("classify", "sample:digit_3", "--url", "grpc://127.0.0.1:1")
    done = distributions.run(commands, *words, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: grpc://127.0.0.1:1")


def test_an_export_and_its_prediction(commands: Path, tmp_path: Path) -> None:
    save_checkpoint(random_checkpoint(), tmp_path / "checkpoint.safetensors")
    exporting = ("export", "checkpoint.safetensors", "--precision", "fp32", "--max-batch", "2")
    done = distributions.run(commands, *exporting, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    words = ("predict", "sample:digit_3", "--export", "build/export", "--json")
    found = json.loads(distributions.run(commands, *words, cwd=tmp_path).stdout)
    assert found["model"] == "alexnet_fp32"
    assert len(found["classes"]) == 5
