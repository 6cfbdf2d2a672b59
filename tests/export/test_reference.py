"""PyTorch's outputs are stored, and the gate checks engines that are built later with them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_export import gate_inputs_from_folder
from alexnet_export import reference as reference_module
from alexnet_export.datasets import synthetic_evaluation
from alexnet_export.onnxruntime_runner import OnnxRunner
from alexnet_export.reference import reference_outputs_from_folder, sha256_of_pixels
from alexnet_model.errors import DatasetError, ManifestError
from alexnet_model.files import sha256_of_file
from alexnet_model.manifest import REFERENCE_NAME

from ..conftest import Exported


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.folder, tmp_path / "export"))


def test_gate_inputs_of_a_folder_give_the_same_report(exported: Exported) -> None:
    manifest = exported.manifest
    gate_inputs = gate_inputs_from_folder(exported.folder, manifest)
    assert gate_inputs.evaluated_on == "360 images of digits (test)"
    assert gate_inputs.max_batch == manifest.max_batch == len(gate_inputs.probes)
    fp16 = manifest.artifacts[1]
    again = gate_inputs.brief().report(OnnxRunner(exported.folder / fp16.file, manifest.contract))
    at_export = next(report for report in fp16.reports if report.runtime.name == "onnxruntime")
    assert again.top1 == at_export.top1
    assert again.signal_to_noise_db == pytest.approx(at_export.signal_to_noise_db, abs=0.1)
    assert gate_inputs.decision(again).accepted


def test_gate_inputs_are_read_without_the_import_of_pytorch(exported: Exported) -> None:
    """Each process that judges an engine reads them; the import takes seconds of processor time."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from alexnet_export import gate_inputs_from_folder\n"
        "from alexnet_model.manifest import manifest_from_folder\n"
        "folder = Path(sys.argv[1])\n"
        "gate_inputs_from_folder(folder, manifest_from_folder(folder))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(exported.folder)]).returncode == 0


def test_the_stored_outputs_are_pytorchs(exported: Exported) -> None:
    answers = reference_outputs_from_folder(exported.folder, exported.manifest)
    assert answers.evaluation.shape == (360, 10)
    assert answers.synthetic.shape == (256, 10)
    gate_inputs = gate_inputs_from_folder(exported.folder, exported.manifest)
    assert sha256_of_pixels(gate_inputs.reference.images) == answers.evaluation_pixels_sha256
    right = answers.evaluation.argmax(axis=1) == gate_inputs.reference.labels
    assert right.mean() == exported.manifest.evaluation.pytorch_top1


@pytest.mark.parametrize("why", ["gone", "other images"])
def test_without_the_evaluation_images_synthetic_ones_are_used_and_named(
    why: str, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluation_from(source: str, *arguments: object, **more: object) -> object:
        if why == "gone":
            raise DatasetError(source, got="no such folder", expected="images")
        return synthetic_evaluation(exported.manifest.contract, 8)

    monkeypatch.setattr(reference_module, "evaluation_from", evaluation_from)
    gate_inputs = gate_inputs_from_folder(exported.folder, exported.manifest)
    reason = "no such folder" if why == "gone" else "it holds other images than at export"
    assert gate_inputs.evaluated_on == f"256 synthetic images (not on digits: {reason})"
    assert gate_inputs.reference.labels is None
    runner = OnnxRunner(exported.folder / "alexnet_fp32.onnx", exported.manifest.contract)
    decision = gate_inputs.decision(gate_inputs.report(runner))
    assert decision.accepted
    assert "accuracy not measured" in decision.reason


def test_tolerances_are_those_of_the_export(exported: Exported) -> None:
    strict = exported.manifest.tolerances | {"signal_to_noise_db": 60.0}
    manifest = exported.manifest.model_copy(update={"tolerances": strict})
    gate_inputs = gate_inputs_from_folder(exported.folder, manifest)
    runner = OnnxRunner(exported.folder / "alexnet_int8.onnx", exported.manifest.contract)
    decision = gate_inputs.decision(gate_inputs.report(runner))
    assert not decision.accepted
    assert "at least 60 needed" in decision.reason


@pytest.mark.parametrize("fault", ["missing", "altered", "broken"])
def test_altered_reference_outputs_are_refused(fault: str, folder: Path, exported: Exported) -> None:
    path = folder / REFERENCE_NAME
    manifest = exported.manifest
    content = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if fault == "altered" else b"x" * 64)
    if fault == "broken":  # with a hash to match, as if both had been edited
        manifest = manifest.model_copy(update={"reference_sha256": sha256_of_file(path)})
    with pytest.raises(ManifestError, match=r"reference\.safetensors: got .* Export again"):
        gate_inputs_from_folder(folder, manifest)


def test_the_pixel_hash_depends_on_content_and_order() -> None:
    images = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3)
    assert sha256_of_pixels(images) == sha256_of_pixels(images[:, ::-1][:, ::-1])
    assert sha256_of_pixels(images) != sha256_of_pixels(images[::-1])
