"""The image that will serve an export: its TensorRT version, and its release of Triton."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from alexnet_cli.main import run
from alexnet_cli.serve import _check_repository
from alexnet_export.engines import builders
from alexnet_model import Contract
from alexnet_model.errors import RepositoryError, UsageError
from alexnet_model.passport import Profile
from alexnet_model.triton_image import TRITON_IMAGE
from alexnet_pipeline import ExportOptions, ExportResult, export_model, rebuild_engines
from alexnet_serving import lint, packed_export

from ..export.fake_tensorrt import HostDevice, fake_tensorrt
from ..stand_ins.docker import fake_docker
from ..stand_ins.nvidia_smi import GpuRow, fake_nvidia_smi
from ..stand_ins.trtexec import fake_trtexec

OLD_IMAGE = "nvcr.io/nvidia/tritonserver:26.07-py3"
H200: GpuRow = (0, "NVIDIA H200", "9.0", "580.95.05", 143771)


@pytest.fixture(scope="module")
def onnx_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in FP32."""
    folder = tmp_path_factory.mktemp("onnx")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 16 * 3, 3))
    options = ExportOptions(
        name="small",
        classes=("x", "y", "z"),
        contract=Contract(size=16, resize=16),
        precisions=("fp32",),
        max_batch=4,
        out=folder / "export",
        repository=folder / "models",
    )
    export_model(network, options)
    return folder / "export"


@pytest.fixture
def export(onnx_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That export on a machine with a GPU, TensorRT 11.4 and Docker without any image."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_nvidia_smi(monkeypatch, tmp_path, [H200])
    fake_docker(monkeypatch, tmp_path, images=[])
    monkeypatch.setattr(builders, "CudaDevice", lambda _: HostDevice())
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("11.4.0.106"))
    return Path(shutil.copytree(onnx_export, tmp_path / "export"))


def built_here(export: Path, image: str | None = None) -> ExportResult:
    options = ExportOptions(
        runtime="tensorrt",
        profile=Profile(min=1, opt=2, max=4),
        repository=export.parent / "models",
        image=image,
    )
    return export_model(export, options)


def test_a_build_here_says_that_it_was_not_compared_with_an_image_that_is_not_here(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (note,) = built_here(export).notes
    assert f"was not compared with that of {TRITON_IMAGE}, which is not on this machine" in note
    fake_docker(monkeypatch, tmp_path, tensorrt="11.4.0.106")
    assert built_here(export).notes == ()


def test_an_old_image_is_not_given_queue_timeouts(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = built_here(export).repository
    with pytest.raises(RepositoryError, match=r"on Triton 26\.07 a queue timeout.*server#8870") as caught:
        _check_repository(repository, OLD_IMAGE, rebuild_if_needed=True)
    assert f"--image {OLD_IMAGE} --runtime tensorrt --build docker" in caught.value.next_step
    _check_repository(repository, None, rebuild_if_needed=False)
    assert run(["lint", str(repository), "--image", OLD_IMAGE]) == 1
    assert "default_timeout_microseconds: got 1000000, expected 0" in capsys.readouterr().out


def test_the_release_of_the_image_that_will_serve_is_recorded(export: Path) -> None:
    repository = built_here(export, OLD_IMAGE).repository
    assert packed_export(repository).options.triton_release == "26.07"
    assert lint(repository, triton_release="26.07") == lint(repository) == ()
    with pytest.raises(UsageError, match="docker pull mine:latest"):
        export_model(export, ExportOptions(image="mine:latest", repository=export.parent / "models"))


def test_a_rebuild_in_an_old_image_leaves_queue_timeouts_out(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = built_here(export).repository
    fake_trtexec(monkeypatch, tmp_path)
    rebuild_engines(repository, OLD_IMAGE)
    packed = packed_export(repository)
    assert packed.options.triton_release == "26.07"
    assert packed.manifest.artifacts[0].engines[0].passport.image == OLD_IMAGE
    assert lint(repository, triton_release="26.07") == ()
