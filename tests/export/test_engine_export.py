"""Engines for an export, checked by the real gate, and the errors of a build."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from alexnet_export import (
    EngineBuilder,
    EngineOptions,
    build_engines,
    engine_file_name,
    raise_if_refused,
    refusals_of,
    refuse_foreign_export,
)
from alexnet_export.engines import builders
from alexnet_export.engines.builders import builders_from, on_gpu
from alexnet_export.engines.tensorrt_api import TensorRt
from alexnet_model.errors import (
    DockerError,
    EngineError,
    ExportError,
    ManifestError,
    PrecisionRefused,
    UsageError,
)
from alexnet_model.files import sha256_of_file
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import manifest_from_folder, verify_engine
from alexnet_model.passport import Passport, Profile
from alexnet_model.triton_image import TRITON_IMAGE

from ..conftest import Exported
from ..folders import contents_of
from ..stand_ins.docker import fake_docker
from ..stand_ins.nvidia_smi import L4 as LISTED_L4
from ..stand_ins.nvidia_smi import GpuRow, fake_nvidia_smi, no_nvidia_smi
from .fake_tensorrt import HostDevice, fake_tensorrt
from .test_tensorrt_api import H200

L4 = Gpu(index=0, name="NVIDIA L4", compute_capability="8.9", driver="580.95.05", memory_mib=23034)
RTX = EngineOptions(runtime="tensorrt-rtx", targets=("sm89",))


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """A small export, which a test may change."""
    return Path(shutil.copytree(exported.folder, tmp_path / "export"))


@pytest.fixture
def tensorrt(tmp_path: Path) -> EngineOptions:
    profile = Profile(min=1, opt=2, max=4)
    return EngineOptions(runtime="tensorrt", timing_caches=tmp_path / "caches", profile=profile)


def on(gpu: Gpu, options: EngineOptions, version: str = "11.1.0.106") -> EngineBuilder:
    return on_gpu(TensorRt(fake_tensorrt(version), "tensorrt"), HostDevice(), options, gpu, "13.0")


def test_rtx_builds_three_precisions_without_a_gpu(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_nvidia_smi(monkeypatch, tmp_path)
    manifest = build_engines(folder, RTX)
    assert manifest_from_folder(folder) == manifest
    for artifact in manifest.artifacts:
        (engine,) = artifact.engines
        assert engine.file == f"alexnet_{artifact.precision}.rtx-sm89.plan"
        verify_engine(engine, folder / engine.file)
        assert engine.passport.onnx_sha256 == artifact.sha256 == sha256_of_file(folder / artifact.file)
        assert engine.passport.profile == Profile(min=1, opt=8, max=16)
        assert engine.report is None
        assert engine.decision is None
        assert not engine.accepted, "an engine that was not run is not accepted"
    refuse_foreign_export(folder)  # it is still an export, which the next one may replace


def test_the_gate_checks_an_engine_as_it_checked_the_file(folder: Path, tensorrt: EngineOptions) -> None:
    manifest = build_engines(folder, tensorrt, builders=[on(H200, tensorrt)])
    for artifact in manifest.artifacts:
        (engine,) = artifact.engines
        assert engine.file == f"alexnet_{artifact.precision}.sm90.plan"
        assert engine.accepted
        assert engine.report is not None
        assert engine.report.runtime.name == "tensorrt"
        assert [row.batch for row in engine.report.parity] == [1, 2, 3, 4]
        # ONNX Runtime is behind the stand-in, so an engine is as good as the file that it was built from.
        assert engine.report.images == artifact.reports[0].images == 360
        assert engine.report.top1 == pytest.approx(artifact.reports[0].top1, abs=0.01)
        assert engine.evaluated_on == "360 images of digits (test)"


def test_one_folder_collects_engines_of_several_gpus(folder: Path, tensorrt: EngineOptions) -> None:
    build_engines(folder, tensorrt, precisions=("int8",), builders=[on(H200, tensorrt)])
    first = contents_of(folder)
    manifest = build_engines(folder, tensorrt, precisions=("int8",), builders=[on(L4, tensorrt)])
    fp32, _, int8 = manifest.artifacts
    assert [engine.file for engine in int8.engines] == ["alexnet_int8.sm90.plan", "alexnet_int8.sm89.plan"]
    assert fp32.engines == ()
    assert {name: contents_of(folder)[name] for name in first if name != "export.json"} == {
        name: content for name, content in first.items() if name != "export.json"
    }
    # The same GPU again: its engine is replaced.
    newer = on(H200, tensorrt, version="11.4.0.106")
    manifest = build_engines(folder, tensorrt, precisions=("int8",), builders=[newer])
    assert len(manifest.artifacts[2].engines) == 2
    versions = [engine.passport.runtime_version for engine in manifest.artifacts[2].engines]
    assert versions == ["11.1.0.106", "11.4.0.106"]


def test_each_gpu_builds_and_runs_its_own_engine(folder: Path, tensorrt: EngineOptions) -> None:
    """With two GPUs the current one must be the engine's, not the one that was looked at last."""
    devices = [HostDevice(), HostDevice()]
    builders = [
        on_gpu(TensorRt(fake_tensorrt("11.1.0.106"), "tensorrt"), device, tensorrt, gpu, "13.0")
        for device, gpu in zip(devices, (H200, L4), strict=True)
    ]
    assert [device.made_current for device in devices] == [0, 0]
    build_engines(folder, tensorrt, precisions=("int8",), builders=builders)
    assert [device.made_current for device in devices] == [2, 2], "to build, and to run"


