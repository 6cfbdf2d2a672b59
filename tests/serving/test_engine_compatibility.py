"""Whether an engine loads on a target, by its passport, and the errors if not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.errors import EngineRefused, ServerError
from alexnet_model.gpus import Gpu
from alexnet_model.triton_image import CPU_IMAGE
from alexnet_serving import EngineTarget, RepositoryOptions, check_engines, write_repository
from alexnet_serving.engine_compatibility import engine_for, reason_to_refuse

from ..folders import contents_of
from .conftest import Artifacts
from .recorded_engines import H200, L4, TENSORRT, engine_of, with_engines, with_engines_of

ENGINES = RepositoryOptions(runtime="tensorrt")
H100 = replace(H200, name="NVIDIA H100 80GB HBM3")
T4 = replace(L4, name="Tesla T4", compute_capability="7.5")
B200 = replace(H200, name="NVIDIA B200", compute_capability="10.0")
HERE = EngineTarget(tensorrt_version=TENSORRT, gpu=H200)


def on(gpu: Gpu, version: str | None = TENSORRT) -> EngineTarget:
    return EngineTarget(tensorrt_version=version, gpu=gpu)


@pytest.mark.parametrize(
    ("passport", "target", "reason"),
    [
        ({}, HERE, ""),
        # Nothing is known of the server's version: the GPU alone decides.
        ({"runtime_version": "10.12.0.36"}, on(H200, None), ""),
        ({}, on(L4, None), "runs on NVIDIA H200 only"),
        # Version: its own, down to the build number.
        ({}, on(H200, "11.1.0.107"), "loads only its own engines"),
        ({}, on(H200, "11.2.1.2"), "TensorRT 11.2.1.2 loads only its own engines"),
        ({"version_compatible": True}, on(H200, "11.2.1.2"), ""),
        ({"version_compatible": True}, on(H200, "11.0.0.114"), "needs TensorRT 11.1.0.106 or newer"),
        (
            {"version_compatible": True},
            on(H200, "12.0.0.1"),
            "does not cover the step from TensorRT 11 to 12",
        ),
        ({"version_compatible": True, "runtime_version": "10.12.0.36"}, HERE, ""),
        ({"version_compatible": True, "runtime_version": "10.12.0.36"}, on(H200, "10.9.0.1"), "or newer"),
        ({"version_compatible": True, "runtime_version": "8.6.1.6"}, on(H200, "10.16.1.11"), ""),
        ({"version_compatible": True, "runtime_version": "8.6.1.6"}, HERE, "from TensorRT 8 to 11"),
        ({"runtime_version": "10.12.0.36"}, HERE, "loads only its own engines"),
        # GPU: its own model.
        ({}, on(L4), "runs on NVIDIA H200 only"),
        ({}, on(H100), "runs on NVIDIA H200 only"),
        ({"hardware_compatibility": "same-compute-capability"}, on(H100), ""),
        ({"hardware_compatibility": "same-compute-capability"}, on(L4), "needs compute capability 9.0"),
        ({"hardware_compatibility": "ampere-plus"}, on(L4), ""),
        ({"hardware_compatibility": "ampere-plus"}, on(B200), ""),
        ({"hardware_compatibility": "ampere-plus"}, on(T4), "needs an Ampere GPU or newer"),
        # One kind of compatibility is not the other.
        ({"version_compatible": True}, on(L4), "runs on NVIDIA H200 only"),
        ({"hardware_compatibility": "ampere-plus"}, on(L4, "11.2.1.2"), "loads only its own engines"),
        # Driver, by number and not by letter.
        ({}, on(replace(H200, driver="575.57.08")), "driver 575.57.08 is too old, at least 580"),
        ({}, on(replace(H200, driver="1000.1")), ""),
        ({}, on(replace(H200, driver="")), "too old"),
        # RTX: no backend, wherever.
        (
            {"runtime": "tensorrt-rtx", "gpu_name": None, "compute_capability": None, "targets": ("sm89",)},
            HERE,
            "no backend for TensorRT-RTX",
        ),
    ],
)
def test_rules(
    passport: dict[str, Any], target: EngineTarget, reason: str, artifacts: Artifacts, tmp_path: Path
) -> None:
    engine = engine_of(artifacts.manifest.artifacts[0], tmp_path, **passport)
    refused = reason_to_refuse(engine.passport, target)
    assert bool(refused) == bool(reason)
    assert reason in refused


def test_of_several_engines_triton_takes_the_one_for_the_compute_capability(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    (fp32, *_) = artifacts.manifest.artifacts
    hopper, ada = engine_of(fp32, tmp_path, H200), engine_of(fp32, tmp_path, L4)
    several = {"model_sm90.plan": hopper, "model_sm89.plan": ada}
    assert engine_for(several, on(H200)) == hopper
    assert engine_for(several, on(H100)) == hopper, "right or not: it is what Triton will try"
    assert engine_for(several, on(L4)) == ada
    assert engine_for(several, on(B200)) is None
    assert engine_for({"model.plan": hopper}, on(B200)) == hopper


class TestBeforeWriting:
    def test_engines_for_here_are_packed(self, artifacts: Artifacts, tmp_path: Path) -> None:
        export = with_engines(artifacts, tmp_path / "export", H200, L4)
        targets = [on(H200), on(L4)]
        write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES, targets=targets)

    def test_a_driver_that_is_too_old_is_no_engines_fault(self, artifacts: Artifacts, tmp_path: Path) -> None:
        export = with_engines(artifacts, tmp_path / "export")
        old = on(replace(H200, driver="550.1"))
        with pytest.raises(
            ServerError, match=r"driver of NVIDIA H200: got 550\.1, expected 580 or newer"
        ) as caught:
            write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES, targets=[old])
        assert "Build it" not in str(caught.value)
        assert not (tmp_path / "models").exists()

    @pytest.mark.parametrize("target", [on(L4), on(H200, "11.2.1.2")])
    def test_engines_for_elsewhere_are_not(
        self, target: EngineTarget, artifacts: Artifacts, tmp_path: Path
    ) -> None:
        export = with_engines(artifacts, tmp_path / "export")
        with pytest.raises(
            EngineRefused, match="Build it: alexnet export CHECKPOINT --runtime tensorrt --build docker"
        ):
            write_repository(
                export.manifest, export.folder, tmp_path / "models", ENGINES, targets=[HERE, target]
            )
        assert not (tmp_path / "models").exists()

    def test_what_is_not_packed_is_not_looked_at(self, artifacts: Artifacts, tmp_path: Path) -> None:
        """A refused precision's engine, and any engine where ONNX files are packed."""
        export = with_engines(artifacts, tmp_path / "export")
        int8 = engine_of(export.manifest.artifacts[2], export.folder, accepted=False, gpu_name="NVIDIA A30")
        fp16 = engine_of(export.manifest.artifacts[1], export.folder, gpu_name="NVIDIA A30")
        manifest = with_engines_of(with_engines_of(export.manifest, "int8", int8), "fp16", fp16)
        repository = tmp_path / "models"
        packed = write_repository(manifest, export.folder, repository, ENGINES, targets=[HERE])
        assert packed == ("alexnet_fp32",)
        check_engines(repository, [HERE])
        write_repository(manifest, export.folder, repository, targets=[on(T4, "8.6.1.6")])


