"""A runtime of another distribution: packed, linted and served without a change to this project."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from alexnet_clients import Client
from alexnet_model import runtimes as table
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import RepositoryError, RuntimeNotUsable
from alexnet_model.manifest import Manifest, RuntimeInfo
from alexnet_model.runtimes import ENTRY_POINT_GROUP
from alexnet_model.triton_image import CPU_IMAGE
from alexnet_serving import EmbeddedServer, RepositoryOptions, lint, wheel_of_this_python, write_repository
from alexnet_serving.doctor.checks import check_other_runtimes, jobs
from alexnet_serving.repositories.backends import backends_of_repository, image_for, outside_our_images
from alexnet_serving.servers.tritonserver import assemble_backends

from ..folders import contents_of
from .conftest import Artifacts
from .test_repository import config_of

RUNTIME = """
from alexnet_model.runtimes import Runtime

RUNTIME = Runtime(
    name="first-pixel",
    title="First pixel",
    source="onnx",
    devices=("cpu",),
    runner="first_pixel.runtime:runner",
    backend="first_pixel",
    backend_package="first_pixel.backend",
)
"""
# Its class is the first value of the image, which no network would compute.
BACKEND = """
import numpy as np
from batching import BatchingModel

class TritonPythonModel(BatchingModel):
    def load(self, path, options):
        assert options == {"scale": "1"}

    def infer(self, images):
        rows = np.eye(10, dtype=np.float32)[images[:, 0, 0, 0]]
        return {"probabilities": rows, "logits": rows}
"""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The package of that distribution, on Python's path and in its entry points."""
    package = tmp_path / "site" / "first_pixel"
    (package / "backend").mkdir(parents=True)
    for folder in (package, package / "backend"):
        (folder / "__init__.py").touch()
    (package / "runtime.py").write_text(RUNTIME)
    (package / "backend" / "model.py").write_text(BACKEND)
    monkeypatch.syspath_prepend(str(package.parent))
    point = EntryPoint("first-pixel", "first_pixel.runtime:RUNTIME", ENTRY_POINT_GROUP)
    monkeypatch.setattr(table, "entry_points", lambda group: (point,))
    table._table.cache_clear()
    yield package
    table._table.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "first_pixel"]:
        del sys.modules[name]


def checked_on_it(manifest: Manifest) -> Manifest:
    """The same record with INT8 as checked on that runtime."""
    info = RuntimeInfo(name="first-pixel", device="CPU", computes_in="u8", options={"scale": "1"})
    artifacts = []
    for artifact in manifest.artifacts:
        if artifact.precision == "int8":
            report = artifact.reports[0].model_copy(update={"runtime": info})
            artifact = artifact.model_copy(update={"reports": (report,)})
        artifacts.append(artifact)
    return manifest.model_copy(update={"artifacts": tuple(artifacts)})


def test_its_models_are_packed_and_linted(registered: Path, artifacts: Artifacts, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    options = RepositoryOptions(runtime="first-pixel", encoded=False)
    manifest = checked_on_it(artifacts.manifest)
    assert write_repository(manifest, artifacts.folder, repository, options) == ("alexnet_int8",)
    config = config_of(repository, "alexnet_int8")
    assert config.backend == "first_pixel"
    assert [group.kind for group in config.instance_group] == [ModelInstanceGroup.KIND_CPU]
    assert lint(repository) == ()
    backends = set(backends_of_repository(repository).values())
    assert image_for(backends) == CPU_IMAGE
    assert outside_our_images(backends) == {"first_pixel"}
    (check,) = check_other_runtimes()
    assert (check.status, check.found) == ("ok", "first-pixel")
    assert "export --runtime first-pixel" not in jobs(), "it builds no engine"
    assemble_backends(wheel_of_this_python(), tmp_path / "backends")
    assert set(contents_of(tmp_path / "backends" / "first_pixel")) == {"batching.py", "model.py"}


@pytest.mark.slow
def test_its_models_are_served_embedded(
    registered: Path, artifacts: Artifacts, images: Uint8Array, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_repository(checked_on_it(artifacts.manifest), artifacts.folder, repository)
    batch = images[:3].copy()
    batch[:, 0, 0, 0] = (7, 0, 9)
    with (
        EmbeddedServer(repository) as server,
        Client(server.grpc_url) as client,
    ):
        assert [
            prediction.classes[0].index for prediction in client.classify(list(batch), model="alexnet_int8")
        ] == [7, 0, 9]


def test_only_files_that_were_checked_on_a_named_runtime_are_packed(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    options = RepositoryOptions(runtime="onnxruntime", encoded=False)
    models = tmp_path / "models"
    assert write_repository(artifacts.manifest, artifacts.folder, models, options) == ("alexnet_fp32",)
    assert lint(models) == ()
    only_int8 = artifacts.manifest.model_copy(update={"artifacts": artifacts.manifest.artifacts[2:]})
    with pytest.raises(RepositoryError, match="int8: checked on openvino, not on onnxruntime"):
        write_repository(only_int8, artifacts.folder, models, options)


def test_a_missing_backend_package_is_one_clear_error(
    registered: Path, on_onnxruntime: Path, tmp_path: Path
) -> None:
    (registered / "backend" / "__init__.py").unlink()
    (registered / "backend" / "model.py").unlink()
    (registered / "backend").rmdir()
    with pytest.raises(RuntimeNotUsable, match="first-pixel"), EmbeddedServer(on_onnxruntime):
        pytest.fail("started")
