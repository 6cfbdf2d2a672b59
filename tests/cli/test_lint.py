"""`alexnet lint` as a user runs it, on a repository that an export wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alexnet_cli.main import run

from ..conftest import Exported


@pytest.fixture
def repository(exported: Exported, tmp_path: Path) -> Path:
    """A copy, which a test may break."""
    return Path(shutil.copytree(exported.repository, tmp_path / "models"))


def test_nothing_to_say(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = len(list(repository.glob("*/config.pbtxt")))
    for options in ([], ["--no-hashes"]):
        assert run(["lint", str(repository), *options]) == 0
        assert capsys.readouterr().out == f"{repository}: {models} models, no findings\n"
    assert run(["lint", str(repository), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_model_repository_is_the_default(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.rename(repository.with_name("model_repository"))
    monkeypatch.chdir(repository.parent)
    assert run(["lint"]) == 0
    assert capsys.readouterr().out.startswith("model_repository: ")


def test_findings_are_lines_and_exit_1(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = repository / "alexnet_fp32" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 64", "dims: 65", 1))
    plan = repository / "alexnet_fp32" / "1" / "model.onnx"
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    assert run(["lint", str(repository)]) == 1
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert first == "alexnet_fp32/config.pbtxt: input[0].dims[0]: got 65, expected 64"
    assert second.startswith("alexnet_fp32/1/model.onnx: SHA-256: got ")
    last = captured.err.splitlines()[-1]
    assert last.startswith(f"Error: {repository}: got 2 findings, expected none. ")

    assert run(["lint", str(repository), "--no-hashes", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == [
        {"file": "alexnet_fp32/config.pbtxt", "field": "input[0].dims[0]", "got": "65", "expected": "64"}
    ]
    assert captured.err.startswith(f"Error: {repository}: got 1 finding, ")


def test_an_export_is_no_repository(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", str(exported.folder)]) == 1
    assert "the folder of an export, which Triton cannot load" in capsys.readouterr().err
