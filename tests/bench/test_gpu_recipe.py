"""`make bench-gpu` without a GPU, and with a GPU that nothing can use: neither gives a figure."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_bench.engines.process import BenchProcess, Verbs, execute_request, verbs_of_child
from alexnet_model.checkpoint import save_checkpoint
from alexnet_model.errors import ExportError

from ..networks import random_checkpoint
from ..serving.conftest import Artifacts
from ..serving.recorded_engines import H200, L4, with_engines
from ..stand_ins.nvidia_smi import H100, fake_nvidia_smi, no_nvidia_smi

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def command(tmp_path: Path) -> list[str]:
    words = [str(RECIPE), "--demo", str(tmp_path / "demo"), "--largest", "2"]
    return [*words, "--results", str(tmp_path / "results"), "--docs", str(tmp_path / "performance.md")]


def without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run engines and ceilings in this process: a process each would import PyTorch only to find no GPU.

    test_engine_process.py has the test with processes.
    """
    verbs: dict[BenchProcess, Verbs] = {}

    def enter(process: BenchProcess) -> BenchProcess:
        verbs[process] = verbs_of_child()
        return process

    replies: dict[BenchProcess, tuple[Any, str]] = {}

    def send(process: BenchProcess, verb: str, *arguments: object) -> None:
        replies[process] = execute_request(verbs[process], verb, *arguments)

    def reply(process: BenchProcess) -> Any:
        value, failure = replies[process]
        if failure:
            raise ExportError(failure)
        return value

    monkeypatch.setattr(BenchProcess, "__enter__", enter)
    monkeypatch.setattr(BenchProcess, "__exit__", lambda *_: None)
    monkeypatch.setattr(BenchProcess, "send", send)
    monkeypatch.setattr(BenchProcess, "reply", reply)


def test_without_a_gpu_the_recipe_ends_at_once_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_nvidia_smi(monkeypatch, tmp_path)
    done = subprocess.run(
        [sys.executable, *command(tmp_path)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: NVIDIA GPU: got no NVIDIA driver (nvidia-smi is not installed), expected one. "
        "Next: make bench, for the CPU."
    ]
    assert not (tmp_path / "results").exists()


def test_a_gpu_that_nothing_can_use_gives_reasons_and_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H100])
    without_processes(monkeypatch)
    (tmp_path / "demo").mkdir()
    save_checkpoint(random_checkpoint(width=0.05), tmp_path / "demo" / "checkpoint.safetensors")
    monkeypatch.syspath_prepend(RECIPE.parent)
    monkeypatch.setattr(sys, "argv", command(tmp_path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPE), run_name="__main__")
    printed = capsys.readouterr().err
    results = tmp_path / "results" / "gpu" / "nvidia-h100-80gb-hbm3"
    assert ended.value.code == 1, printed
    report = json.loads((results / "engine.json").read_text())
    assert report["engines"] == report["roofs"] == report["proofs"] == []
    whys = {left["what"]: left["why"] for left in report["left_out"]}
    for precision, runtime in (("fp32", "pytorch"), ("fp32", "onnxruntime"), ("fp16", "onnxruntime")):
        assert "PyTorch: got" in whys[f"{precision} on {runtime} ({H100[1]})"]
    assert not any("(CPU" in what for what in whys)
    # Triton saw no GPU either: what it computes on the CPU is not measured under a GPU's name.
    assert "No server on the GPU: Triton computes alexnet_fp16, alexnet_fp32" in printed
    assert [path.name for path in results.iterdir()] == ["engine.json"]
    page = (tmp_path / "performance.md").read_text()
    assert "PyTorch: got" in page
    assert "images/s" not in page


def test_an_export_of_the_same_weights_is_used_again_with_its_engines(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(RECIPE.parent)
    recipe = importlib.import_module("gpu")
    export = with_engines(artifacts, tmp_path / "export", H200, max_batch=4)
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    save_checkpoint(random_checkpoint(), same)
    save_checkpoint(random_checkpoint(width=0.05), other)
    assert recipe.earlier_export(export.folder, same, 4) == export.manifest
    assert recipe.earlier_export(export.folder, same, 8) is None
    assert recipe.earlier_export(export.folder, other, 4) is None
    assert recipe.earlier_export(tmp_path / "nowhere", same, 4) is None
    assert recipe.has_engine(export.manifest, "tensorrt", H200)
    assert not recipe.has_engine(export.manifest, "aoti", H200)
    assert not recipe.has_engine(export.manifest, "tensorrt", L4)
