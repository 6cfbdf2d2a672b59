"""One small export for the tests of this folder."""

from __future__ import annotations

import pytest

from alexnet_model.checkpoint import save_checkpoint
from alexnet_pipeline import ExportOptions, ExportResult, export_model

from ..networks import random_checkpoint


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """From the file of a checkpoint, as on the command line. Tests must not change its folders."""
    folder = tmp_path_factory.mktemp("pipeline") / "in a path with spaces"
    folder.mkdir()
    save_checkpoint(random_checkpoint(), folder / "checkpoint.safetensors")
    options = ExportOptions(
        precisions=("fp32",), max_batch=2, out=folder / "export", repository=folder / "models"
    )
    return export_model(folder / "checkpoint.safetensors", options)