class TestOfARepository:
    def test_its_engines_load_where_they_were_built(self, artifacts: Artifacts, tmp_path: Path) -> None:
        export = with_engines(artifacts, tmp_path / "export", H200, L4)
        write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
        check_engines(tmp_path / "models", [on(H200), on(L4)])
        check_engines(tmp_path / "models", [])

    def test_the_message_has_versions_gpus_and_the_command(
        self, artifacts: Artifacts, tmp_path: Path
    ) -> None:
        export = with_engines(artifacts, tmp_path / "export")
        repository = tmp_path / "models"
        write_repository(export.manifest, export.folder, repository, ENGINES)
        before = contents_of(repository)
        with pytest.raises(EngineRefused) as caught:
            check_engines(repository, [HERE, on(L4)])
        assert str(caught.value) == (
            f"{repository}: fp32 engine: got one built for TensorRT 11.1.0.106 on NVIDIA H200 (9.0), "
            "expected one for TensorRT 11.1.0.106 on NVIDIA L4 (8.9, driver 580.95.05) "
            "(it runs on NVIDIA H200 only). "
            f"Build it: alexnet export {repository} --runtime tensorrt --build docker "
            f"--repository {repository} --profile 1,8,8"
        )
        assert contents_of(repository) == before

    def test_the_command_builds_in_the_image_that_serves(self, artifacts: Artifacts, tmp_path: Path) -> None:
        export = with_engines(artifacts, tmp_path / "export")
        write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
        for image, option in ((CPU_IMAGE, ""), ("mine:1", "--image mine:1 ")):
            with pytest.raises(EngineRefused) as caught:
                check_engines(tmp_path / "models", [replace(on(L4), image=image)])
            assert f"--build docker {option}--repository" in str(caught.value)

    def test_of_several_engines_none_is_for_this_gpu(self, artifacts: Artifacts, tmp_path: Path) -> None:
        """Also not one that could load there: Triton chooses by compute capability."""
        portable = {"hardware_compatibility": "ampere-plus"}
        export = with_engines(artifacts, tmp_path / "export", H200, L4, **portable)  # type: ignore[arg-type]
        write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
        with pytest.raises(EngineRefused, match=r"none of them is for compute capability 10\.0") as caught:
            check_engines(tmp_path / "models", [on(B200)])
        assert "NVIDIA H200 (9.0) and one for TensorRT 11.1.0.106 on NVIDIA L4 (8.9)" in str(caught.value)

    def test_onnx_files_do_not_depend_on_tensorrt(self, artifacts: Artifacts, tmp_path: Path) -> None:
        export = with_engines(artifacts, tmp_path / "export")
        write_repository(export.manifest, export.folder, tmp_path / "models")
        check_engines(tmp_path / "models", [on(T4, "8.6.1.6")])
