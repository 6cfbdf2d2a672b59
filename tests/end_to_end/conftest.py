"""One small exported network, and one real Triton server that serves it for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alexnet_clients import Client
from alexnet_export import OnnxOptions, Tolerances, export_onnx
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_serving import EmbeddedServer, RepositoryOptions, write_repository

from ..conftest import once_per_run
from ..networks import random_checkpoint

# Random weights agree less in INT8 than trained ones do; the gate is tested elsewhere.
NO_TOLERANCES = Tolerances(signal_to_noise_db=0.0, agreement=0.0, top1_drop=1.0)


@dataclass(frozen=True)
class Exported:
    manifest: Manifest
    folder: Path

    def repository(self, path: Path) -> Path:
        write_repository(self.manifest, self.folder, path)
        return path

    def repository_of_fp32(self, path: Path, **changes: Any) -> Path:
        """Write a repository with the model `alexnet_fp32` alone, whose server starts in a third of the time.

        Args:
            path: The repository's folder.
            changes: Fields of the manifest that differ, or `queue_size`.
        """
        options = RepositoryOptions(encoded=False, queue_size=changes.pop("queue_size", None))
        fp32 = [artifact for artifact in self.manifest.artifacts if artifact.precision == "fp32"]
        changed = self.manifest.model_copy(update={"artifacts": tuple(fp32), **changes})
        write_repository(changed, self.folder, path, options)
        return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    options = OnnxOptions(calibration="digits", max_batch=16, tolerances=NO_TOLERANCES)
    folder = once_per_run(
        tmp_path_factory, "random-export", lambda new: export_onnx(random_checkpoint(), new, options)
    )
    return Exported(manifest_from_folder(folder), folder)


@pytest.fixture(scope="session")
def server(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = exported.repository(tmp_path_factory.mktemp("served") / "model_repository")
    with EmbeddedServer(repository) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    with Client(server.grpc_url) as client:
        yield client
