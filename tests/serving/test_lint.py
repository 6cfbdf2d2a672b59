"""Lint: nothing to say of a fresh repository, and the very field of whatever is altered in one."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import ModelConfig

from alexnet_model.errors import RepositoryError
from alexnet_model.passport import passport_of
from alexnet_serving import Finding, RepositoryOptions, lint, raise_if_findings, write_repository

from .conftest import Artifacts
from .recorded_engines import H200, L4, with_engines
from .test_repository import config_of

ENGINES = RepositoryOptions(backend="tensorrt")


@pytest.fixture
def engines(artifacts: Artifacts, tmp_path: Path) -> Path:
    """A fresh repository of engines for two kinds of GPU."""
    export = with_engines(artifacts, tmp_path / "export", H200, L4)
    write_repository(export.manifest, export.folder, tmp_path / "models", ENGINES)
    return tmp_path / "models"


def rewritten(path: Path, content: str | bytes) -> None:
    """A file of the repository may be a link to the export's: never written in place."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def edited(path: Path, edit: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    rewritten(path, json.dumps(values, indent=2))


def only(repository: Path, *, hashes: bool = True) -> str:
    """The one finding, as the user reads it."""
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
        RepositoryOptions(backend="tensorrt", queue_size=0, queue_timeout_s=0),
        RepositoryOptions(backend="tensorrt", queue_timeout_s=0.25),
    ],
)
def test_whatever_the_options(options: RepositoryOptions, artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export")
    write_repository(export.manifest, export.folder, tmp_path / "models", options)
    assert lint(tmp_path / "models") == ()


class TestConfig:
    """Every number and word of every configuration."""

    def test_every_value_that_is_there(self, repository: Path, engines: Path) -> None:
        for model in (*repository.glob("alexnet_*"), *engines.glob("alexnet_*")):
            path = model / "config.pbtxt"
            fresh = path.read_text()
            altered = list(alterations(config_of(model.parent, model.name)))
            assert len({field for field, _ in altered}) == len(altered) > 30
            for field, config in altered:
                rewritten(path, text_format.MessageToString(config))
                found = lint(model.parent, hashes=False)
                names = [(finding.file, finding.field) for finding in found]
                assert names == [(f"{model.name}/config.pbtxt", field)], field
            rewritten(path, fresh)
            assert lint(model.parent, hashes=False) == ()

    def test_every_value_that_is_not(self, engines: Path) -> None:
        """Fields of Triton's that no configuration of ours sets."""
        path = engines / "alexnet_fp32" / "config.pbtxt"
        fresh = config_of(engines, "alexnet_fp32")
        added = list(additions(fresh))
        assert {"version_policy", "default_model_filename", "output[0].is_shape_tensor"} <= {
            field for field, _ in added
        }
        for field, config in added:
            rewritten(path, text_format.MessageToString(config))
            names = [finding.field for finding in lint(engines, hashes=False)]
            assert len(names) == 1, field
            assert names[0].startswith(field), field

    def test_every_entry_that_is_left_out(self, engines: Path) -> None:
        path = engines / "alexnet_int8" / "config.pbtxt"
        fresh = config_of(engines, "alexnet_int8")
        for name in fresh.parameters:
            config = copy_of(fresh)
            del config.parameters[name]
            rewritten(path, text_format.MessageToString(config))
            assert f'alexnet_int8/config.pbtxt: parameters["{name}"]' in only(engines, hashes=False)
        config = copy_of(fresh)
        del config.model_warmup[-1]
        rewritten(path, text_format.MessageToString(config))
        assert "model_warmup[7]: got nothing, expected {" in only(engines, hashes=False)

    def test_a_line_as_the_user_reads_it(self, repository: Path) -> None:
        path = repository / "alexnet_int8" / "config.pbtxt"
        fresh = path.read_text()
        rewritten(path, fresh.replace("dims: 224", "dims: 225", 1))
        assert only(repository) == "alexnet_int8/config.pbtxt: input[0].dims[0]: got 225, expected 224"
        rewritten(path, fresh.replace("TYPE_UINT8", "TYPE_FP32", 1))
        line = "alexnet_int8/config.pbtxt: input[0].data_type: got TYPE_FP32, expected TYPE_UINT8"
        assert only(repository) == line
        rewritten(path, fresh.replace('"openvino_dynamic"', '"openvino"'))
        line = 'alexnet_int8/config.pbtxt: backend: got "openvino", expected "openvino_dynamic"'
        assert only(repository) == line

    def test_options_that_say_otherwise_show_where_they_act(self, repository: Path) -> None:
        config = config_of(repository, "alexnet_int8")
        options = RepositoryOptions(queue_delay_us=5)
        config.parameters["repository_options"].string_value = options.to_json()
        rewritten(repository / "alexnet_int8" / "config.pbtxt", text_format.MessageToString(config))
        line = "dynamic_batching.max_queue_delay_microseconds: got 0, expected 5"
        assert only(repository) == f"alexnet_int8/config.pbtxt: {line}"

    @pytest.mark.parametrize(
        "options",
        [
            "",
            "{",
            "[]",
            '{"backend":"onnx"}',
            '{"backend":"onnx","queue_delay_us":0.5,"queue_size":null,"queue_timeout_s":null}',
            '{"backend":"onnx","queue_delay_us":0,"queue_size":"many","queue_timeout_s":null}',
            '{"backend":"onnx","queue_delay_us":0,"queue_size":99999999999999,"queue_timeout_s":null}',
            '{"backend":"onnx","queue_delay_us":0,"queue_size":null,"queue_timeout_s":NaN}',
            '{"backend":["onnx"],"queue_delay_us":0,"queue_size":null,"queue_timeout_s":[]}',
            '{"backend":"onnx","queue_delay_us":0,"queue_size":[],"queue_timeout_s":null}',
        ],
    )
    def test_options_that_cannot_be_read(self, options: str, repository: Path) -> None:
        config = config_of(repository, "alexnet_int8")
        config.parameters["repository_options"].string_value = options
        rewritten(repository / "alexnet_int8" / "config.pbtxt", text_format.MessageToString(config))
        assert 'alexnet_int8/config.pbtxt: parameters["repository_options"]' in only(repository)

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("name: 'alexnet_int8'\nbakcend: 'x'", "line 2: got 2:1"),
            ("name: 'a'\nname: 'b'\n", "line 2"),
            ("input { dims: many }", "line 1"),
            ("max_batch_size: 99999999999", "line 1"),
            ("{", "line 1"),
            (b"name: '\xff'", "expected text in UTF-8"),
            ("", 'parameters["repository_options"]'),
        ],
    )
    def test_what_is_no_configuration(self, text: str | bytes, word: str, repository: Path) -> None:
        rewritten(repository / "alexnet_int8" / "config.pbtxt", text)
        line = only(repository)
        assert line.startswith("alexnet_int8/config.pbtxt: ")
        assert word in line

    def test_none(self, repository: Path) -> None:
        (repository / "alexnet_int8" / "config.pbtxt").unlink()
        assert "alexnet_int8/config.pbtxt: got no such file" in only(repository)
        (repository / "alexnet_int8" / "config.pbtxt").mkdir()
        assert "alexnet_int8/config.pbtxt: got is a directory" in only(repository)


