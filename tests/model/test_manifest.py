from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_model import Contract, Manifest, manifest_from_folder
from alexnet_model.errors import ManifestError
from alexnet_model.files import sha256_of_file
from alexnet_model.manifest import (
    MANIFEST_NAME,
    Artifact,
    BatchParity,
    EvaluationRecord,
    GateDecision,
    ModelRecord,
    RunnerReport,
    RuntimeInfo,
    verify_artifact,
    write_manifest,
)

WEIGHTS = "a" * 64


def artifact(folder: Path, precision: Any, *, accepted: bool) -> Artifact:
    path = folder / f"{precision}.onnx"
    path.write_bytes(f"the {precision} model".encode())
    row = BatchParity(
        batch=1,
        against_pytorch_db=90.5,
        against_alone_db=200.0,
        same_top1=True,
        worst_slot=0,
        finite=True,
        probabilities_off=0.0,
    )
    runtime = RuntimeInfo(name="openvino", device="CPU", computes_in="f32", options={"HINT": "f32"})
    return Artifact(
        precision=precision,
        file=path.name,
        size_bytes=path.stat().st_size,
        sha256=sha256_of_file(path),
        weights_sha256=WEIGHTS,
        contract_digest=Contract().digest,
        operators={"Conv": 5, "Gemm": 3},
        reports=(
            RunnerReport(runtime=runtime, parity=(row,), images=8, signal_to_noise_db=90.0, agreement=1.0),
        ),
        decision=GateDecision(accepted=accepted, reason="as good as FP32" if accepted else "too noisy"),
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Written to `tmp_path`, with its files."""
    manifest = Manifest(
        created_at="2026-01-01T00:00:00Z",
        versions={"torch": "2"},
        machine="a CPU, 2 cores",
        model=ModelRecord(
            name="alexnet",
            architecture="alexnet",
            options={"width": 0.1},
            class_names=("a", "b"),
            parameters=5,
            weights_sha256=WEIGHTS,
            training={"data": "digits"},
        ),
        contract=json.loads(Contract().to_json()),
        contract_digest=Contract().digest,
        max_batch=64,
        calibration=None,
        evaluation=EvaluationRecord(
            source="digits",
            part="test",
            images=360,
            images_sha256="b" * 64,
            pytorch_top1=0.975,
            pytorch_top1_interval=(0.95, 0.99),
        ),
        artifacts=(
            artifact(tmp_path, "fp32", accepted=True),
            artifact(tmp_path, "int8", accepted=False),
        ),
    )
    write_manifest(manifest, tmp_path)
    return manifest


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST_NAME
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def refusal(folder: Path) -> str:
    with pytest.raises(ManifestError) as refused:
        manifest_from_folder(folder)
    line = str(refused.value)
    assert line.startswith(str(folder / MANIFEST_NAME))
    assert "\n" not in line
    return line


def test_a_manifest_is_read_as_it_was_written(manifest: Manifest, tmp_path: Path) -> None:
    read = manifest_from_folder(tmp_path)
    assert read == manifest
    assert read.contract == Contract()
    assert [artifact.precision for artifact in read.accepted] == ["fp32"]
    assert read.artifacts[0].served_by.name == "openvino"


def test_the_digest_depends_on_every_value(manifest: Manifest, tmp_path: Path) -> None:
    assert manifest_from_folder(tmp_path).digest == manifest.digest
    edited(tmp_path, lambda values: values["artifacts"][0]["reports"][0]["parity"][0].update(worst_slot=1))
    assert manifest_from_folder(tmp_path).digest != manifest.digest
    (tmp_path / MANIFEST_NAME).write_text(manifest.model_dump_json())
    assert manifest_from_folder(tmp_path).digest == manifest.digest, "independent of white space"


def test_missing(tmp_path: Path) -> None:
    assert "alexnet export" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0"])
def test_broken(manifest: Manifest, tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    refusal(tmp_path)


def test_not_text(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00")
    refusal(tmp_path)


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda values: values["model"].update(name="../flowers"), "model.name"),
        (lambda values: values["model"].update(name="flowers_int8"), "model.name"),
        (lambda values: values.update(model_version=0), "model_version"),
    ],
)
def test_a_name_or_version_that_cannot_be(
    edit: Callable[[Any], None], field: str, manifest: Manifest, tmp_path: Path
) -> None:
    edited(tmp_path, edit)
    assert f"export.json: {field}: got " in refusal(tmp_path)


@pytest.mark.parametrize("version", [1, 4, None, "5"])
def test_another_schema(manifest: Manifest, tmp_path: Path, version: object) -> None:
    edited(tmp_path, lambda values: values.update(schema_version=version))
    line = refusal(tmp_path)
    assert "schema_version" in line
    assert "of schema version 6" in line


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda values: values.pop("machine"), "machine"),
        (lambda values: values.update(extra=1), "extra"),
        (lambda values: values["artifacts"][0].update(precision="fp8"), "artifacts.0.precision"),
        (lambda values: values["evaluation"].update(pytorch_top1="high"), "evaluation.pytorch_top1"),
        (lambda values: values["evaluation"].update(pytorch_top1=float("nan")), "evaluation.pytorch_top1"),
        (lambda values: values["contract"].update(gamma=2.2), "gamma"),
        (lambda values: values["contract"].pop("size"), "size"),
    ],
)
def test_wrong_fields_are_refused(
    manifest: Manifest, tmp_path: Path, edit: Callable[[dict[str, Any]], object], word: str
) -> None:
    edited(tmp_path, edit)
    assert word in refusal(tmp_path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda values: values["model"].update(weights_sha256="c" * 64), ["fp32.onnx", "weights"]),
        (lambda values: values["artifacts"][1].update(weights_sha256="c" * 64), ["int8.onnx", "weights"]),
        (lambda values: values["artifacts"][1].update(contract_digest="c" * 64), ["int8.onnx", "contract"]),
        (lambda values: values.update(contract_digest="c" * 64), ["fp32.onnx", "contract"]),
        (lambda values: values["contract"].update(resize=232), ["fp32.onnx", "contract"]),
    ],
)
def test_a_broken_chain(
    manifest: Manifest, tmp_path: Path, edit: Callable[[dict[str, Any]], object], words: list[str]
) -> None:
    edited(tmp_path, edit)
    line = refusal(tmp_path)
    assert all(word in line for word in [*words, "unbroken chain"])


def test_a_file_is_verified_by_its_bytes(manifest: Manifest, tmp_path: Path) -> None:
    first, second = manifest.artifacts
    assert verify_artifact(first, tmp_path) == tmp_path / "fp32.onnx"
    (tmp_path / "fp32.onnx").write_bytes(b"the fp33 model")
    with pytest.raises(ManifestError, match=rf"fp32\.onnx: got SHA-256 .* expected {first.sha256[:12]}"):
        verify_artifact(first, tmp_path)
    (tmp_path / "int8.onnx").unlink()
    with pytest.raises(ManifestError, match=r"int8\.onnx: got no such file"):
        verify_artifact(second, tmp_path)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        BatchParity(
            batch=1,
            against_pytorch_db=float("inf"),
            against_alone_db=1,
            same_top1=True,
            worst_slot=0,
            finite=True,
            probabilities_off=0.0,
        )


def test_a_path_that_is_not_utf8_is_recorded(manifest: Manifest, tmp_path: Path) -> None:
    """Python has the bytes that are not UTF-8 as surrogates, which pydantic cannot write."""
    source = os.fsdecode(b"/images/caf\xe9")
    evaluation = manifest.evaluation.model_copy(update={"source": source})
    changed = manifest.model_copy(update={"evaluation": evaluation})
    write_manifest(changed, tmp_path)
    assert manifest_from_folder(tmp_path) == changed
    assert json.loads(changed.model_dump_json())["evaluation"]["source"] == source
    assert changed.digest != manifest.digest
