"""`export_model` as a Python program calls it: sources, options, results, and early refusals."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_cli.main import run
from alexnet_export import Tolerances
from alexnet_model.contract import Contract
from alexnet_model.errors import ExportError, RepositoryError, UsageError
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_pipeline import ExportOptions, ExportResult, export_model, unpacked_export
from alexnet_pipeline import model_export as module
from alexnet_serving import lint, packed_export

from ..folders import contents_of
from ..networks import random_checkpoint


def options_in(folder: Path, **more: Any) -> ExportOptions:
    defaults: dict[str, Any] = {"precisions": ("fp32",), "max_batch": 2}
    return ExportOptions(out=folder / "export", repository=folder / "models", **{**defaults, **more})


def test_the_result_describes_what_was_written(result: ExportResult) -> None:
    assert result.folder is not None
    assert manifest_from_folder(result.folder) == result.manifest == packed_export(result.repository).manifest
    assert result.models == ("alexnet", "alexnet_decode", "alexnet_fp32")
    assert result.refused == ()
    assert result.left_out == ()
    assert shlex.split(result.next_command) == ["alexnet", "serve", "--repository", str(result.repository)]
    assert lint(result.repository) == ()


def test_an_earlier_export_is_packed_again_without_conversion(
    result: ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "export_onnx", None)
    assert result.folder is not None
    again = export_model(result.folder, ExportOptions(repository=tmp_path / "models", encoded=False))
    assert again.folder == result.folder
    assert again.models == ("alexnet_fp32",)
    assert again.manifest == result.manifest


def test_a_repository_is_packed_again_by_a_temporary_folder(result: ExportResult, tmp_path: Path) -> None:
    before = contents_of(result.repository)
    again = export_model(result.repository, ExportOptions(repository=tmp_path / "models", queue_size=7))
    assert again.folder is None
    assert again.manifest.artifacts == result.manifest.artifacts
    assert "max_queue_size: 7" in (tmp_path / "models" / "alexnet_fp32" / "config.pbtxt").read_text()
    assert contents_of(result.repository) == before
    assert not [path for path in result.repository.parent.iterdir() if path.name.startswith(".")]


def test_a_repository_is_unpacked_to_the_folder_that_is_named(result: ExportResult, tmp_path: Path) -> None:
    options = ExportOptions(out=tmp_path / "export", repository=tmp_path / "models")
    again = export_model(result.repository, options)
    assert again.folder == tmp_path / "export"
    assert manifest_from_folder(tmp_path / "export").artifacts == result.manifest.artifacts


def test_an_unpacked_export_is_gone_after_the_with(result: ExportResult) -> None:
    with unpacked_export(result.repository) as folder:
        assert manifest_from_folder(folder).artifacts == result.manifest.artifacts
        assert folder.is_relative_to(result.repository.parent)
    assert not folder.exists()


def test_what_the_gate_refuses_is_in_the_result(tmp_path: Path) -> None:
    seen: list[Manifest] = []
    strict = options_in(tmp_path, precisions=("fp32", "fp16"), tolerances=Tolerances(signal_to_noise_db=90))
    result = export_model(random_checkpoint(), strict, on_checked=seen.append)
    (refusal,) = result.refused
    assert (refusal.precision, refusal.file, refusal.is_engine) == ("fp16", "alexnet_fp16.onnx", False)
    assert "at least 90 needed" in refusal.reason
    assert "alexnet_fp16" not in result.models
    assert seen == [result.manifest]


def test_the_record_is_given_before_a_repository_without_models_is_refused(tmp_path: Path) -> None:
    seen: list[Manifest] = []
    impossible = options_in(tmp_path, tolerances=Tolerances(signal_to_noise_db=300))
    with pytest.raises(RepositoryError, match="no accepted precision"):
        export_model(random_checkpoint(), impossible, on_checked=seen.append)
    assert not seen[0].accepted
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "pytorch"}, "runtime: got 'pytorch', expected one of openvino, onnxruntime, tensorrt"),
        ({"build": "docker"}, "build: got the runtime openvino, which builds no engine"),
        ({"runtime": "onnxruntime", "targets": ("sm89",)}, "target: got the runtime onnxruntime"),
        ({"runtime": "tensorrt", "targets": ("sm89",)}, "for the GPU of the machine it runs on"),
        ({"runtime": "tensorrt-rtx", "build": "docker"}, "Triton's image builds TensorRT engines only"),
        ({"max_batch": 0}, "max batch: got 0"),
        ({"precisions": ()}, "precision: got none"),
        ({"queue_size": -1}, "queue size"),
    ],
)
def test_options_that_cannot_be_are_refused_on_construction(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ExportOptions(**options)


def test_a_checkpoint_has_its_own_contract(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contract: got one for a checkpoint, which holds its own"):
        export_model(random_checkpoint(), options_in(tmp_path, contract=Contract(size=240)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"calibration": "digits"}, "calibration: got the folder"),
        ({"contract": Contract(size=96)}, "contract: got the folder"),
        ({"max_batch": 4}, "max batch: got the folder"),
        ({"tolerances": Tolerances()}, "max top-1 drop: got the folder"),
        ({"runtime": "onnxruntime"}, "runtime onnxruntime: got an export for openvino"),
        ({"runtime": "tensorrt-rtx"}, "out: got none, with the repository"),
    ],
)
def test_options_that_do_not_go_with_an_earlier_export(
    result: ExportResult, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        export_model(result.repository, ExportOptions(repository=tmp_path / "models", **options))


def test_foreign_folders_are_refused_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "thesis.tex").touch()
    options = options_in(tmp_path)
    with pytest.raises(ExportError, match=r"got a folder that holds thesis\.tex"):
        export_model("missing.safetensors", options)
    (tmp_path / "export").rename(tmp_path / "models")
    with pytest.raises(RepositoryError, match=r"got a folder that holds thesis\.tex"):
        export_model("missing.safetensors", options)
    with pytest.raises(UsageError, match="neither inside the other"):
        export_model("missing.safetensors", replace(options, repository=tmp_path / "export" / "models"))


def test_folders_that_cannot_be_written_are_refused_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="file/export: got not a directory, expected a folder that can be"):
        export_model("missing.safetensors", options_in(tmp_path / "file"))
    options = replace(options_in(tmp_path), repository=tmp_path / "file" / "models")
    with pytest.raises(RepositoryError, match="file/models: got not a directory"):
        export_model("missing.safetensors", options)


def test_too_little_space_is_found_before_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**5))
    monkeypatch.setattr(module, "export_onnx", None)
    with pytest.raises(ExportError, match=r"export: got 0 MB are free, and at least \d+ MB are needed"):
        export_model(random_checkpoint(), options_in(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_serving_the_folder_of_an_export_offers_the_command_that_packs_it(
    result: ExportResult, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = result.folder
    assert folder is not None
    for command in (["serve", "--repository"], ["lint"], ["tune", "--limit-p99-ms", "50", "--repository"]):
        assert run([*command, str(folder)]) == 1
        error = capsys.readouterr().err
        assert "got the folder of an export, which Triton cannot load" in error
        words = ["alexnet", "export", str(folder), "--repository", str(folder.parent / "model_repository")]
        assert f"Pack it: {shlex.join(words)}" in error
