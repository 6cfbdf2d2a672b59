"""Lint finds nothing in a fresh repository, and names the field of every alteration."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_model.errors import RepositoryError
from alexnet_model.passport import passport_of
from alexnet_serving import RepositoryOptions, lint, models_of_repository, write_repository
from alexnet_serving.repositories.backends import backends_of_repository

from .conftest import Artifacts, add_junk
from .recorded_engines import repository_of_engines, with_engines


@pytest.fixture
def engines(artifacts: Artifacts, tmp_path: Path) -> Path:
    return repository_of_engines(artifacts, tmp_path)


def rewritten(path: Path, content: str | bytes) -> None:
    """Replace a file; it may be a hard link to the export's, so it is not written in place."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def edited(path: Path, edit: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    rewritten(path, json.dumps(values, indent=2))


def only(repository: Path, *, hashes: bool = True) -> str:
    """Return the only finding as the user reads it."""
    findings = lint(repository, hashes=hashes)
    assert len(findings) == 1, "\n".join(map(str, findings))
    assert "\n" not in str(findings[0])
    return str(findings[0])


def test_a_fresh_repository_has_none(repository: Path, engines: Path) -> None:
    assert lint(repository) == ()
    assert lint(engines) == ()


@pytest.mark.parametrize(
    "options",
    [
        RepositoryOptions(queue_size=7, queue_timeout_s=1.5, queue_delay_us=20),
        RepositoryOptions(runtime="tensorrt", queue_size=0, queue_timeout_s=0),
        RepositoryOptions(runtime="tensorrt", queue_timeout_s=0.25),
    ],
)
def test_a_new_repository_has_no_findings(
    options: RepositoryOptions, artifacts: Artifacts, tmp_path: Path
) -> None:
    export = with_engines(artifacts, tmp_path / "export")
    write_repository(export.manifest, export.folder, tmp_path / "models", options)
    assert lint(tmp_path / "models") == ()


def test_what_systems_write_into_folders_is_no_finding(repository: Path, artifacts: Artifacts) -> None:
    add_junk(repository)
    (repository / ".trash").mkdir()
    (repository / ".trash" / "config.pbtxt").touch()
    assert lint(repository) == ()
    assert models_of_repository(repository) == ("alexnet", "alexnet_decode", "alexnet_fp32", "alexnet_int8")
    assert ".trash" not in backends_of_repository(repository)
    write_repository(artifacts.manifest, artifacts.folder, repository)
    assert lint(repository) == ()
    assert (repository / ".Trash-1000").is_dir(), "hidden folders of the user stay"


