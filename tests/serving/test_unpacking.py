"""From a repository back to an export, and to the same repository again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.errors import ManifestError, RepositoryError
from alexnet_model.manifest import manifest_from_folder, verify_artifact, verify_engine, write_manifest
from alexnet_serving import (
    RepositoryOptions,
    is_repository,
    packed_export,
    unpack_repository,
    write_repository,
)

from ..folders import contents_of
from .conftest import Artifacts
from .recorded_engines import H200, L4, engine_of, with_engines, with_engines_of

ENGINES = RepositoryOptions(runtime="tensorrt")


@pytest.fixture
def export(artifacts: Artifacts, tmp_path: Path) -> Artifacts:
    return with_engines(artifacts, tmp_path / "export", H200, L4)


@pytest.fixture
def repository(export: Artifacts, tmp_path: Path) -> Path:
    write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
    return tmp_path / "models"


def test_an_export_without_what_was_refused(repository: Path, export: Artifacts, tmp_path: Path) -> None:
    manifest = unpack_repository(repository, tmp_path / "out" / "export")
    accepted = export.manifest.model_copy(update={"artifacts": export.manifest.accepted})
    assert manifest == accepted == manifest_from_folder(tmp_path / "out" / "export")
    unpacked, packed = contents_of(tmp_path / "out" / "export"), contents_of(export.folder)
    assert unpacked.keys() == packed.keys()
    del unpacked["export.json"], packed["export.json"]
    assert unpacked == packed
    for artifact in manifest.artifacts:
        onnx = verify_artifact(artifact, tmp_path / "out" / "export")
        assert onnx.samefile(repository / f"alexnet_{artifact.precision}" / "1" / "model.onnx")
        for engine in artifact.engines:
            verify_engine(engine, tmp_path / "out" / "export" / engine.file)


@pytest.mark.parametrize("options", [RepositoryOptions(), ENGINES, RepositoryOptions(queue_size=3)])
def test_the_same_repository_again(options: RepositoryOptions, export: Artifacts, tmp_path: Path) -> None:
    write_repository(export.manifest, export.folder, tmp_path / "models", options)
    for turn in ("first", "second"):
        before = contents_of(tmp_path / "models")
        manifest = unpack_repository(tmp_path / "models", tmp_path / turn)
        write_repository(manifest, tmp_path / turn, tmp_path / "models", options)
        after = contents_of(tmp_path / "models")
        if turn == "first":  # the record no longer tells of what was refused, and so has another digest
            del before["alexnet.1.export.json"], after["alexnet.1.export.json"]
            old, new = export.manifest.digest.encode(), manifest.digest.encode()
            before = {name: content.replace(old, new) for name, content in before.items()}
        assert after == before


def test_engines_that_were_not_packed_are_not_in_the_record(
    export: Artifacts, repository: Path, tmp_path: Path
) -> None:
    refused = engine_of(export.manifest.artifacts[2], export.folder, accepted=False)
    manifest = with_engines_of(export.manifest, "int8", refused)
    write_repository(manifest, export.folder, repository, ENGINES)
    unpacked = unpack_repository(repository, tmp_path / "engines")
    assert [artifact.precision for artifact in unpacked.artifacts] == ["fp32"]

    write_repository(manifest, export.folder, repository)
    unpacked = unpack_repository(repository, tmp_path / "onnx")
    assert [len(artifact.engines) for artifact in unpacked.artifacts] == [0, 0]
    assert not list((tmp_path / "onnx").glob("*.plan"))


def test_a_copy_on_another_file_system_is_enough(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(repository, copy)
    shutil.rmtree(copy / "alexnet_int8")
    manifest = unpack_repository(copy, tmp_path / "out")
    assert [artifact.precision for artifact in manifest.artifacts] == ["fp32"]


@pytest.mark.parametrize("file", ["model_sm90.plan", "model_sm90.passport.json"])
def test_a_broken_engine_is_left_out_and_said(file: str, repository: Path, tmp_path: Path) -> None:
    """It can be built again from what else is there."""
    path = repository / "alexnet_int8" / "1" / file
    path.unlink()
    path.write_bytes(b"another")
    said: list[str] = []
    manifest = unpack_repository(repository, tmp_path / "out", left_out=lambda error: said.append(str(error)))
    assert str(path) in said[0]
    assert len(said) == 1
    engines = {artifact.precision: artifact.engines for artifact in manifest.artifacts}
    assert [engine.passport.compute_capability for engine in engines["int8"]] == ["8.9"]
    assert len(engines["fp32"]) == 2


class TestRefused:
    @pytest.mark.parametrize(
        "file",
        [
            "alexnet_int8/1/model.onnx",
            "alexnet.1.reference.safetensors",
        ],
    )
    def test_an_altered_file(self, file: str, repository: Path, tmp_path: Path) -> None:
        (repository / file).unlink()
        (repository / file).write_bytes(b"another")
        with pytest.raises(ManifestError) as caught:
            unpack_repository(repository, tmp_path / "out")
        assert str(repository / file) in str(caught.value)

    def test_a_folder_with_something_in_it(self, repository: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("precious")
        with pytest.raises(RepositoryError, match="expected a new or empty folder"):
            unpack_repository(repository, tmp_path / "out")
        assert contents_of(tmp_path / "out") == {"thesis.tex": b"precious"}

    def test_a_file_in_its_place(self, repository: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("precious")
        with pytest.raises(RepositoryError, match="out: got file exists"):
            unpack_repository(repository, tmp_path / "out")

    @pytest.mark.parametrize(
        "file", ["../outside.onnx", "/tmp/outside.onnx", "a/../../outside.onnx", "", "."]
    )
    @pytest.mark.parametrize("of", ["artifact", "engine"])
    def test_a_record_that_points_elsewhere(
        self, of: str, file: str, repository: Path, tmp_path: Path
    ) -> None:
        manifest = packed_export(repository).manifest
        fp32, *others = manifest.artifacts
        update: dict[str, Any] = {"file": file}
        if of == "engine":
            update = {"engines": (fp32.engines[0].model_copy(update=update),)}
            (repository / "alexnet_fp32" / "1" / "model_sm90.plan").rename(
                repository / "alexnet_fp32" / "1" / "model.plan"
            )
            (repository / "alexnet_fp32" / "1" / "model_sm90.passport.json").rename(
                repository / "alexnet_fp32" / "1" / "model.passport.json"
            )
        forged = manifest.model_copy(update={"artifacts": (fp32.model_copy(update=update), *others)})
        write_manifest(forged, repository, "alexnet.1.export.json")
        with pytest.raises(RepositoryError, match="no plain file name"):
            unpack_repository(repository, tmp_path / "out" / "export")
        assert not list(tmp_path.rglob("outside.onnx"))

    def test_no_model(self, repository: Path, export: Artifacts, tmp_path: Path) -> None:
        for model in repository.glob("alexnet_*"):
            shutil.rmtree(model)
        with pytest.raises(RepositoryError, match=r"no model\.onnx"):
            unpack_repository(repository, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        with pytest.raises(ManifestError):
            unpack_repository(tmp_path, tmp_path / "out")


def test_what_is_a_repository(repository: Path, export: Artifacts, tmp_path: Path) -> None:
    assert is_repository(repository)
    assert not is_repository(export.folder)
    assert not is_repository(tmp_path / "missing")
    (repository / "repository.json").unlink()
    assert not is_repository(repository)
