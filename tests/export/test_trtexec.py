"""Engines by `trtexec` in a container, through a stand-in for Docker with real arithmetic behind it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_export import EngineOptions, signal_to_noise_db
from alexnet_export.engines import trtexec
from alexnet_export.engines.trtexec import TrtexecRunner, engine_from_onnx_in_docker
from alexnet_export.gate import Reference
from alexnet_model.contract import Contract
from alexnet_model.errors import DockerError, EngineError
from alexnet_model.passport import Passport, Profile, passport_of
from alexnet_model.triton_image import TRITON_IMAGE

from ..stand_ins.trtexec import fake_trtexec
from .test_tensorrt_api import H200

pytestmark = pytest.mark.slow

# As TensorRT's parser says it, in the lines that trtexec marks as errors.
PARSER_SAYS = """\
[11/24/2026-12:00:00] [E] [TRT] ModelImporter.cpp:140: While parsing node number 1 \
[DequantizeLinear -> "x.bias"]:
[11/24/2026-12:00:00] [E] [TRT] ModelImporter.cpp:142: --- Begin node ---
Node name: x.bias_DequantizeLinear
[11/24/2026-12:00:00] [E] [TRT] ModelImporter.cpp:143: --- End node ---
[11/24/2026-12:00:00] [E] [TRT] ModelImporter.cpp:151: ERROR: ModelImporter.cpp:489 In function parseNode:
[6] Invalid Node - x.bias_DequantizeLinear
ITensor::getDimensions: Error Code 4: API Usage Error (x.bias_DequantizeLinear: input has type Int32 but \
must have type FP8, FP4, Int4, Int8, or UInt8. In checkType at /_src/nodeBase.cpp:456)
[11/24/2026-12:00:00] [E] Failed to parse onnx file"""


def build(onnx: Path, folder: Path, **options: Any) -> Passport:
    return engine_from_onnx_in_docker(
        onnx,
        folder / "engine.plan",
        EngineOptions(runtime="tensorrt", build="docker", timing_caches=folder / "caches", **options),
        precision="int8",
        profile=Profile(min=1, opt=2, max=8),
        contract=Contract(),
        gpu=H200,
        cuda="13.0",
    )


def test_the_command_that_builds(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = fake_trtexec(monkeypatch, tmp_path)
    build(files["int8"], tmp_path, hardware_compatibility="same-compute-capability", version_compatible=True)
    (run,) = [call for call in docker.calls if call[0] == "run"]
    assert "--gpus=device=0" in run
    assert "--pull=never" in run
    image = run.index(TRITON_IMAGE)
    assert run[image + 1 :] == [
        "trtexec",
        "--onnx=/job/model.onnx",
        "--saveEngine=/job/model.plan",
        "--stronglyTyped",
        "--noTF32",
        "--minShapes=image:1x224x224x3",
        "--optShapes=image:2x224x224x3",
        "--maxShapes=image:8x224x224x3",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=/job/layers.json",
        "--timingCacheFile=/cache/tensorrt-11.1.0.106-sm90-nvidia-h200.cache",
        "--iterations=1",
        "--warmUp=0",
        "--duration=0",
        "--hardwareCompatibilityLevel=sameComputeCapability",
        "--versionCompatible",
    ]
    assert [path.name for path in (tmp_path / "caches").iterdir()] == [
        "tensorrt-11.1.0.106-sm90-nvidia-h200.cache"
    ]


def test_the_passport_names_the_image_by_digest(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_trtexec(monkeypatch, tmp_path, tensorrt="11.2.1.2")
    passport = build(files["int8"], tmp_path)
    assert passport_of(tmp_path / "engine.plan") == passport
    assert passport.runtime_version == "11.2.1.2", "the image's own word counts"
    assert (passport.image, passport.image_digest) == (TRITON_IMAGE, "triton@sha256:2")
    assert (passport.gpu_name, passport.compute_capability) == ("NVIDIA H200", "9.0")
    assert passport.layer_precisions == {"i8": 1}
    assert not list(tmp_path.glob(".trtexec*"))


def test_the_engine_runs_in_its_container(
    files: dict[str, Path], reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = fake_trtexec(monkeypatch, tmp_path)
    passport = build(files["fp32"], tmp_path)
    with TrtexecRunner(tmp_path / "engine.plan", passport, gpu=H200, contract=Contract()) as runner:
        assert len(docker.containers) == 1
        assert runner.runtime.device == "NVIDIA H200"
        for batch in (1, 3):
            outputs = runner.infer(reference.images[:batch])
            assert outputs.logits.shape == (batch, 10)
            # Six digits are what trtexec prints.
            assert signal_to_noise_db(reference.logits[:batch], outputs.logits) > 90
            np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-4)
    assert docker.containers == []
    assert not list(tmp_path.glob(".trtexec*"))


def test_nan_and_infinity_are_parsed(
    files: dict[str, Path], reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C++ prints `nan`, which is no JSON; the gate must get to see it."""
    fake_trtexec(monkeypatch, tmp_path, nan=True)
    passport = build(files["fp32"], tmp_path)
    with TrtexecRunner(tmp_path / "engine.plan", passport, gpu=H200, contract=Contract()) as runner:
        assert np.isnan(runner.infer(reference.images[:1]).logits).all()


def test_the_error_holds_tensorrts_reason(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = fake_trtexec(monkeypatch, tmp_path, fails=PARSER_SAYS)
    with pytest.raises(EngineError) as caught:
        build(files["int8"], tmp_path)
    line = str(caught.value)
    assert (
        "node x.bias_DequantizeLinear (DequantizeLinear): got x.bias_DequantizeLinear: input has type" in line
    )
    assert "Keep biases in float" in line
    assert not list(tmp_path.glob("engine*"))
    assert not list(tmp_path.glob(".trtexec*"))
    assert docker.containers == []


def test_a_container_that_is_gone_is_an_error(
    files: dict[str, Path], reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_trtexec(monkeypatch, tmp_path)
    passport = build(files["fp32"], tmp_path)
    with TrtexecRunner(tmp_path / "engine.plan", passport, gpu=H200, contract=Contract()) as runner:
        door = tmp_path / "docker_state" / runner._name
        door.rename(tmp_path / "elsewhere")
        with pytest.raises(DockerError, match="No such container"):
            runner.infer(reference.images[:1])
        (tmp_path / "elsewhere").rename(door)


def test_the_deadline_removes_the_container(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = fake_trtexec(monkeypatch, tmp_path, hangs=True)
    monkeypatch.setattr(trtexec, "BUILD_TIMEOUT_S", 0.5)
    with pytest.raises(EngineError, match=r"not finished after 0\.5 s"):
        build(files["int8"], tmp_path)
    (run,) = [call for call in docker.calls if call[0] == "run"]
    (name,) = [word.removeprefix("--name=") for word in run if word.startswith("--name=")]
    assert ["rm", "--force", name] in docker.calls


def test_an_interrupt_removes_the_container(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = fake_trtexec(monkeypatch, tmp_path, hangs=True)
    handler = signal.signal(signal.SIGALRM, lambda *_: signal.default_int_handler(signal.SIGINT, None))
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    try:
        with pytest.raises(KeyboardInterrupt):
            build(files["int8"], tmp_path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert [call[:2] for call in docker.calls][-1] == ["rm", "--force"]
    assert not list(tmp_path.glob("engine*"))


def test_without_docker_the_error_says_so(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DockerError, match=r"docs\.docker\.com"):
        build(files["int8"], tmp_path)