@pytest.mark.parametrize("name", ["config.pbtxt", "labels.txt", "1/model.onnx", "../alexnet.1.export.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_that_are_not_regular_are_found_at_once(repository: Path, name: str, kind: str) -> None:
    path = repository / "alexnet_int8" / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    backends_of_repository(repository)
    findings = [str(finding) for finding in lint(repository)]
    assert findings
    assert all(path.name in finding for finding in findings), findings


def test_a_record_that_is_nested_too_deeply_is_a_finding(repository: Path) -> None:
    for name in ("alexnet.1.export.json", "repository.json"):
        rewritten(repository / name, '{"a":' * 5000 + "1" + "}" * 5000)
        assert only(repository).startswith(f"{name}: got more than 100 levels of nesting")
    rewritten(repository / "alexnet_int8" / "config.pbtxt", "a {" * 5000)
    assert backends_of_repository(repository)["alexnet_int8"] == ""


class TestLabels:
    def test_lines(self, repository: Path) -> None:
        path = repository / "alexnet_int8" / "labels.txt"
        lines = path.read_text().splitlines()
        rewritten(path, "\n".join(lines[:-1]))
        assert only(repository) == "alexnet_int8/labels.txt: got 9 lines, expected 10, one for each class"
        rewritten(path, "\n".join([*lines, ""]) + "\n")
        assert "got 11 lines" in only(repository)
        rewritten(path, "\n".join([*lines[:3], "three", *lines[4:]]))
        assert only(repository) == "alexnet_int8/labels.txt: line 4: got 'three', expected '3'"
        rewritten(path, "\n".join(reversed(lines)))
        assert "line 1, the first of 10: got '9', expected '0'" in only(repository)
        rewritten(path, "\r\n".join(lines) + "\r\n")
        line = f"line 1, the first of 10: got {lines[0] + chr(13)!r}, expected {lines[0]!r}"
        assert line in only(repository), "Triton would name the class with it"
        rewritten(path, b"\xff")
        assert "labels.txt: got 'utf-8' codec" in only(repository)
        path.unlink()
        assert "labels.txt: got no such file" in only(repository)


class TestFolders:
    def test_a_model_that_is_missing(self, repository: Path, tmp_path: Path) -> None:
        (repository / "alexnet_int8").rename(tmp_path / "aside")
        line = "alexnet_int8: got no such folder, expected a model that alexnet.1.export.json accepts"
        assert only(repository) == line

    @pytest.mark.parametrize("name", ["alexnet_fp16", "resnet", "a b;c"])
    def test_an_unknown_model(self, name: str, repository: Path) -> None:
        (repository / name).mkdir()
        findings = [str(finding) for finding in lint(repository)]
        assert f"{name}: got a folder, expected only models that the record of an export accepts" in findings
        assert all(finding.startswith(f"{name}") for finding in findings)

    def test_extra_versions_and_files(self, repository: Path) -> None:
        model = repository / "alexnet_int8"
        (model / "2").mkdir()
        assert only(repository).startswith("alexnet_int8/2: got a folder, expected only 1, config.pbtxt, l")
        (model / "2").rmdir()
        (model / "1" / "libtriton_onnxruntime.so").write_bytes(b"")
        line = "alexnet_int8/1/libtriton_onnxruntime.so: got a file, expected only model.onnx"
        assert only(repository) == line

    @pytest.mark.parametrize("file", ["1/model.onnx", "1/model_sm90.plan", "1/model_sm89.passport.json"])
    def test_a_file_that_is_missing(self, file: str, engines: Path) -> None:
        (engines / "alexnet_int8" / file).unlink()
        assert only(engines).startswith(f"alexnet_int8/{file}: got no such file")

    @pytest.mark.parametrize("file", ["labels.txt", "config.pbtxt", "1/model.onnx", "1/model_sm90.plan"])
    def test_a_symbolic_link(self, file: str, engines: Path, tmp_path: Path) -> None:
        path = engines / "alexnet_int8" / file
        path.symlink_to(path.rename(tmp_path / "elsewhere"))
        line = f"alexnet_int8/{file}: got a symbolic link, expected a regular file"
        assert only(engines) == line

    @pytest.mark.parametrize("folder", ["alexnet_int8", "alexnet_int8/1"])
    def test_a_link_to_a_folder(self, folder: str, engines: Path, tmp_path: Path) -> None:
        path = engines / folder
        path.symlink_to(path.rename(tmp_path / "elsewhere"))
        assert only(engines) == f"{folder}: got a symbolic link, expected a regular folder"

    def test_a_version_that_is_missing(self, repository: Path, tmp_path: Path) -> None:
        (repository / "alexnet_int8" / "1").rename(tmp_path / "aside")
        assert only(repository).startswith("alexnet_int8/1/model.onnx: got no such file")


class TestFiles:
    @pytest.mark.parametrize("file", ["model.onnx", "model_sm90.plan"])
    def test_truncated(self, file: str, engines: Path) -> None:
        path = engines / "alexnet_int8" / "1" / file
        whole = path.read_bytes()
        rewritten(path, whole[:-1])
        line = f"alexnet_int8/1/{file}: size: got {len(whole) - 1:,} bytes, expected {len(whole):,} bytes"
        assert only(engines) == line
        assert only(engines, hashes=False) == line, "without reading a byte of it"

    @pytest.mark.parametrize("file", ["model.onnx", "model_sm90.plan"])
    def test_a_bit_turned(self, file: str, engines: Path) -> None:
        path = engines / "alexnet_int8" / "1" / file
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        rewritten(path, bytes(content))
        assert only(engines).startswith(f"alexnet_int8/1/{file}: SHA-256: got ")
        assert lint(engines, hashes=False) == ()

    def test_swapped_between_models(self, engines: Path, tmp_path: Path) -> None:
        one, other = (
            engines / f"alexnet_{precision}" / "1" / "model_sm90.plan" for precision in ("fp32", "int8")
        )
        aside = one.rename(tmp_path / "aside")
        other.rename(one)
        aside.rename(other)
        assert [f"{finding.file}: {finding.field}" for finding in lint(engines)] == [
            "alexnet_fp32/1/model_sm90.plan: SHA-256",
            "alexnet_int8/1/model_sm90.plan: SHA-256",
        ]

    def test_the_reference(self, engines: Path) -> None:
        rewritten(engines / "alexnet.1.reference.safetensors", b"other answers")
        assert only(engines).startswith("alexnet.1.reference.safetensors: SHA-256: got ")
        (engines / "alexnet.1.reference.safetensors").unlink()
        assert only(engines).startswith("alexnet.1.reference.safetensors: got no such file")

    def test_hashing_says_how_far_it_is(self, engines: Path) -> None:
        reports: list[tuple[str, int, int]] = []
        lint(engines, progress=lambda stage, done, total, note="": reports.append((stage, done, total)))
        (total,) = {total for _, _, total in reports}
        onnx_and_plans = [*engines.glob("*/1/*.onnx"), *engines.glob("*/1/*.plan")]
        assert total == sum(
            p.stat().st_size for p in [*onnx_and_plans, engines / "alexnet.1.reference.safetensors"]
        )
        assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)
        assert reports[-1][1] == total


class TestPassports:
    FILE = "alexnet_int8/1/model_sm90.passport.json"

    @pytest.mark.parametrize(
        ("edit", "field"),
        [
            (lambda p: p.update(runtime_version="11.2.1.2"), 'runtime_version: got "11.2.1.2"'),
            (lambda p: p.update(gpu_name="NVIDIA H100"), 'gpu_name: got "NVIDIA H100"'),
            (lambda p: p["profile"].update(opt=7), "profile.opt: got 7, expected 8"),
            (lambda p: p.update(version_compatible=True), "version_compatible: got true, expected false"),
            (lambda p: p["layer_precisions"].update(Half=7), "layer_precisions.Half: got 7, expected 8"),
            (lambda p: p.update(build_seconds=20.6), "build_seconds: got 20.6, expected 20.5"),
            (lambda p: p.update(engine_sha256="0" * 64), 'engine_sha256: got "000'),
        ],
    )
    def test_edited_beside_the_plan_or_in_the_record(
        self, edit: Callable[[Any], object], field: str, engines: Path
    ) -> None:
        passport = engines / self.FILE
        fresh, record = passport.read_text(), (engines / "alexnet.1.export.json").read_text()
        edited(passport, edit)
        assert f"{self.FILE}: {field}" in only(engines)

        edited(engines / "alexnet.1.export.json", lambda e: edit(e["artifacts"][2]["engines"][0]["passport"]))
        chain = "alexnet.1.export.json: alexnet_int8.sm90.plan: got another passport hash than the record's"
        assert chain in only(engines), "with both edited the field is unknown"

        rewritten(passport, fresh)
        chain_line, field_line = map(str, lint(engines))
        assert chain in chain_line
        assert f"alexnet.1.export.json: passport of alexnet_int8.sm90.plan: {field}" in field_line
        rewritten(engines / "alexnet.1.export.json", record)
        assert lint(engines) == ()

    def test_another_plans(self, engines: Path) -> None:
        rewritten(engines / self.FILE, (engines / self.FILE.replace("int8", "fp32")).read_text())
        fields = {finding.field for finding in lint(engines) if finding.file == self.FILE}
        assert {"precision", "onnx_sha256", "engine_sha256"} <= fields

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff"])
    def test_none_that_can_be_read(self, text: str, engines: Path) -> None:
        rewritten(engines / self.FILE, text.encode("latin-1"))
        assert only(engines).startswith(f"{self.FILE}: ")

    def test_a_profile_beyond_what_was_proved(self, engines: Path) -> None:
        """Edited together with its digest, as an attacker would."""

        def larger(values: Any) -> None:
            passport = engines / self.FILE
            edited(passport, lambda p: p["profile"].update(max=64))
            engine = values["artifacts"][2]["engines"][0]
            engine["passport"]["profile"]["max"] = 64
            engine["passport_digest"] = passport_of(
                engines / self.FILE.replace("passport.json", "plan")
            ).digest

        edited(engines / "alexnet.1.export.json", larger)
        line = "profile of alexnet_int8.sm90.plan: got 1,8,64, expected from 1 to at most 8"
        assert f"alexnet.1.export.json: {line}" in only(engines)


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such folder"):
        lint(tmp_path / "missing")
    with pytest.raises(RepositoryError, match="no model"):
        lint(tmp_path)


def test_a_folder_that_cannot_be_read(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "1":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "alexnet/1: got permission denied" in only(repository)


def test_nothing_heavy_is_imported(repository: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from alexnet_serving import lint; "
        "assert lint(Path(sys.argv[1])) == (); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'safetensors'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", script, str(repository)], check=True)
