"""Engines as a user meets them: built, packed, refused on the wrong machine, rebuilt on the right one.

RTX engines are built for real. TensorRT's are built by a stand-in for Docker with ONNX Runtime behind it, on
GPUs that a stand-in for `nvidia-smi` lists; the gate, the repository, lint and every check are the real ones.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from alexnet_cli.main import run
from alexnet_cli.serve import _check_repository
from alexnet_export import OnnxOptions, export_onnx
from alexnet_model.checkpoint import load_checkpoint
from alexnet_model.datasets import splits_from
from alexnet_model.errors import PrecisionRefused, RepositoryError, ServerError
from alexnet_model.manifest import manifest_from_folder
from alexnet_model.passport import passport_of
from alexnet_model.triton_image import TRITON_IMAGE
from alexnet_pipeline import engine_refusal, rebuild_engines, unpacked_export
from alexnet_serving import RepositoryOptions, lint, packed_export, write_repository

from ..conftest import Exported
from ..folders import contents_of
from ..stand_ins.nvidia_smi import L4, GpuRow, fake_nvidia_smi, no_nvidia_smi
from ..stand_ins.trtexec import FakeTrtexec, fake_trtexec

H200: GpuRow = (0, "NVIDIA H200", "9.0", "580.95.05", 143771)
INT8_FROM_DOCKER = (
    *("--precision", "int8", "--profile", "1,2,4"),
    *("--runtime", "tensorrt", "--build", "docker"),
)


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.folder, tmp_path / "export"))


@pytest.fixture
def on_an_h200(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTrtexec:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_nvidia_smi(monkeypatch, tmp_path, [H200])
    return fake_trtexec(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def packed(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT8 as an engine for an H200, packed for Triton's TensorRT backend.

    The gate has 40 images, because each call of the stand-in for Docker starts a process.
    """
    folder = tmp_path_factory.mktemp("packed")
    digits = splits_from("digits").test.sample(200)  # of which a fifth is the test split
    for image in digits.images:
        assert isinstance(image.source, Image.Image)
        path = folder / "digits" / digits.class_names[image.label] / f"{image.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.source.save(path)
    options = OnnxOptions(calibration="digits", evaluation=str(folder / "digits"), max_batch=4)
    export_onnx(load_checkpoint(exported.checkpoint), folder / "export", options)
    shutil.copytree(folder / "export", folder / "without_engines")
    arguments = ["export", str(folder / "export"), *INT8_FROM_DOCKER, "--repository", str(folder / "models")]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        fake_nvidia_smi(monkeypatch, folder, [H200])
        fake_trtexec(monkeypatch, folder)
        assert run(arguments) == 0
    return folder / "models"


@pytest.fixture
def repository(packed: Path, on_an_h200: FakeTrtexec, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "models"))


