"""Several exports in one repository, several versions of one, and the return to an older version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.errors import EngineRefused, ManifestError, RepositoryError, UsageError
from alexnet_model.manifest import Manifest
from alexnet_serving import (
    RepositoryOptions,
    check_engines,
    index_of,
    lint,
    models_of_repository,
    packed_export,
    packed_exports,
    raise_if_findings,
    rollback,
    unpack_repository,
    write_repository,
)

from ..folders import contents_of
from .conftest import Artifacts
from .recorded_engines import L4, with_engines
from .test_engine_compatibility import on
from .test_lint import edited, only
from .test_repository import config_of, without_precisions

COLOURS = tuple(f"flower {number}" for number in range(10))
OPTIONS = RepositoryOptions(queue_size=9)


def named(manifest: Manifest, name: str, version: int = 1, classes: tuple[str, ...] = ()) -> Manifest:
    """The same export under another name, as another version, and with other classes."""
    model = manifest.model.model_copy(
        update={"name": name, "class_names": classes or manifest.model.class_names}
    )
    return manifest.model_copy(update={"model": model, "model_version": version})


@pytest.fixture
def flowers(repository: Path, artifacts: Artifacts) -> Path:
    """`alexnet`, and `flowers` in versions 1 and 2; the second has other classes and no INT8."""
    one = named(artifacts.manifest, "flowers")
    write_repository(one, artifacts.folder, repository, OPTIONS, replace="version")
    two = without_precisions(named(artifacts.manifest, "flowers", 2, COLOURS), "int8")
    write_repository(two, artifacts.folder, repository, replace="version")
    return repository


def in_folders_of(name: str, repository: Path) -> dict[str, bytes]:
    """The files of an export that Triton serves."""
    folders = ("config.pbtxt", "labels.txt", "model.onnx", "README.md")
    return {
        file: content
        for file, content in contents_of(repository).items()
        if file.startswith(name) and file.endswith(folders)
    }


class TestTwoNames:
    def test_each_has_its_models_and_its_record(self, repository: Path, artifacts: Artifacts) -> None:
        before = contents_of(repository)
        other = named(artifacts.manifest, "flowers", classes=COLOURS)
        names = write_repository(other, artifacts.folder, repository, OPTIONS, replace="version")
        of_flowers = ("flowers", "flowers_decode", "flowers_fp32", "flowers_int8")
        assert names == models_of_repository(repository)
        assert names == ("alexnet", "alexnet_decode", "alexnet_fp32", "alexnet_int8", *of_flowers)
        after = contents_of(repository)
        changed = {name for name in before if after[name] != before[name]}
        assert changed == {"repository.json"}, "the other export stays as it is"
        assert (repository / "flowers_int8" / "labels.txt").read_text().splitlines() == list(COLOURS)
        steps = config_of(repository, "flowers").ensemble_scheduling.step
        assert [step.model_name for step in steps] == ["flowers_decode", "flowers_int8"]
        assert [(p.manifest.model.name, p.options) for p in packed_exports(repository)] == [
            ("alexnet", RepositoryOptions()),
            ("flowers", OPTIONS),
        ]
        assert lint(repository) == ()

    def test_one_is_replaced_on_its_own(self, flowers: Path, artifacts: Artifacts) -> None:
        before = contents_of(flowers)
        write_repository(named(artifacts.manifest, "flowers"), artifacts.folder, flowers, replace="export")
        assert sorted(index_of(flowers).exports["flowers"].versions) == [1]
        after = contents_of(flowers)
        assert all(after[file] == before[file] for file in before if file.startswith("alexnet"))
        assert not any(file.startswith("flowers.2.") for file in after)
        assert lint(flowers) == ()

    def test_all_of_it_is_replaced_by_default(self, flowers: Path, artifacts: Artifacts) -> None:
        write_repository(artifacts.manifest, artifacts.folder, flowers)
        assert list(index_of(flowers).exports) == ["alexnet"]
        assert not [file for file in contents_of(flowers) if file.startswith("flowers")]

    def test_which_one_must_be_said(self, flowers: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"name: got none, expected one of .*: alexnet, flowers\. Add"):
            packed_export(flowers)
        with pytest.raises(UsageError, match=r"name: got 'tulips', expected one of .*: alexnet, flowers"):
            unpack_repository(flowers, tmp_path / "out", name="tulips")
        with pytest.raises(UsageError, match=r"version of alexnet: got 2, expected one that .* holds: 1"):
            packed_export(flowers, "alexnet", 2)

    def test_one_is_unpacked(self, flowers: Path, artifacts: Artifacts, tmp_path: Path) -> None:
        manifest = unpack_repository(flowers, tmp_path / "out", name="alexnet")
        assert manifest.model.name == "alexnet"
        assert [artifact.precision for artifact in manifest.artifacts] == ["fp32", "int8"]
        kept = unpack_repository(flowers, tmp_path / "older", name="flowers", version=1)
        assert (kept.model_version, len(kept.artifacts)) == (1, 2)

    def test_the_command_that_builds_engines_names_the_export(
        self, artifacts: Artifacts, tmp_path: Path
    ) -> None:
        export = with_engines(artifacts, tmp_path / "export")
        options, repository = RepositoryOptions(runtime="tensorrt"), tmp_path / "models"
        write_repository(export.manifest, export.folder, repository, options)
        write_repository(
            named(artifacts.manifest, "flowers"), artifacts.folder, repository, replace="version"
        )
        with pytest.raises(EngineRefused) as caught:
            check_engines(repository, [on(L4)])
        assert f"--repository {repository} --name alexnet --profile" in str(caught.value)
        (repository / "flowers_fp32" / "labels.txt").unlink()
        with pytest.raises(RepositoryError) as wrong:
            raise_if_findings(repository, lint(repository), shown=True)
        command = f"alexnet export CHECKPOINT --repository {repository} --name flowers"
        assert wrong.value.next_step == f"Write it again: {command}"


class TestVersions:
    def test_the_newest_is_served_and_the_older_one_stays(self, flowers: Path) -> None:
        served = set(in_folders_of("flowers", flowers))
        assert {"flowers_fp32/2/model.onnx", "flowers_fp32/config.pbtxt"} <= served
        assert not [file for file in served if "int8" in file or "/1/" in file], "Triton serves every folder"
        kept = {file for file in contents_of(flowers) if file.startswith("flowers.1.")}
        assert kept == {f"flowers.1.{file}" for file in ("export.json", "fp32.onnx", "int8.onnx")}
        assert list(config_of(flowers, "flowers_fp32").version_policy.specific.versions) == [2]
        assert (flowers / "flowers_fp32" / "labels.txt").read_text().splitlines() == list(COLOURS)
        assert lint(flowers) == ()

    def test_large_files_are_linked(self, flowers: Path, artifacts: Artifacts) -> None:
        assert (flowers / "flowers.1.int8.onnx").samefile(artifacts.folder / "int8.onnx")
        assert (flowers / "alexnet_int8" / "1" / "model.onnx").samefile(artifacts.folder / "int8.onnx")

    def test_rollback_restores_every_file(
        self, repository: Path, artifacts: Artifacts, tmp_path: Path
    ) -> None:
        one, two = (named(artifacts.manifest, "flowers", version) for version in (1, 2))
        write_repository(one, artifacts.folder, repository, OPTIONS, replace="version")
        before = in_folders_of("flowers", repository)
        write_repository(without_precisions(two, "int8"), artifacts.folder, repository, replace="version")
        newer = in_folders_of("flowers", repository)
        assert rollback(repository, "flowers") == (2, 1)
        assert in_folders_of("flowers", repository) == before
        assert lint(repository) == ()
        assert rollback(repository, "flowers", to=2) == (1, 2)
        assert in_folders_of("flowers", repository) == newer
        assert lint(repository) == ()
        assert [path.name for path in repository.parent.iterdir()] == [repository.name]

    def test_engines_come_back_too(self, artifacts: Artifacts, tmp_path: Path) -> None:
        export = with_engines(artifacts, tmp_path / "export")
        options, repository = RepositoryOptions(runtime="tensorrt"), tmp_path / "models"
        write_repository(export.manifest, export.folder, repository, options)
        before = in_folders_of("alexnet", repository)
        plan = (repository / "alexnet_int8" / "1" / "model.plan").read_bytes()
        write_repository(
            named(artifacts.manifest, "alexnet", 2), artifacts.folder, repository, replace="version"
        )
        assert (repository / "alexnet.1.alexnet_int8.sm90.plan").read_bytes() == plan
        assert lint(repository) == ()
        (repository / "alexnet.1.alexnet_int8.sm90.plan").unlink()
        assert only(repository).startswith("alexnet.1.alexnet_int8.sm90.plan: got no such file")
        with pytest.raises(ManifestError, match=r"alexnet\.1\.alexnet_int8\.sm90\.plan: got no such file"):
            rollback(repository, "alexnet")
        (repository / "alexnet.1.alexnet_int8.sm90.plan").write_bytes(plan)
        assert rollback(repository, "alexnet") == (2, 1)
        assert in_folders_of("alexnet", repository) == before
        assert lint(repository) == ()

    def test_there_is_nothing_to_return_to(self, flowers: Path) -> None:
        before = contents_of(flowers)
        for name, to, words in (
            ("alexnet", None, "alexnet: got version 1, and none before it"),
            ("tulips", None, "name: got 'tulips'"),
            ("flowers", 3, "version of flowers: got 3, expected one that .* holds: 1, 2"),
            ("flowers", 2, "flowers: got version 2, which is served already"),
        ):
            with pytest.raises((RepositoryError, UsageError), match=words) as caught:
                rollback(flowers, name, to=to)
            assert "\n" not in str(caught.value)
        assert contents_of(flowers) == before

    def test_a_broken_older_version_is_not_served(self, flowers: Path) -> None:
        file = flowers / "flowers.1.int8.onnx"
        file.unlink()
        file.write_bytes(b"another")
        before = contents_of(flowers)
        with pytest.raises(ManifestError, match=r"flowers\.1\.int8\.onnx: got SHA-256"):
            rollback(flowers, "flowers")
        assert contents_of(flowers) == before
        assert [path.name for path in flowers.parent.iterdir()] == [flowers.name]


class TestLint:
    @pytest.mark.parametrize("file", ["flowers.1.export.json", "flowers.1.int8.onnx"])
    def test_a_file_of_an_older_version_is_missing(self, file: str, flowers: Path) -> None:
        (flowers / file).unlink()
        assert only(flowers).startswith(f"{file}: got no such file")

    def test_an_older_version_is_altered(self, flowers: Path) -> None:
        file = flowers / "flowers.1.int8.onnx"
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content[:-1] + b"?")
        assert only(flowers).startswith("flowers.1.int8.onnx: SHA-256: got")
        assert lint(flowers, hashes=False) == ()

    def test_the_index_names_another_version(self, flowers: Path) -> None:
        edited(flowers / "repository.json", lambda index: index["exports"]["flowers"].update(served=1))
        findings = list(map(str, lint(flowers, hashes=False)))
        assert any("version_policy.specific.versions[0]: got 2, expected 1" in line for line in findings)
        assert "flowers_fp32/1/model.onnx: got no such file" in "\n".join(findings)

    def test_a_configuration_that_serves_every_version(self, flowers: Path) -> None:
        path = flowers / "flowers_fp32" / "config.pbtxt"
        text = path.read_text()
        path.unlink()
        path.write_text(text.replace("versions: 2", "versions: 1"))
        line = "flowers_fp32/config.pbtxt: version_policy.specific.versions[0]: got 1, expected 2"
        assert only(flowers) == line

    def test_a_precision_that_the_served_version_does_not_have(self, flowers: Path) -> None:
        shutil.copytree(flowers / "alexnet_int8", flowers / "flowers_int8")
        assert only(flowers).startswith("flowers_int8: got a folder, expected only models")

    def test_files_of_a_version_that_the_index_does_not_name(self, flowers: Path) -> None:
        shutil.copyfile(flowers / "flowers.1.export.json", flowers / "flowers.7.export.json")
        line = "flowers.7.export.json: got a file, expected only those of versions in repository.json"
        assert only(flowers) == line

    def test_a_record_under_the_name_of_another(self, flowers: Path) -> None:
        shutil.copyfile(flowers / "flowers.1.export.json", flowers / "other.json")
        (flowers / "flowers.2.export.json").unlink()
        (flowers / "other.json").rename(flowers / "flowers.2.export.json")
        line = (
            "flowers.2.export.json: got the record of flowers version 1, expected that of flowers version 2"
        )
        assert only(flowers) == line

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda i: i["exports"]["flowers"].update(served=3), "version 3 is served and is none of [1, 2]"),
            (lambda i: i["exports"].update({"Flowers": i["exports"]["flowers"]}), "got 'flowers'"),
            (lambda i: i["exports"]["flowers"]["versions"].update({"0": {}}), "exports.flowers.versions"),
            (lambda i: i.update(schema_version=0), "schema_version"),
        ],
    )
    def test_an_index_that_cannot_be(self, edit: Any, words: str, flowers: Path) -> None:
        edited(flowers / "repository.json", edit)
        line = only(flowers)
        assert line.startswith("repository.json: ")
        assert words in line.lower()


class TestOlderRepositories:
    """Version 0.1 had one export, and its record was `export.json`."""

    @pytest.fixture
    def older(self, repository: Path) -> Path:
        (repository / "repository.json").unlink()
        (repository / "alexnet.1.export.json").rename(repository / "export.json")
        return repository

    def test_is_not_read(self, older: Path) -> None:
        with pytest.raises(ManifestError, match=r"Export it again: alexnet export CHECKPOINT --repository"):
            packed_export(older)
        assert only(older).startswith("repository.json: got no such file beside export.json")

    def test_nothing_is_added_to_it(self, older: Path, artifacts: Artifacts) -> None:
        before = contents_of(older)
        flowers = named(artifacts.manifest, "flowers")
        with pytest.raises(ManifestError, match="an older repository"):
            write_repository(flowers, artifacts.folder, older, replace="version")
        assert contents_of(older) == before

    def test_is_replaced(self, older: Path, artifacts: Artifacts) -> None:
        write_repository(artifacts.manifest, artifacts.folder, older)
        assert lint(older) == ()
        assert not (older / "export.json").exists()


class TestNothingIsLost:
    def test_foreign_files_beside_ours(self, flowers: Path, artifacts: Artifacts) -> None:
        for file in ("tulips_fp32", "tulips.1.export.txt", "flowers.notes"):
            (flowers / file).write_text("precious")
            before = contents_of(flowers)
            with pytest.raises(RepositoryError, match=f"holds {file}"):
                write_repository(artifacts.manifest, artifacts.folder, flowers)
            assert contents_of(flowers) == before
            (flowers / file).unlink()

    def test_the_index_is_plain_json(self, flowers: Path) -> None:
        index = json.loads((flowers / "repository.json").read_text())
        flowers_in_it = index["exports"]["flowers"]
        assert flowers_in_it["served"] == 2
        assert flowers_in_it["versions"]["1"]["queue_size"] == 9