class TestLabels:
    def test_lines(self, repository: Path) -> None:
        path = repository / "alexnet_int8" / "labels.txt"
        lines = path.read_text().splitlines()
        rewritten(path, "\n".join(lines[:-1]))
        assert only(repository) == "alexnet_int8/labels.txt: got 9 lines, expected 10, one a class"
        rewritten(path, "\n".join([*lines, ""]) + "\n")
        assert "got 11 lines" in only(repository)
        rewritten(path, "\n".join([*lines[:3], "three", *lines[4:]]))
        assert only(repository) == "alexnet_int8/labels.txt: line 4: got 'three', expected '3'"
        rewritten(path, "\n".join(reversed(lines)))
        assert "line 1, the first of 10: got '9', expected '0'" in only(repository)
        rewritten(path, b"\xff")
        assert "labels.txt: got 'utf-8' codec" in only(repository)
        path.unlink()
        assert "labels.txt: got no such file" in only(repository)


class TestFolders:
    def test_a_model_that_is_missing(self, repository: Path, tmp_path: Path) -> None:
        (repository / "alexnet_int8").rename(tmp_path / "aside")
        line = "alexnet_int8: got no such folder, expected a model that export.json accepts"
        assert only(repository) == line

    @pytest.mark.parametrize("name", ["alexnet_fp16", "resnet", "a b;c"])
    def test_a_model_that_nobody_knows(self, name: str, repository: Path) -> None:
        (repository / name).mkdir()
        findings = [str(finding) for finding in lint(repository)]
        assert f"{name}: got a folder, expected only models that export.json accepts" in findings
        assert all(finding.startswith(f"{name}") for finding in findings)

    def test_versions_and_files_that_nobody_wrote(self, repository: Path) -> None:
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
        rewritten(engines / "reference.safetensors", b"other answers")
        assert only(engines).startswith("reference.safetensors: SHA-256: got ")
        (engines / "reference.safetensors").unlink()
        assert only(engines).startswith("reference.safetensors: got no such file")

    def test_hashing_says_how_far_it_is(self, engines: Path) -> None:
        reports: list[tuple[str, int, int]] = []
        lint(engines, progress=lambda stage, done, total, note="": reports.append((stage, done, total)))
        (total,) = {total for _, _, total in reports}
        onnx_and_plans = [*engines.glob("*/1/*.onnx"), *engines.glob("*/1/*.plan")]
        assert total == sum(p.stat().st_size for p in [*onnx_and_plans, engines / "reference.safetensors"])
        assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)
        assert reports[-1][1] == total


