"""What the slower tests share: a small AlexNet, really trained on digits and really exported, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from alexnet_model.manifest import Manifest


@dataclass(frozen=True)
class Exported:
    """`folder` holds the ONNX files and export.json. Tests copy what they change."""

    checkpoint: Path
    folder: Path
    manifest: Manifest
    repository: Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    from alexnet_export.pipeline import ExportOptions, export
    from alexnet_serving import write_repository
    from alexnet_training import TrainingOptions, train

    root = tmp_path_factory.mktemp("exported")
    checkpoint, folder, repository = root / "small.safetensors", root / "export", root / "model_repository"
    report = train(TrainingOptions(width=0.1, epochs=3), checkpoint)
    manifest = export(report.checkpoint, folder, ExportOptions(calibration="digits", max_batch=8))
    write_repository(manifest, folder, repository)
    return Exported(checkpoint, folder, manifest, repository)
