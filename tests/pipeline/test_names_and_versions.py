"""`export_model` with names, several exports in one repository, and versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.errors import ManifestError, UsageError
from alexnet_model.files import link_or_copy
from alexnet_model.manifest import Manifest, manifest_from_folder, write_manifest
from alexnet_pipeline import ExportOptions, ExportResult, export_model, unpacked_export
from alexnet_pipeline import model_export as module
from alexnet_serving import index_of, lint, packed_export, packed_exports

from ..folders import contents_of
from ..networks import random_checkpoint

ALEXNET = ("alexnet", "alexnet_decode", "alexnet_fp32")
FLOWERS = ("flowers", "flowers_decode", "flowers_fp32")


@pytest.fixture
def repository(result: ExportResult, tmp_path: Path) -> Path:
    """A repository of `alexnet`, which a test may change."""
    assert result.folder is not None
    return export_model(result.folder, ExportOptions(repository=tmp_path / "models")).repository


@pytest.fixture(autouse=True)
def without_conversion(result: ExportResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the files of the small export for every checkpoint, under the requested name and version."""

    def export_onnx(_: object, out: Path, options: Any, **__: object) -> Manifest:
        assert result.folder is not None
        manifest = manifest_from_folder(result.folder)
        model = manifest.model.model_copy(update={"name": options.name or "alexnet"})
        manifest = manifest.model_copy(update={"model": model, "model_version": options.model_version})
        out.mkdir(parents=True, exist_ok=True)
        for file in ("alexnet_fp32.onnx", "reference.safetensors"):
            (out / file).unlink(missing_ok=True)
            link_or_copy(result.folder / file, out / file)
        write_manifest(manifest, out)
        return manifest

    monkeypatch.setattr(module, "export_onnx", export_onnx)


def exported(repository: Path, tmp_path: Path, **options: Any) -> ExportResult:
    out = tmp_path / "out"
    return export_model(random_checkpoint(), ExportOptions(out=out, repository=repository, **options))


class TestAdd:
    def test_two_names_in_one_repository(self, repository: Path, tmp_path: Path) -> None:
        result = exported(repository, tmp_path, name="flowers", add=True)
        assert result.models == (*ALEXNET, *FLOWERS)
        assert lint(repository) == ()
        with unpacked_export(repository, "flowers") as folder:
            assert manifest_from_folder(folder).model.name == "flowers"
        with pytest.raises(UsageError, match="name: got none"), unpacked_export(repository):
            pass

    def test_one_of_two_is_replaced_on_its_own(self, repository: Path, tmp_path: Path) -> None:
        exported(repository, tmp_path, name="flowers", add=True)
        assert exported(repository, tmp_path, queue_size=7).models == (*ALEXNET, *FLOWERS)
        options = {packed.manifest.model.name: packed.options for packed in packed_exports(repository)}
        assert {name: found.queue_size for name, found in options.items()} == {"alexnet": 7, "flowers": None}

    def test_a_name_that_exists(self, repository: Path, tmp_path: Path) -> None:
        before = contents_of(repository)
        with pytest.raises(UsageError, match=r"add: got alexnet, which .* holds already") as caught:
            exported(repository, tmp_path, add=True)
        assert "--model-version 2" in str(caught.value)
        assert contents_of(repository) == before
        assert not (tmp_path / "out").exists(), "before anything slow"

    def test_several_others_are_not_replaced(self, repository: Path, tmp_path: Path) -> None:
        exported(repository, tmp_path, name="flowers", add=True)
        before = contents_of(repository)
        with pytest.raises(UsageError, match=r"name: got tulips, and .* holds alexnet, flowers.*Add --add"):
            exported(repository, tmp_path, name="tulips")
        assert contents_of(repository) == before

    def test_the_only_other_is_replaced(self, repository: Path, tmp_path: Path) -> None:
        result = exported(repository, tmp_path, name="flowers")
        assert result.models == FLOWERS
        assert result.notes[-1] == f"Replaced alexnet, which {repository} held; --add would have kept it."
        assert exported(repository, tmp_path, name="flowers").notes == ()
        assert not [file for file in contents_of(repository) if file.startswith("alexnet")]

    def test_a_repository_that_is_still_to_be_written(self, tmp_path: Path) -> None:
        result = exported(tmp_path / "new", tmp_path, name="flowers", add=True, model_version=4)
        assert result.models == FLOWERS
        assert result.manifest.model_version == 4

    def test_an_older_repository(self, repository: Path, tmp_path: Path) -> None:
        (repository / "repository.json").unlink()
        (repository / "alexnet.1.export.json").rename(repository / "export.json")
        (repository / "alexnet.1.reference.safetensors").rename(repository / "reference.safetensors")
        for options in ({"add": True}, {"model_version": 2}):
            with pytest.raises(ManifestError, match="Export it again: alexnet export CHECKPOINT"):
                exported(repository, tmp_path, name="flowers", **options)
        assert exported(repository, tmp_path, name="flowers").models == FLOWERS