class TestPassports:
    FILE = "alexnet_int8/1/model_sm90.passport.json"

    @pytest.mark.parametrize(
        ("edit", "field"),
        [
            (lambda p: p.update(tensorrt_version="11.2.1.2"), 'tensorrt_version: got "11.2.1.2"'),
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
        fresh, record = passport.read_text(), (engines / "export.json").read_text()
        edited(passport, edit)
        assert f"{self.FILE}: {field}" in only(engines)

        edited(engines / "export.json", lambda e: edit(e["artifacts"][2]["engines"][0]["passport"]))
        chain = "export.json: alexnet_int8.sm90.plan: got another passport hash than the record's"
        assert chain in only(engines), "both edited: which field it was, nobody can say"

        rewritten(passport, fresh)
        chain_line, field_line = map(str, lint(engines))
        assert chain in chain_line
        assert f"export.json: passport of alexnet_int8.sm90.plan: {field}" in field_line
        rewritten(engines / "export.json", record)
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
        """Edited with its digest, as an attacker or a tool of somebody else's would."""

        def larger(values: Any) -> None:
            passport = engines / self.FILE
            edited(passport, lambda p: p["profile"].update(max=64))
            engine = values["artifacts"][2]["engines"][0]
            engine["passport"]["profile"]["max"] = 64
            engine["passport_digest"] = passport_of(
                engines / self.FILE.replace("passport.json", "plan")
            ).digest

        edited(engines / "export.json", larger)
        line = "export.json: profile of alexnet_int8.sm90.plan: got 1,8,64, expected from 1 to at most 8"
        assert line in only(engines)


class TestRecord:
    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", '{"schema_version": 2}'])
    def test_none_that_can_be_read(self, text: str, engines: Path) -> None:
        rewritten(engines / "export.json", text.encode("latin-1"))
        assert only(engines).startswith("export.json: ")

    def test_none(self, engines: Path) -> None:
        (engines / "export.json").unlink()
        assert only(engines).startswith("export.json: got no such file or directory")

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (
                lambda e: e["model"].update(weights_sha256="c" * 64),
                ["export.json: fp32.onnx: got another we"],
            ),
            (lambda e: e["contract"].update(resize=232), ["export.json: fp32.onnx: got another contract"]),
            (
                lambda e: e["artifacts"][2].update(sha256="c" * 64),
                ["export.json: alexnet_int8.sm90.plan: got"],
            ),
            (lambda e: e.update(max_batch=16), []),  # the engines decide
            (lambda e: e.update(max_batch=4), ["export.json: profile of alexnet_fp32.sm90.plan"]),
            (lambda e: e.update(max_batch=-1), ["export.json: profile of"]),
            (lambda e: e["artifacts"][1]["verdict"].update(accepted=True), []),  # it has no engine
            (lambda e: e["artifacts"][2]["verdict"].update(accepted=False), ["alexnet_int8: got a folder"]),
            (lambda e: e.update(reference_sha256="0" * 64), ["reference.safetensors: SHA-256"]),
        ],
    )
    def test_edited(self, edit: Callable[[Any], object], words: list[str], engines: Path) -> None:
        edited(engines / "export.json", edit)
        findings = list(map(str, lint(engines)))
        assert len(findings) == len(words)
        assert all(finding.startswith(word) for finding, word in zip(findings, words, strict=True))

    @pytest.mark.parametrize(
        ("edit", "word"),
        [
            (lambda e: e.update(max_batch=10**12), "export.json: got what makes no configuration"),
            (lambda e: e["artifacts"][0].update(reports=[]), "export.json: runtime of fp32.onnx: got none"),
            (
                lambda e: e["artifacts"][1]["verdict"].update(accepted=True),
                "alexnet_fp16: got no such folder",
            ),
        ],
    )
    def test_edited_for_onnx(self, edit: Callable[[Any], object], word: str, repository: Path) -> None:
        edited(repository / "export.json", edit)
        assert only(repository).startswith(word)


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
    assert "alexnet_fp32/1: got permission denied" in only(repository)


