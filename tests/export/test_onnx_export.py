"""The whole export of a small trained network, and what an interrupt or a bad model leaves behind."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_export import (
    OnnxOptions,
    Tolerances,
    data_trained_on,
    export_onnx,
    raise_if_refused,
    refusals_of,
)
from alexnet_model.checkpoint import Checkpoint, load_checkpoint
from alexnet_model.errors import CalibrationError, ExportError, PrecisionRefused, UsageError
from alexnet_model.files import sha256_of_file
from alexnet_model.manifest import Manifest, manifest_from_folder

from ..conftest import Exported
from ..folders import contents_of
from ..networks import SMALL, random_checkpoint


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(contract=SMALL)


@pytest.fixture(scope="module")
def trained(exported: Exported) -> Checkpoint:
    return load_checkpoint(exported.checkpoint)


@pytest.fixture(scope="module")
def earlier_export(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("earlier") / "out"
    export_onnx(checkpoint, out, OnnxOptions(precisions=("fp32",), max_batch=1))
    return out


def test_three_precisions_are_accepted_and_recorded(exported: Exported) -> None:
    manifest = exported.manifest
    assert [artifact.precision for artifact in manifest.accepted] == ["fp32", "fp16", "int8"]
    assert manifest_from_folder(exported.folder) == manifest
    for artifact in manifest.artifacts:
        path = exported.folder / artifact.file
        assert artifact.sha256 == sha256_of_file(path)
        assert artifact.size_bytes == path.stat().st_size
        assert [report.runtime.name for report in artifact.reports] == ["openvino", "onnxruntime"]
        assert [row.batch for row in artifact.reports[0].parity] == [1, 2, 3, 8, 16]
        assert [row.batch for row in artifact.reports[1].parity] == [1, 2, 3, 8]
        assert [report.images for report in artifact.reports] == [360, 64]
    assert manifest.calibration is not None
    assert manifest.calibration.in_evaluation_too == ()
    assert manifest.evaluation.images == 360
    assert manifest.evaluation.pytorch_top1 is not None
    assert manifest.evaluation.pytorch_top1 > 0.8


def test_int8_is_small_and_computes_in_integers(exported: Exported) -> None:
    fp32, fp16, int8 = exported.manifest.artifacts
    assert int8.size_bytes < 0.3 * fp32.size_bytes
    assert fp16.size_bytes < 0.55 * fp32.size_bytes
    assert int8.served_by.computes_in == "i8"
    assert fp32.served_by.computes_in == "f32"


def test_one_precision_writes_one_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_onnx(checkpoint, tmp_path / "out", OnnxOptions(precisions=("fp16",), max_batch=2))
    assert sorted(contents_of(tmp_path / "out")) == [
        "alexnet_fp16.onnx",
        "export.json",
        "reference.safetensors",
    ]


def test_the_name_is_in_the_files_and_the_record(checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = OnnxOptions(precisions=("fp32",), max_batch=1, name="flowers", model_version=3)
    manifest = export_onnx(checkpoint, tmp_path / "out", options)
    assert "flowers_fp32.onnx" in contents_of(tmp_path / "out")
    assert (manifest.model.name, manifest.model_version) == ("flowers", 3)
    export_onnx(checkpoint, tmp_path / "out", replace(options, name=None))
    assert [file for file in contents_of(tmp_path / "out") if file.endswith(".onnx")] == ["alexnet_fp32.onnx"]


def test_without_images_there_is_no_int8_and_no_accuracy(checkpoint: Checkpoint, tmp_path: Path) -> None:
    manifest = export_onnx(checkpoint, tmp_path / "out", OnnxOptions(max_batch=2))
    assert [artifact.precision for artifact in manifest.artifacts] == ["fp32", "fp16"]
    assert manifest.evaluation.source == "synthetic"
    assert manifest.evaluation.pytorch_top1 is None
    assert all("accuracy not measured" in artifact.decision.reason for artifact in manifest.artifacts)


def test_int8_requested_without_images_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no calibration images"):
        export_onnx(checkpoint, tmp_path / "out", OnnxOptions(precisions=("int8",)))
    assert not (tmp_path / "out").exists()


def test_a_refused_precision_is_recorded_but_not_accepted(trained: Checkpoint, tmp_path: Path) -> None:
    options = OnnxOptions(calibration="digits", max_batch=2, tolerances=Tolerances(signal_to_noise_db=60))
    manifest = export_onnx(trained, tmp_path / "out", options)
    assert [artifact.precision for artifact in manifest.accepted] == ["fp32", "fp16"]
    raise_if_refused(refusals_of(manifest), ("fp32",))
    with pytest.raises(PrecisionRefused, match="dB above their error"):
        raise_if_refused(refusals_of(manifest), ("fp32", "int8"))


class Fault:
    """Raises at the given stage of an export, as Ctrl-C or a full disk would."""

    def __init__(self, stage: str, done: int, error: BaseException) -> None:
        self._stage, self._done, self._error = stage, done, error

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage == self._stage and done == self._done:
            raise self._error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize(("stage", "done"), [("converting", 1), ("checking", 1)])
def test_an_interrupt_leaves_the_previous_export_unchanged(
    checkpoint: Checkpoint,
    earlier_export: Path,
    tmp_path: Path,
    stage: str,
    done: int,
    error: BaseException,
) -> None:
    out = Path(shutil.copytree(earlier_export, tmp_path / "out"))
    before = contents_of(out)
    with pytest.raises(type(error)):
        export_onnx(checkpoint, out, OnnxOptions(max_batch=1), progress=Fault(stage, done, error))
    assert contents_of(out) == before
    assert list(tmp_path.iterdir()) == [out], "nothing half-written is left beside it"


def test_a_folder_that_is_not_an_export_is_never_replaced(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match=r"a folder that holds thesis\.tex"):
        export_onnx(checkpoint, tmp_path, OnnxOptions())
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(ExportError, match=r"a folder that holds thesis\.tex"):
        export_onnx(checkpoint, tmp_path, OnnxOptions())
    with pytest.raises(ExportError, match=r"thesis\.tex: got a file"):
        export_onnx(checkpoint, tmp_path / "thesis.tex", OnnxOptions())
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("max_batch", [0, -1, 2000])
def test_impossible_batches_are_usage_errors(max_batch: int) -> None:
    with pytest.raises(UsageError, match="max batch"):
        OnnxOptions(max_batch=max_batch)


def test_the_default_calibration_set_is_the_training_data(trained: Checkpoint, tmp_path: Path) -> None:
    def trained_on(data: object) -> Checkpoint:
        return Checkpoint(**{**vars(trained), "training": {"data": data}})

    assert data_trained_on(trained) == "digits"
    assert data_trained_on(trained_on(str(tmp_path))) == str(tmp_path)
    assert data_trained_on(trained_on(str(tmp_path / "gone"))) is None
    assert data_trained_on(trained_on("imagenet")) is None


def test_other_weights_give_another_hash_chain(
    checkpoint: Checkpoint, earlier_export: Path, tmp_path: Path
) -> None:
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    weights["classifier.6.bias"] += torch.ones(())
    changed = Checkpoint(**{**vars(checkpoint), "weights": weights})
    manifest: Manifest = export_onnx(
        changed, tmp_path / "out", OnnxOptions(precisions=("fp32",), max_batch=1)
    )
    earlier = manifest_from_folder(earlier_export)
    assert manifest.model.weights_sha256 != earlier.model.weights_sha256
    assert manifest.artifacts[0].sha256 != earlier.artifacts[0].sha256
