"""One function over every generation of TensorRT's API, each with its real names and nothing else."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_export import EngineOptions
from alexnet_export.engines import tensorrt_api as api_module
from alexnet_export.engines.tensorrt_api import TensorRt, reason_from_log, tensorrt_api
from alexnet_export.engines.tensorrt_compiler import engine_from_onnx
from alexnet_model.contract import Contract
from alexnet_model.errors import EngineError, MissingExtra, UsageError
from alexnet_model.gpus import Gpu
from alexnet_model.passport import Passport, Profile

from .fake_tensorrt import VERSIONS, fake_tensorrt, names_of

H200 = Gpu(index=0, name="NVIDIA H200", compute_capability="9.0", driver="580.95.05", memory_mib=143771)
INSPECTED = json.dumps({"Layers": [{"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Int8"}]}] * 3})


def build(trt: Any, onnx: Path, folder: Path, **options: Any) -> Passport:
    chosen = EngineOptions(runtime="tensorrt", timing_caches=folder / "caches", **options)
    return engine_from_onnx(
        TensorRt(trt, "tensorrt"),
        onnx,
        folder / "engine.plan",
        chosen,
        precision="int8",
        profile=Profile(min=1, opt=2, max=8),
        contract=Contract(),
        gpu=H200,
        cuda="13.0",
    )


def test_names_of_both_major_versions_are_recorded() -> None:
    assert {version.split(".")[0] for version in VERSIONS} == {"10", "11"}
    # What the recordings must show of the step from 10 to 11, by NVIDIA's migration guide.
    flags = {version: set(names_of(version)["BuilderFlag"]) for version in VERSIONS}
    creation = {version: set(names_of(version)["NetworkDefinitionCreationFlag"]) for version in VERSIONS}
    for version in VERSIONS:
        old = version.startswith("10.")
        assert ({"FP16", "INT8", "BF16", "FP8"} <= flags[version]) == old
        assert ("EXPLICIT_BATCH" in creation[version]) == old
        assert ("int8_calibrator" in names_of(version)["IBuilderConfig"]) == old
        assert {"TF32", "VERSION_COMPATIBLE"} <= flags[version]


def test_the_real_rtx_module_has_every_name_of_the_fakes() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    for version in VERSIONS:
        fake = fake_tensorrt(version)
        for name in names_of(version):
            kind = getattr(fake, name, None)
            if isinstance(kind, type) and not hasattr(kind, "__members__"):
                public = {attribute for attribute in vars(kind) if not attribute.startswith("_")}
                assert public <= set(dir(getattr(trt, name))), name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_on_each_major_version(version: str, files: dict[str, Path], tmp_path: Path) -> None:
    trt = fake_tensorrt(version)
    trt.recorder.inspected = INSPECTED
    passport = build(trt, files["int8"], tmp_path)
    recorder = trt.recorder
    assert recorder.network_flags == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert recorder.flags_cleared == {"TF32"}
    assert recorder.flags_set == set()
    assert recorder.verbosity is trt.ProfilingVerbosity.DETAILED
    assert recorder.shapes == {"image": ((1, 224, 224, 3), (2, 224, 224, 3), (8, 224, 224, 3))}
    assert recorder.hardware is None
    assert (passport.runtime, passport.runtime_version) == ("tensorrt", version)
    assert (passport.gpu_name, passport.compute_capability) == ("NVIDIA H200", "9.0")
    assert (passport.driver, passport.cuda) == ("580.95.05", "13.0")
    assert passport.layer_precisions == {"i8": 3}
    assert passport.built_for == f"TensorRT {version} on NVIDIA H200 (9.0)"


@pytest.mark.parametrize("version", VERSIONS)
def test_compatibility_options_reach_the_builder(
    version: str, files: dict[str, Path], tmp_path: Path
) -> None:
    trt = fake_tensorrt(version)
    passport = build(
        trt, files["fp32"], tmp_path, hardware_compatibility="ampere-plus", version_compatible=True
    )
    assert trt.recorder.flags_set == {"VERSION_COMPATIBLE"}
    assert trt.recorder.hardware is trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert trt.recorder.host_code_allowed, "it carries code, which the runtime that inspects it must allow"
    assert passport.version_compatible
    assert passport.hardware_compatibility == "ampere-plus"


def test_timing_caches_are_stored_by_gpu_capability_and_version(
    files: dict[str, Path], tmp_path: Path
) -> None:
    trt = fake_tensorrt("11.1.0.106")
    for _ in range(2):
        build(trt, files["fp32"], tmp_path)
    (cache,) = (tmp_path / "caches").iterdir()
    assert cache.name == "tensorrt-11.1.0.106-sm90-nvidia-h200.cache"
    assert trt.recorder.timing_caches == [b"", b"+timings"]
    cache.write_bytes(b"foreign timings")
    build(trt, files["fp32"], tmp_path)
    assert trt.recorder.timing_caches[-1] == b"", "timings that TensorRT refuses are left out"


def test_a_failed_build_reports_the_reason_and_leaves_no_files(
    files: dict[str, Path], tmp_path: Path
) -> None:
    trt = fake_tensorrt("11.1.0.106")
    trt.recorder.builds = False
    with pytest.raises(EngineError, match=r"got Could not find any tactic, expected an engine"):
        build(trt, files["fp32"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_builder_that_does_not_start_is_an_error(files: dict[str, Path], tmp_path: Path) -> None:
    trt = fake_tensorrt("11.1.0.106")

    def no_builder(_: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = no_builder
    with pytest.raises(EngineError, match=r"expected a GPU to build on, and its driver\. .*alexnet doctor"):
        build(trt, files["fp32"], tmp_path)


def test_a_too_old_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.11.0.33"))
    with pytest.raises(EngineError, match=r"got 10\.11\.0\.33, expected 10\.12 or newer"):
        tensorrt_api("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("10.12.0.36"))
    assert tensorrt_api("tensorrt").version == "10.12.0.36"


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match=r"pip install 'alexnet-serving\[tensorrt\]'"):
        tensorrt_api("tensorrt")


def test_a_library_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(api_module, "import_module", broken)
    with pytest.raises(EngineError, match=r"got libnvinfer\.so\.11: cannot open"):
        tensorrt_api("tensorrt")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("x: Error Code 4: API Usage Error (a: has type Int32. In check at /b.cpp:4)", "a: has type Int32"),
        ("Error Code 10: Internal Error (Could not find any tactic.)", "Could not find any tactic"),
        ("Invalid Node - a\nError Code 4: API Usage Error (b.)", "b"),
        ("[checkMacros.cpp::catchCudaError::250] driver\nPlain words.", "Plain words"),
        ("", "no reason given"),
    ],
)
def test_the_reason_is_found_in_a_log_message(said: str, reason: str) -> None:
    assert reason_from_log(said) == reason


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"runtime": "tensorrt", "build": "docker", "targets": ("sm89",)}, "for the GPU of the machine"),
        ({"runtime": "tensorrt-rtx", "targets": ("hopper",)}, "names such as sm89"),
        ({"runtime": "tensorrt-rtx", "version_compatible": True}, "--target sm89,sm120"),
        ({"runtime": "tensorrt-rtx", "hardware_compatibility": "ampere-plus"}, "--target sm89,sm120"),
    ],
)
def test_invalid_options_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        EngineOptions(**wrong)


def test_profiles_are_parsed_and_checked() -> None:
    options = EngineOptions(runtime="tensorrt")
    assert options.profile_to(64) == Profile(min=1, opt=8, max=64)
    assert options.profile_to(4) == Profile(min=1, opt=4, max=4)
    with pytest.raises(UsageError, match="a max of at most 8"):
        EngineOptions(runtime="tensorrt", profile=Profile(min=1, opt=8, max=16)).profile_to(8)
    with pytest.raises(UsageError, match="a min of 1"):
        EngineOptions(runtime="tensorrt", profile=Profile(min=2, opt=8, max=8)).profile_to(8)