def test_a_broken_index(repository: Path, tmp_path: Path) -> None:
    """The only export can be written again; of several, none is lost."""
    (repository / "repository.json").write_text("{")
    exported(repository, tmp_path)
    assert lint(repository) == ()
    exported(repository, tmp_path, name="flowers", add=True)
    (repository / "repository.json").write_text("{")
    before = contents_of(repository)
    with pytest.raises(ManifestError, match=r"repository\.json: .* Remove the folder, then export again"):
        exported(repository, tmp_path)
    assert contents_of(repository) == before


class TestVersions:
    def test_a_version_is_added_and_served(self, repository: Path, tmp_path: Path) -> None:
        exported(repository, tmp_path, model_version=2)
        assert index_of(repository).exports["alexnet"].served == 2
        assert (repository / "alexnet_fp32" / "2" / "model.onnx").is_file()
        assert packed_export(repository, "alexnet", 1).manifest.model_version == 1
        assert lint(repository) == ()
        exported(repository, tmp_path)
        assert sorted(index_of(repository).exports["alexnet"].versions) == [1], "without it all are replaced"

    @pytest.mark.parametrize("version", [1, 2, 3])
    def test_a_version_that_is_not_above_all(self, version: int, repository: Path, tmp_path: Path) -> None:
        exported(repository, tmp_path, model_version=3)
        before = contents_of(repository)
        with pytest.raises(UsageError, match=f"model version: got {version}, expected 4 or more") as caught:
            exported(repository, tmp_path, model_version=version)
        assert "--model-version 4" in str(caught.value)
        assert contents_of(repository) == before

    def test_a_version_of_another_name(self, repository: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"name: got flowers, and .* holds alexnet"):
            exported(repository, tmp_path, name="flowers", model_version=2)
        exported(repository, tmp_path, name="flowers", model_version=2, add=True)
        served = [(p.manifest.model.name, p.manifest.model_version) for p in packed_exports(repository)]
        assert served == [("alexnet", 1), ("flowers", 2)]

    def test_a_repository_is_packed_again_without_losing_one(
        self, result: ExportResult, repository: Path
    ) -> None:
        assert result.folder is not None
        export_model(result.folder, ExportOptions(repository=repository, model_version=2))
        export_model(repository, ExportOptions(repository=repository, queue_size=7))
        export = index_of(repository).exports["alexnet"]
        assert {version: options.queue_size for version, options in export.versions.items()} == {
            1: None,
            2: 7,
        }
        assert export.served == 2
        assert lint(repository) == ()


@pytest.mark.parametrize("version", [0, -1])
def test_version_0(version: int) -> None:
    with pytest.raises(UsageError, match=f"model version: got {version}, expected 1 or more"):
        ExportOptions(model_version=version)


@pytest.mark.parametrize("name", ["", "a b", "flowers_int8", "../x"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError, match="name: got"):
        ExportOptions(name=name)


def test_an_earlier_export_keeps_its_name(result: ExportResult, tmp_path: Path) -> None:
    assert result.folder is not None
    options = ExportOptions(repository=tmp_path / "models", name="tulips")
    with pytest.raises(UsageError, match=r"name: got tulips, with the folder .*, expected alexnet"):
        export_model(result.folder, options)
    with pytest.raises(UsageError, match="name: got 'tulips', expected one of"):
        export_model(result.repository, options)
    same = export_model(result.folder, replace(options, name="alexnet", model_version=5))
    assert same.manifest.model_version == 5
    assert lint(same.repository) == ()
