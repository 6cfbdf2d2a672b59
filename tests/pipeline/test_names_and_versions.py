"""`export_model` with names, several exports in one repository, and versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.errors import ManifestError, UsageError
from alexnet_model.manifest import manifest_from_folder
from alexnet_pipeline import ExportOptions, ExportResult, export_model, unpacked_export
from alexnet_pipeline import model_export as module
from alexnet_serving import index_of, lint, packed_export, packed_exports

from ..folders import contents_of
from ..networks import random_checkpoint


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """An export named `flowers`, alone in its repository."""
    folder = tmp_path_factory.mktemp("names")
    options = ExportOptions(
        precisions=("fp32",),
        max_batch=2,
        out=folder / "export",
        repository=folder / "models",
        name="flowers",
    )
    return export_model(random_checkpoint(), options)


@pytest.fixture
def repository(result: ExportResult, tmp_path: Path) -> Path:
    """The same repository again, which a test may change."""
    assert result.folder is not None
    return export_model(result.folder, ExportOptions(repository=tmp_path / "models")).repository


@pytest.fixture
def without_conversion(result: ExportResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the files of `flowers` for every checkpoint, under the requested name and version."""

    def export_onnx(_: object, out: Path, options: Any, *, progress: object) -> Any:
        assert result.folder is not None
        manifest = manifest_from_folder(result.folder)
        (artifact,) = manifest.artifacts
        out.mkdir(parents=True, exist_ok=True)
        (out / artifact.file).write_bytes((result.folder / artifact.file).read_bytes())
        reference = "reference.safetensors"
        (out / reference).write_bytes((result.folder / reference).read_bytes())
        model = manifest.model.model_copy(update={"name": options.name or "alexnet"})
        update = {"model": model, "model_version": options.model_version}
        return manifest.model_copy(update=update)

    monkeypatch.setattr(module, "export_onnx", export_onnx)


def exported(repository: Path, tmp_path: Path, **options: Any) -> ExportResult:
    out = tmp_path / "out"
    return export_model(random_checkpoint(), ExportOptions(out=out, repository=repository, **options))


def test_the_name_is_in_every_file_and_model(result: ExportResult) -> None:
    assert result.models == ("flowers", "flowers_decode", "flowers_fp32")
    assert result.folder is not None
    assert sorted(contents_of(result.folder)) == [
        "export.json",
        "flowers_fp32.onnx",
        "reference.safetensors",
    ]
    assert (result.manifest.model.name, result.manifest.model_version) == ("flowers", 1)
    assert packed_export(result.repository).manifest == result.manifest
    assert lint(result.repository) == ()


@pytest.mark.usefixtures("without_conversion")
class TestAdd:
    def test_two_names_in_one_repository(self, repository: Path, tmp_path: Path) -> None:
        result = exported(repository, tmp_path, add=True)
        assert result.models == tuple(sorted(["alexnet", "alexnet_decode", "alexnet_fp32", *FLOWERS]))
        assert lint(repository) == ()
        with unpacked_export(repository, "flowers") as folder:
            assert manifest_from_folder(folder).model.name == "flowers"
        with pytest.raises(UsageError, match="name: got none"), unpacked_export(repository):
            pass
        exported(repository, tmp_path)
        assert list(index_of(repository).exports) == ["flowers", "alexnet"], "one is replaced on its own"

    def test_a_name_that_exists(self, repository: Path, tmp_path: Path) -> None:
        before = contents_of(repository)
        with pytest.raises(UsageError, match=r"add: got flowers, which .* holds already") as caught:
            exported(repository, tmp_path, name="flowers", add=True)
        assert "--model-version 2" in str(caught.value)
        assert contents_of(repository) == before
        assert not (tmp_path / "out").exists(), "before anything slow"

    def test_several_others_are_not_replaced(self, repository: Path, tmp_path: Path) -> None:
        exported(repository, tmp_path, add=True)
        before = contents_of(repository)
        with pytest.raises(UsageError, match=r"name: got tulips, and .* holds alexnet, flowers.*Add --add"):
            exported(repository, tmp_path, name="tulips")
        assert contents_of(repository) == before

    def test_the_only_other_is_replaced(self, repository: Path, tmp_path: Path) -> None:
        assert exported(repository, tmp_path).models == ("alexnet", "alexnet_decode", "alexnet_fp32")

    def test_an_older_repository(self, repository: Path, tmp_path: Path) -> None:
        (repository / "repository.json").unlink()
        (repository / "flowers.1.export.json").rename(repository / "export.json")
        (repository / "flowers.1.reference.safetensors").rename(repository / "reference.safetensors")
        for options in ({"add": True}, {"model_version": 2}):
            with pytest.raises(ManifestError, match="Export it again: alexnet export CHECKPOINT"):
                exported(repository, tmp_path, name="tulips", **options)


@pytest.mark.usefixtures("without_conversion")
class TestVersions:
    def test_a_version_is_added_and_served(self, repository: Path, tmp_path: Path) -> None:
        exported(repository, tmp_path, name="flowers", model_version=2)
        assert index_of(repository).exports["flowers"].served == 2
        assert (repository / "flowers_fp32" / "2" / "model.onnx").is_file()
        assert packed_export(repository, "flowers", 1).manifest.model_version == 1
        assert lint(repository) == ()
        exported(repository, tmp_path, name="flowers")
        assert sorted(index_of(repository).exports["flowers"].versions) == [1], "without it all are replaced"

    @pytest.mark.parametrize("version", [1, 2, 3])
    def test_a_version_that_is_not_above_all(self, version: int, repository: Path, tmp_path: Path) -> None:
        exported(repository, tmp_path, name="flowers", model_version=3)
        before = contents_of(repository)
        with pytest.raises(UsageError, match=f"model version: got {version}, expected 4 or more") as caught:
            exported(repository, tmp_path, name="flowers", model_version=version)
        assert "--model-version 4" in str(caught.value)
        assert contents_of(repository) == before

    def test_a_version_of_another_name(self, repository: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"name: got tulips, and .* holds flowers"):
            exported(repository, tmp_path, name="tulips", model_version=2)
        exported(repository, tmp_path, name="tulips", model_version=2, add=True)
        served = [(p.manifest.model.name, p.manifest.model_version) for p in packed_exports(repository)]
        assert served == [("flowers", 1), ("tulips", 2)]


FLOWERS = ("flowers", "flowers_decode", "flowers_fp32")


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
    with pytest.raises(UsageError, match=r"name: got tulips, with the folder .*, expected flowers"):
        export_model(result.folder, options)
    with pytest.raises(UsageError, match="name: got 'tulips', expected one of"):
        export_model(result.repository, options)
    same = export_model(result.folder, replace(options, name="flowers", model_version=5))
    assert same.manifest.model_version == 5
    assert lint(same.repository) == ()


def test_a_repository_of_versions_is_packed_again_without_losing_one(
    result: ExportResult, repository: Path
) -> None:
    assert result.folder is not None
    export_model(result.folder, ExportOptions(repository=repository, model_version=2))
    export_model(repository, ExportOptions(repository=repository, queue_size=7))
    versions = index_of(repository).exports["flowers"]
    assert {version: options.queue_size for version, options in versions.versions.items()} == {1: None, 2: 7}
    assert versions.served == 2
    assert lint(repository) == ()