def wrong_engine(builder: EngineBuilder, other: Path) -> EngineBuilder:
    """Builds from another file than it says: a compiler that got the model wrong."""

    def build(onnx: Path, engine: Path, **more: Any) -> Passport:
        passport = builder.build(other, engine, **more)
        return passport.model_copy(update={"onnx_sha256": sha256_of_file(onnx)})

    return EngineBuilder(builder.label, build, builder.run)


def test_an_engine_that_is_not_the_same_model_is_refused(
    folder: Path, tensorrt: EngineOptions, tmp_path: Path
) -> None:
    other = onnx.load(folder / "alexnet_fp32.onnx")
    weights = next(tensor for tensor in other.graph.initializer if len(tensor.dims) == 4)
    weights.raw_data = (-numpy_helper.to_array(weights)).tobytes()
    onnx.save(other, tmp_path / "other.onnx")
    builder = wrong_engine(on(H200, tensorrt), tmp_path / "other.onnx")
    manifest = build_engines(folder, tensorrt, precisions=("fp32",), builders=[builder])
    (engine,) = manifest.artifacts[0].engines
    assert engine.decision is not None
    assert not engine.accepted
    assert "dB above their error" in engine.decision.reason
    assert refusals_of(manifest) == (), "only engines that are named are reported"
    refusals = refusals_of(manifest, [engine_file_name(manifest.artifacts[0], builder)])
    raise_if_refused(refusals, ("fp16",))
    with pytest.raises(PrecisionRefused, match="fp32 engine: got logits are"):
        raise_if_refused(refusals, ("fp32",))


def test_without_a_profile_the_gate_checks_up_to_the_largest_batch(folder: Path, tmp_path: Path) -> None:
    options = EngineOptions(runtime="tensorrt", timing_caches=tmp_path)
    manifest = build_engines(folder, options, precisions=("int8",), builders=[on(H200, options)])
    (engine,) = manifest.artifacts[2].engines
    assert engine.report is not None
    assert [row.batch for row in engine.report.parity] == [1, 2, 3, 8, 16]


class Fault(Exception):
    pass