def test_findings_become_an_error_for_whoever_serves() -> None:
    repository = Path("models")
    raise_if_findings(repository, ())
    finding = Finding("alexnet_int8/labels.txt", "", "9 lines", "10, one a class")
    with pytest.raises(RepositoryError, match="models: got 1 finding, expected none") as caught:
        raise_if_findings(repository, (finding,))
    assert str(finding) in str(caught.value)
    assert "alexnet lint models" in str(caught.value)
    with pytest.raises(RepositoryError, match="got 2 findings") as caught:
        raise_if_findings(repository, (finding, finding), shown=True)
    assert str(finding) not in str(caught.value)


def test_nothing_heavy_is_imported(repository: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from alexnet_serving import lint; "
        "assert lint(Path(sys.argv[1])) == (); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'safetensors'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", script, str(repository)], check=True)


def alterations(config: ModelConfig) -> Iterator[tuple[str, ModelConfig]]:
    """The configuration again and again, each time with another one of its values altered, and its name."""
    for path in leaves(config):
        altered = copy_of(config)
        owner: Any = altered
        for step in path[:-1]:
            owner = owner[step] if isinstance(step, int | _Key) else getattr(owner, step)
        last = path[-1]
        value = owner[last] if isinstance(last, int | _Key) else getattr(owner, last)
        if isinstance(value, bool):
            other: Any = not value
        else:
            other = value + "x" if isinstance(value, str) else value + 1
        if isinstance(last, int | _Key):
            owner[last] = other
        else:
            setattr(owner, last, other)
        yield name_of(path), altered


def additions(
    message: Any, path: tuple[Any, ...] = (), root: Any = None
) -> Iterator[tuple[str, ModelConfig]]:
    """The same with each field that is not set, set."""
    root = message if root is None else root
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, Mapping):
            continue
        if hasattr(value, "append") or hasattr(value, "add"):
            for index, entry in enumerate(value if field.message_type else ()):
                yield from additions(entry, (*path, field.name, index), root)
            if value:
                continue
        elif field.message_type and message.HasField(field.name):
            yield from additions(value, (*path, field.name), root)
            continue
        elif not field.message_type and value:
            continue
        altered = copy_of(root)
        owner: Any = altered
        for step in path:
            owner = owner[step] if isinstance(step, int) else getattr(owner, step)
        if field.containing_oneof and owner.WhichOneof(field.containing_oneof.name):
            continue  # it would take the other's place
        if hasattr(value, "add"):
            getattr(owner, field.name).add()
        elif hasattr(value, "append"):
            getattr(owner, field.name).append(b"x" if field.type == field.TYPE_BYTES else _other(field))
        elif field.message_type:
            getattr(owner, field.name).SetInParent()
        else:
            setattr(owner, field.name, _other(field))
        yield name_of((*path, field.name)), altered


def _other(field: Any) -> Any:
    return {field.CPPTYPE_STRING: "x", field.CPPTYPE_BOOL: True}.get(field.cpp_type, 1)


def copy_of(config: ModelConfig) -> ModelConfig:
    copy = ModelConfig()
    copy.CopyFrom(config)
    return copy


class _Key(str):
    """A map's key in a path."""


def leaves(message: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value that is set lies."""
    for field, value in message.ListFields():
        here = (*path, field.name)
        if isinstance(value, Mapping):
            entries: Any = [((*here, _Key(key)), value[key]) for key in value]
        elif hasattr(value, "append") or hasattr(value, "add"):
            entries = [((*here, index), entry) for index, entry in enumerate(value)]
        else:
            entries = [(here, value)]
        for at, entry in entries:
            if hasattr(entry, "ListFields"):
                yield from leaves(entry, at)
            else:
                yield at


def name_of(path: tuple[Any, ...]) -> str:
    name = ""
    for step in path:
        if isinstance(step, int):
            name += f"[{step}]"
        elif isinstance(step, _Key):
            name += f'["{step}"]'
        else:
            name += f".{step}" if name else step
    return name
