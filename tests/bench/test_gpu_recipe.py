"""`make bench-gpu` where there is no GPU, and where there is one in name only: no figure comes of either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import Demo
from ..stand_ins.nvidia_smi import H100, fake_nvidia_smi, no_nvidia_smi

RECIPE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def recipe(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RECIPE), "--demo", str(tmp_path / "demo"), "--largest", "2"]
    command += ["--results", str(tmp_path / "results"), "--docs", str(tmp_path / "performance.md"), *words]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=300)


def test_without_a_gpu_it_ends_at_once_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_nvidia_smi(monkeypatch, tmp_path)
    done = recipe(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: NVIDIA GPU: got no NVIDIA driver (nvidia-smi is not there), expected one. "
        "Next: make bench, for the CPU."
    ]
    assert not (tmp_path / "results").exists()


def test_a_gpu_that_nothing_can_use_leaves_reasons_and_no_row(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [H100])
    (tmp_path / "demo").mkdir()
    os.link(demo.folder / "checkpoint.safetensors", tmp_path / "demo" / "checkpoint.safetensors")
    done = recipe(tmp_path)
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "results" / "gpu" / "engine.json").read_text())
    assert report["engines"] == report["roofs"] == report["proofs"] == []
    whys = {left["what"]: left["why"] for left in report["left_out"]}
    for runtime in ("pytorch", "onnxruntime"):
        assert "PyTorch: got" in whys[f"fp32 on {runtime} ({H100[1]})"]
    assert not any("(CPU" in what for what in whys)
    # Triton saw no GPU either: what it computes on the CPU is not measured under a GPU's name.
    assert "No server on the GPU: Triton computes alexnet_fp16, alexnet_fp32" in done.stderr
    assert [path.name for path in (tmp_path / "results" / "gpu").iterdir()] == ["engine.json"]
    page = (tmp_path / "performance.md").read_text()
    assert "PyTorch: got" in page
    assert "pictures/s" not in page