def test_rtx_engines_are_added_to_an_export(
    exported: Exported,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    no_nvidia_smi(monkeypatch, tmp_path)
    repository = tmp_path / "models"
    arguments = ["export", str(folder), "--runtime", "tensorrt-rtx", "--target", "sm89,sm120"]
    assert run([*arguments, "--repository", str(repository)]) == 0
    shown = capsys.readouterr()
    assert [line for line in shown.out.splitlines() if len(line.rstrip()) > 80] == []
    for artifact in exported.manifest.artifacts:
        engine = folder / f"alexnet_{artifact.precision}.rtx-sm89-sm120.plan"
        assert passport_of(engine).onnx_sha256 == artifact.sha256
        assert engine.name in shown.out
    assert "no GPU here can run" in shown.out
    assert "has the ONNX files, which Triton loads" in " ".join(shown.err.split())
    # What Triton serves is what it served before.
    assert (repository / "alexnet_int8" / "1" / "model.onnx").is_file()
    assert not list(repository.rglob("*.plan"))
    assert lint(repository) == ()


def test_an_engine_from_docker_is_checked_packed_and_passes_lint(repository: Path) -> None:
    assert sorted(contents_of(repository)) == [
        "alexnet.1.export.json",
        "alexnet.1.reference.safetensors",
        "alexnet_int8/1/model.onnx",
        "alexnet_int8/1/model.passport.json",
        "alexnet_int8/1/model.plan",
        "alexnet_int8/config.pbtxt",
        "alexnet_int8/labels.txt",
        "repository.json",
    ]
    assert lint(repository) == ()
    (engine,) = packed_export(repository).manifest.artifacts[2].engines
    assert engine.accepted
    assert engine.report is not None
    assert (engine.report.runtime.name, engine.report.runtime.device) == ("tensorrt", "NVIDIA H200")
    assert engine.passport.image == TRITON_IMAGE
    config = (repository / "alexnet_int8" / "config.pbtxt").read_text()
    assert 'backend: "tensorrt"' in config
    assert "max_batch_size: 4" in config


def test_without_a_queue_size_there_is_no_policy_at_all(
    packed: Path, on_an_h200: FakeTrtexec, tmp_path: Path
) -> None:
    """What an earlier export holds is packed again, with nothing built."""
    assert "default_queue_policy" in (packed / "alexnet_int8" / "config.pbtxt").read_text()
    for size, bounded in (("0", False), ("7", True)):
        repository = tmp_path / f"models_{size}"
        arguments = ["export", str(packed), "--queue-size", size, "--repository", str(repository)]
        assert run(arguments) == 0
        config = (repository / "alexnet_int8" / "config.pbtxt").read_text()
        assert ("default_queue_policy" in config) == bounded
    assert [call for call in on_an_h200.calls if call[0] == "run"] == []


def test_json_has_the_engines(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["export", str(folder), "--runtime", "tensorrt-rtx", "--target", "sm89", "--json"]
    assert run([*arguments, "--precision", "fp16", "--repository", str(tmp_path / "models")]) == 0
    printed = json.loads(capsys.readouterr().out)
    engines = {artifact["precision"]: artifact["engines"] for artifact in printed["artifacts"]}
    assert engines["fp32"] == engines["int8"] == []
    assert engines["fp16"][0]["passport"]["targets"] == ["sm89"]


def test_another_gpu_is_refused_before_the_server_starts(
    repository: Path,
    on_an_h200: FakeTrtexec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [call for call in on_an_h200.calls if call[0] == "run"]
    fake_nvidia_smi(monkeypatch, tmp_path, [L4])
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    assert run(["serve", "--repository", str(repository), *ports]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "got one built for TensorRT 11.1.0.106 on NVIDIA H200 (9.0)" in line
    assert "NVIDIA L4 (8.9" in line
    assert f"alexnet export {repository} --runtime tensorrt --build docker" in line
    assert [call for call in on_an_h200.calls if call[0] == "run"] == before


def test_another_version_of_tensorrt_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_refusal(repository) is None
    fake_trtexec(monkeypatch, tmp_path, tensorrt="11.4.0.106")
    refusal = engine_refusal(repository)
    assert refusal is not None
    assert "TensorRT 11.4.0.106 on NVIDIA H200" in str(refusal)
    assert "--runtime tensorrt --build docker" in str(refusal)


def test_rebuilding_on_another_gpu_keeps_the_first_engine(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = (repository / "alexnet_int8" / "1" / "model.plan").read_bytes()
    fake_nvidia_smi(monkeypatch, tmp_path, [L4])
    assert engine_refusal(repository) is not None
    rebuild_engines(repository)
    assert engine_refusal(repository) is None
    version = repository / "alexnet_int8" / "1"
    assert sorted(path.name for path in version.glob("*.plan")) == ["model_sm89.plan", "model_sm90.plan"]
    assert (version / "model_sm90.plan").read_bytes() == plan
    assert passport_of(version / "model_sm89.plan").gpu_name == "NVIDIA L4"
    assert str(passport_of(version / "model_sm89.plan").profile) == "1,2,4", "as it was built before"
    assert lint(repository) == ()
    assert [path.name for path in repository.parent.iterdir() if path.name.startswith(".")] == []


def test_rebuilding_keeps_other_exports_and_versions(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unpacked_export(repository) as folder:
        packed = packed_export(repository)
        model = packed.manifest.model.model_copy(update={"name": "flowers"})
        flowers = manifest_from_folder(folder).model_copy(update={"model": model})
        second = packed.manifest.model_copy(update={"model_version": 2})
        write_repository(flowers, folder, repository, RepositoryOptions(encoded=False), replace="version")
        write_repository(second, folder, repository, packed.options, replace="version")
    before = contents_of(repository)
    fake_nvidia_smi(monkeypatch, tmp_path, [L4])
    (manifest,) = rebuild_engines(repository)
    assert (manifest.model.name, manifest.model_version) == ("alexnet", 2)
    assert engine_refusal(repository) is None
    after = contents_of(repository)
    stay = [file for file in before if file.startswith(("flowers", "alexnet.1."))]
    assert len(stay) > 5
    assert {file: after.get(file) for file in stay} == {file: before[file] for file in stay}
    assert lint(repository) == ()


def test_serve_rebuilds_engines_only_if_needed_and_requested(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `serve` does before a server is started."""
    before = contents_of(repository)
    _check_repository(repository, None, rebuild_if_needed=True)
    assert contents_of(repository) == before, "it loads here as it is"
    fake_nvidia_smi(monkeypatch, tmp_path, [L4])
    _check_repository(repository, None, rebuild_if_needed=False)
    assert contents_of(repository) == before, "the server will refuse it, with the command"
    _check_repository(repository, None, rebuild_if_needed=True)
    assert "Rebuilding: " in capsys.readouterr().err
    assert engine_refusal(repository) is None
    truncated_plan(repository / "alexnet_int8" / "1", "model_sm90.plan")
    with pytest.raises(RepositoryError, match="Build them again: alexnet export"):
        _check_repository(repository, None, rebuild_if_needed=False)
    (repository / "alexnet_int8" / "labels.txt").write_text("one\n")
    with pytest.raises(RepositoryError, match="Write it again"):
        _check_repository(repository, None, rebuild_if_needed=True)


def test_a_new_engine_that_fails_the_gate_leaves_the_old_one(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents_of(repository)
    fake_nvidia_smi(monkeypatch, tmp_path, [L4])
    fake_trtexec(monkeypatch, tmp_path, nan=True)
    with pytest.raises(PrecisionRefused, match="an output is not finite"):
        rebuild_engines(repository)
    assert contents_of(repository) == before
    assert [path.name for path in repository.parent.iterdir() if path.name.startswith(".")] == []


def test_the_rebuild_command_works_as_printed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that has the repository alone."""
    fake_nvidia_smi(monkeypatch, tmp_path, [L4])
    refusal = engine_refusal(repository)
    assert refusal is not None
    command = refusal.next_step.partition("alexnet ")[2]
    assert "--profile 1,2,4" in command, "as it was built before"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run(shlex.split(command)) == 0
    assert engine_refusal(repository) is None
    assert lint(repository) == ()


def truncated_plan(version: Path, name: str = "model.plan") -> None:
    plan = version / name
    content = plan.read_bytes()
    plan.unlink()
    plan.write_bytes(content[:-7])


def edited_passport(version: Path) -> None:
    passport = version / "model.passport.json"
    passport.write_text(passport.read_text().replace("NVIDIA H200", "NVIDIA L4"))


@pytest.mark.parametrize("alter", [truncated_plan, edited_passport])
def test_a_broken_engine_is_named_with_the_command_that_fixes_it(
    alter: Callable[[Path], None],
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alter(repository / "alexnet_int8" / "1")
    assert run(["lint", str(repository)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    command = line.partition("alexnet ")[2]
    assert command.startswith("export")
    assert "--profile 1,2,4" in command
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run(shlex.split(command)) == 0
    assert "Left out" in capsys.readouterr().err
    assert lint(repository) == ()
    assert list(elsewhere.iterdir()) == [], "nothing else was written"


def test_a_broken_engine_is_rebuilt(repository: Path) -> None:
    truncated_plan(repository / "alexnet_int8" / "1")
    rebuild_engines(repository)
    assert lint(repository) == ()


def test_an_old_driver_is_no_reason_to_rebuild(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(monkeypatch, tmp_path, [(0, "NVIDIA H200", "9.0", "550.54.14", 143771)])
    with pytest.raises(ServerError, match=r"driver of NVIDIA H200: got 550\.54\.14, expected 580"):
        engine_refusal(repository)


def test_a_refused_engine_that_was_requested_by_name_exits_1(
    packed: Path,
    on_an_h200: FakeTrtexec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_trtexec(monkeypatch, tmp_path, nan=True)
    folder = shutil.copytree(packed.parent / "without_engines", tmp_path / "export")
    assert run(["export", str(folder), *INT8_FROM_DOCKER, "--repository", str(tmp_path / "models")]) == 1
    shown = capsys.readouterr()
    assert "REFUSED" in shown.out
    assert "an output is not finite" in shown.err.splitlines()[-1]
    assert not (tmp_path / "models").exists()