@pytest.mark.parametrize("faulty", ["building int8 engine", "checking int8 engine"])
def test_an_interrupt_leaves_the_export_unchanged(faulty: str, folder: Path, tensorrt: EngineOptions) -> None:
    def interrupt(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == faulty and done < total:
            raise Fault

    before = contents_of(folder)
    with pytest.raises(Fault):
        build_engines(folder, tensorrt, builders=[on(H200, tensorrt)], progress=interrupt)
    assert contents_of(folder) == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def altered_onnx(folder: Path) -> None:
    path = folder / "alexnet_int8.onnx"
    path.write_bytes(path.read_bytes()[:-1])


def altered_engine(folder: Path) -> None:
    path = folder / "alexnet_fp32.rtx-sm89.plan"
    path.write_bytes(path.read_bytes()[:-1])


def altered_passport(folder: Path) -> None:
    path = folder / "alexnet_fp32.rtx-sm89.passport.json"
    path.write_text(path.read_text().replace("sm89", "sm86"))


@pytest.mark.parametrize(
    ("alter", "word"),
    [(altered_onnx, "SHA-256"), (altered_engine, "truncated"), (altered_passport, "sm86")],
)
def test_altered_files_stop_a_build(
    alter: Callable[[Path], None], word: str, folder: Path, tensorrt: EngineOptions
) -> None:
    build_engines(folder, RTX, precisions=("fp32",))
    alter(folder)
    before = contents_of(folder)
    with pytest.raises(ManifestError, match=word):
        build_engines(folder, tensorrt, builders=[on(H200, tensorrt)])
    assert contents_of(folder) == before
    if alter is not altered_onnx:  # an engine that is built again may be broken
        (engine,) = build_engines(folder, RTX, precisions=("fp32",)).artifacts[0].engines
        verify_engine(engine, folder / "alexnet_fp32.rtx-sm89.plan")


def test_a_profile_beyond_the_checked_batches_is_refused(folder: Path) -> None:
    options = EngineOptions(runtime="tensorrt-rtx", targets=("sm89",), profile=Profile(min=1, opt=8, max=128))
    with pytest.raises(UsageError, match="a max batch of 16"):
        build_engines(folder, options)


def test_a_precision_that_was_not_accepted_is_refused(folder: Path, tensorrt: EngineOptions) -> None:
    manifest = manifest_from_folder(folder)
    refused = manifest.artifacts[2].model_copy(
        update={"decision": manifest.artifacts[2].decision.model_copy(update={"accepted": False})}
    )
    manifest = manifest.model_copy(update={"artifacts": (*manifest.artifacts[:2], refused)})
    (folder / "export.json").write_text(manifest.model_dump_json())
    with pytest.raises(ExportError, match="no accepted precision"):
        build_engines(folder, tensorrt, precisions=("int8",), builders=[on(H200, tensorrt)])


@pytest.mark.parametrize(
    ("options", "kind", "word"),
    [
        (EngineOptions(runtime="tensorrt"), EngineError, "--runtime tensorrt-rtx --target sm89"),
        (EngineOptions(runtime="tensorrt", build="docker"), EngineError, "no NVIDIA driver"),
        (EngineOptions(runtime="tensorrt-rtx"), UsageError, "--target sm89"),
        (EngineOptions(runtime="tensorrt-rtx", targets=("sm90",)), UsageError, "some of .*sm120"),
    ],
)
def test_without_a_gpu_the_error_names_what_works(
    options: EngineOptions,
    kind: type[Exception],
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_nvidia_smi(monkeypatch, tmp_path)
    with pytest.raises(kind, match=word):
        builders_from(options)


@pytest.mark.parametrize(
    ("gpus", "options", "word"),
    [
        (
            [(0, "NVIDIA L4", "8.9", "550.54.14", 1)],
            EngineOptions(runtime="tensorrt", build="docker"),
            "got 550.54.14, expected 580",
        ),
        (
            [(0, "NVIDIA L4", "8.9", "580.95.05", 1), (1, "NVIDIA RTX 4090", "8.9", "580.95.05", 1)],
            EngineOptions(runtime="tensorrt", build="docker"),
            "Add --hardware-compatibility same-compute-capability",
        ),
        ([LISTED_L4], EngineOptions(runtime="tensorrt"), r"tensorrt==11\.1\.0\.106, or add --build docker"),
        (
            [LISTED_L4],
            EngineOptions(runtime="tensorrt", image="mine:1"),
            r"got 11\.4\.0\.106, expected 11\.1\.0\.106, the version in mine:1",
        ),
    ],
)
def test_engines_that_would_not_load_are_refused_before_the_build(
    gpus: list[GpuRow],
    options: EngineOptions,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, gpus)
    fake_docker(monkeypatch, tmp_path, images=[TRITON_IMAGE, "mine:1"], tensorrt="11.1.0.106")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("11.4.0.106"))
    with pytest.raises(EngineError, match=word):
        builders_from(options)


@pytest.mark.parametrize(
    ("options", "images", "tensorrt"),
    [
        (EngineOptions(runtime="tensorrt"), [], ""),
        (EngineOptions(runtime="tensorrt"), [TRITON_IMAGE], ""),
        (EngineOptions(runtime="tensorrt"), [TRITON_IMAGE], "11.4.0.106"),
        (EngineOptions(runtime="tensorrt", version_compatible=True), [TRITON_IMAGE], "11.1.0.106"),
    ],
)
def test_a_build_here_starts_unless_the_image_is_known_to_have_another_version(
    options: EngineOptions, images: list[str], tensorrt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [LISTED_L4])
    fake_docker(monkeypatch, tmp_path, images=images, tensorrt=tensorrt)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("11.4.0.106"))
    monkeypatch.setattr(builders, "CudaDevice", lambda _: HostDevice())
    (builder,) = builders_from(options)
    assert builder.label == "sm89"


def test_docker_is_checked_before_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_nvidia_smi(monkeypatch, tmp_path, [LISTED_L4])
    monkeypatch.setenv("PATH", str(path.parent))
    with pytest.raises(DockerError, match="Docker Engine"):
        builders_from(EngineOptions(runtime="tensorrt", build="docker"))


def test_a_gpu_here_that_rtx_does_not_build_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [(0, "NVIDIA H200", "9.0", "580.95.05", 143771)])
    with pytest.raises(UsageError, match=r"got sm90, expected some of .*sm120"):
        builders_from(EngineOptions(runtime="tensorrt-rtx"))
