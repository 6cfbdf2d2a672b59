"""A small network's real ONNX files under a hand-made record, and one real server for the session.

FP32 is served by ONNX Runtime and INT8 by OpenVINO, so that one server tries both backends; FP16 was refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from alexnet_export.convert import int8_from_onnx, onnx_from_checkpoint
from alexnet_model.class_names import DIGITS
from alexnet_model.contract import Uint8Array
from alexnet_model.files import sha256_of_file
from alexnet_model.manifest import (
    Artifact,
    EvaluationRecord,
    GateDecision,
    Manifest,
    ModelRecord,
    Precision,
    RunnerReport,
    RuntimeInfo,
)
from alexnet_serving import EmbeddedServer, write_repository

from ..networks import random_checkpoint

MAX_BATCH = 8
ENCODED = ("alexnet", "alexnet_decode")
ONNXRUNTIME = RuntimeInfo(
    name="onnxruntime", device="CPU", computes_in="f32", options={"session.dynamic_block_base": "4"}
)
OPENVINO = RuntimeInfo(
    name="openvino", device="CPU", computes_in="i8", options={"INFERENCE_PRECISION_HINT": "f32"}
)


@dataclass(frozen=True)
class Artifacts:
    manifest: Manifest
    folder: Path


@pytest.fixture(scope="session")
def images() -> Uint8Array:
    return np.random.default_rng(0).integers(0, 256, (4 * MAX_BATCH, 224, 224, 3), np.uint8)


@pytest.fixture(scope="session")
def artifacts(images: Uint8Array, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    checkpoint = random_checkpoint()
    folder = tmp_path_factory.mktemp("artifacts")
    onnx_from_checkpoint(checkpoint, folder / "fp32.onnx", max_batch=MAX_BATCH)
    int8_from_onnx(folder / "fp32.onnx", folder / "int8.onnx", images)

    def artifact(precision: Precision, file: str, runtime: RuntimeInfo, *, accepted: bool = True) -> Artifact:
        return Artifact(
            precision=precision,
            file=file,
            size_bytes=(folder / file).stat().st_size,
            sha256=sha256_of_file(folder / file),
            weights_sha256=checkpoint.weights_sha256,
            contract_digest=checkpoint.contract.digest,
            operators={},
            reports=(
                RunnerReport(runtime=runtime, parity=(), images=8, signal_to_noise_db=60.0, agreement=1.0),
            ),
            decision=GateDecision(accepted=accepted, reason="accepted" if accepted else "refused"),
        )

    manifest = Manifest(
        created_at="2026-01-01T00:00:00+00:00",
        versions={},
        machine="a machine",
        model=ModelRecord(
            name="alexnet",
            architecture="alexnet",
            options={"width": 0.1},
            class_names=DIGITS,
            parameters=1,
            weights_sha256=checkpoint.weights_sha256,
            training={},
        ),
        contract=json.loads(checkpoint.contract.to_json()),
        contract_digest=checkpoint.contract.digest,
        max_batch=MAX_BATCH,
        calibration=None,
        evaluation=EvaluationRecord(
            source="random",
            part="test",
            images=1,
            images_sha256="0" * 64,
            pytorch_top1=None,
            pytorch_top1_interval=None,
        ),
        artifacts=(
            artifact("fp32", "fp32.onnx", ONNXRUNTIME),
            artifact("fp16", "fp32.onnx", OPENVINO, accepted=False),
            artifact("int8", "int8.onnx", OPENVINO),
        ),
    )
    return Artifacts(manifest, folder)


@pytest.fixture
def repository(artifacts: Artifacts, tmp_path: Path) -> Path:
    """A fresh one, which a test may break."""
    path = tmp_path / "model_repository"
    write_repository(artifacts.manifest, artifacts.folder, path)
    return path


@pytest.fixture
def on_onnxruntime(repository: Path) -> Path:
    """What NVIDIA's stock image serves too."""
    for model in ("alexnet_int8", *ENCODED):
        shutil.rmtree(repository / model)
    return repository


def add_junk(repository: Path) -> None:
    """Add what operating systems, network drives and notebooks write into folders for themselves."""
    for folder in ("lost+found", "@eaDir", ".Trash-1000", "alexnet_int8/@eaDir", "alexnet_int8/1/.snapshot"):
        (repository / folder).mkdir()
    for file in (".DS_Store", "._config.pbtxt", "Thumbs.db", "@eaDir/labels.txt@SynoEAStream"):
        (repository / file).write_bytes(b"\0\0\0\1Bud1")
        (repository / "alexnet_int8" / file).write_bytes(b"\0\0\0\1Bud1")
    (repository / "alexnet_int8" / "1" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


@pytest.fixture(scope="session")
def server(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    # Spaces, quotes, a stray file and what systems write into folders: none of them may trouble Triton.
    path = tmp_path_factory.mktemp("served") / "it's a repository; $HOME"
    write_repository(artifacts.manifest, artifacts.folder, path)
    (path / "README.md").write_text("a stray file")
    add_junk(path)
    with EmbeddedServer(path) as server:
        yield server
