"""Lint on every number and word of every configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]

from alexnet_serving import RepositoryOptions, lint
from alexnet_serving.linting.files import Finding, findings_of_differences

from .altered_configs import additions, alterations, copy_of
from .conftest import Artifacts
from .recorded_engines import repository_of_engines
from .test_lint import only, rewritten
from .test_repository import config_of


@pytest.fixture
def engines(artifacts: Artifacts, tmp_path: Path) -> Path:
    return repository_of_engines(artifacts, tmp_path)


def test_every_value_that_is_there(repository: Path, engines: Path) -> None:
    for model in (path.parent for folder in (repository, engines) for path in folder.glob("*/config.pbtxt")):
        path = model / "config.pbtxt"
        fresh = path.read_text()
        altered = list(alterations(config_of(model.parent, model.name)))
        assert len({field for field, _ in altered}) == len(altered) > 15
        for field, config in altered:
            rewritten(path, text_format.MessageToString(config))
            found = lint(model.parent, hashes=False)
            names = [(finding.file, finding.field) for finding in found]
            assert names == [(f"{model.name}/config.pbtxt", field)], field
        rewritten(path, fresh)
        assert lint(model.parent, hashes=False) == ()


def with_options(repository: Path, text: str) -> None:
    """Write options of version 1 into the index as this JSON."""
    path = repository / "repository.json"
    index = json.loads(path.read_text())
    index["exports"]["alexnet"]["versions"]["1"] = "OPTIONS"
    rewritten(path, json.dumps(index).replace('"OPTIONS"', text))


def options_text(**changed: object) -> str:
    return json.dumps({**json.loads(RepositoryOptions().to_json()), **changed})


@pytest.mark.parametrize(
    ("option", "value", "finding"),
    [
        ("runtime", "tensorrt", "alexnet: got a folder, expected only models"),
        ("queue_size", 7, "alexnet_int8/config.pbtxt: dynamic_batching.default_queue_policy: got nothing"),
        ("queue_timeout_s", 0.5, "alexnet_int8/config.pbtxt: dynamic_batching.default_queue_policy: got"),
        ("queue_delay_us", 5, "dynamic_batching.max_queue_delay_microseconds: got 0, expected 5"),
        ("instances", 2, "alexnet_int8/config.pbtxt: instance_group[0].count: got 1, expected 2"),
        ("max_batch", 3, "alexnet/config.pbtxt: max_batch_size: got 8, expected 3"),
        ("encoded", False, "alexnet_decode: got a folder, expected only models"),
    ],
)
def test_an_edited_option_is_found_where_it_acts(
    option: str, value: object, finding: str, repository: Path
) -> None:
    assert {option} < json.loads(RepositoryOptions().to_json()).keys()
    with_options(repository, options_text(**{option: value}))
    assert any(finding in str(found) for found in lint(repository, hashes=False))


def test_an_edited_release_is_found_where_it_acts(engines: Path) -> None:
    with_options(engines, options_text(runtime="tensorrt", triton_release="26.07"))
    found = "default_queue_policy.default_timeout_microseconds: got 1000000, expected 0: on Triton 26.07"
    assert any(found in str(finding) for finding in lint(engines, hashes=False))


def test_every_option_is_tried() -> None:
    (mark,) = test_an_edited_option_is_found_where_it_acts.pytestmark  # type: ignore[attr-defined]
    tried = {option for option, _, _ in mark.args[1]} | {"triton_release"}
    assert tried == json.loads(RepositoryOptions().to_json()).keys()


@pytest.mark.parametrize("model", ["alexnet_fp32", "alexnet_int8"])
def test_the_configuration_of_another_repository(model: str, repository: Path, engines: Path) -> None:
    mine, theirs = (folder / model / "config.pbtxt" for folder in (repository, engines))
    texts = mine.read_text(), theirs.read_text()
    rewritten(theirs, texts[0])
    rewritten(mine, texts[1])
    for folder in (repository, engines):
        findings = lint(folder, hashes=False)
        assert {finding.file for finding in findings} == {f"{model}/config.pbtxt"}
        assert {"backend", "instance_group[0].kind"} <= {finding.field for finding in findings}


def test_every_value_that_is_not(engines: Path) -> None:
    """Fields of Triton's that no configuration of ours sets."""
    path = engines / "alexnet_fp32" / "config.pbtxt"
    fresh = config_of(engines, "alexnet_fp32")
    added = list(additions(fresh))
    assert {"default_model_filename", "output[0].is_shape_tensor"} <= {field for field, _ in added}
    for field, config in added:
        rewritten(path, text_format.MessageToString(config))
        names = [finding.field for finding in lint(engines, hashes=False)]
        assert len(names) == 1, field
        assert names[0].startswith(field), field


def test_every_entry_that_is_left_out(engines: Path) -> None:
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


def test_a_line_as_the_user_reads_it(repository: Path) -> None:
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


@pytest.mark.parametrize(
    "options",
    [
        '""',
        "{}",
        "[]",
        '{"backend":"onnx","queue_delay_us":0,"queue_size":null,"queue_timeout_s":null}',
        options_text(queue_delay_us=0.5),
        options_text(queue_size="many"),
        options_text(queue_size=99999999999999),
        options_text(queue_timeout_s=float("nan")),
        options_text(runtime=["openvino"]),
        options_text(runtime="another"),
        options_text(runtime="pytorch"),
        options_text(queue_timeout_s=[]),
        options_text(queue_size=[]),
        options_text(triton_release=26.07),
        options_text(triton_release="triton"),
    ],
)
def test_options_that_cannot_be_read(options: str, repository: Path) -> None:
    with_options(repository, options)
    assert only(repository).startswith("repository.json: exports.alexnet.versions.1: got ")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: 'alexnet_int8'\nbakcend: 'x'", 'line 2: got Message type "inference.ModelConfig" has'),
        ("name: 'alexnet_int8'\nbakcend: 'x'", 'named "bakcend", expected'),
        ("name: 'a'\nname: 'b'\n", "line 2"),
        ("input { dims: many }", "line 1: got '"),
        ("max_batch_size: 99999999999", "line 1"),
        ("{", "line 1"),
        (b"name: '\xff'", "expected text in UTF-8"),
    ],
)
def test_what_is_no_configuration(text: str | bytes, word: str, repository: Path) -> None:
    rewritten(repository / "alexnet_int8" / "config.pbtxt", text)
    line = only(repository)
    assert line.startswith("alexnet_int8/config.pbtxt: ")
    assert word in line


def test_none(repository: Path) -> None:
    (repository / "alexnet_int8" / "config.pbtxt").unlink()
    assert "alexnet_int8/config.pbtxt: got no such file" in only(repository)
    (repository / "alexnet_int8" / "config.pbtxt").mkdir()
    assert "alexnet_int8/config.pbtxt: got is a directory" in only(repository)


def test_an_extra_entry(engines: Path) -> None:
    path = engines / "alexnet_int8" / "config.pbtxt"
    fresh = config_of(engines, "alexnet_int8")
    config = copy_of(fresh)
    config.parameters["execution_mode"].string_value = "1"
    rewritten(path, text_format.MessageToString(config))
    line = 'parameters["execution_mode"]: got {string_value: "1"}, expected nothing'
    assert only(engines, hashes=False) == f"alexnet_int8/config.pbtxt: {line}"
    config = copy_of(fresh)
    config.cc_model_filenames["12.0"] = "model_sm120.plan"
    rewritten(path, text_format.MessageToString(config))
    line = 'cc_model_filenames["12.0"]: got "model_sm120.plan", expected nothing'
    assert only(engines, hashes=False) == f"alexnet_int8/config.pbtxt: {line}"


def test_with_no_configuration_left_the_plans_say_what_it_was(engines: Path) -> None:
    for model in ("alexnet_fp32", "alexnet_int8"):
        rewritten(engines / model / "config.pbtxt", "{")
    assert [finding.file for finding in lint(engines)] == [
        "alexnet_fp32/config.pbtxt",
        "alexnet_int8/config.pbtxt",
    ]


def test_long_texts_are_cut_to_where_they_differ() -> None:
    same = "the same for a long while, "

    def found(got: str, expected: str) -> Finding:
        (finding,) = findings_of_differences({"name": got}, {"name": expected}, "config.pbtxt")
        return finding

    difference = found(same * 5 + "here", same * 5 + "there" + same * 5)
    assert difference.got.startswith("...")
    assert difference.got.endswith('here"')
    assert "there" in difference.expected
    assert len(difference.expected) < 70
    difference = found(same * 5, same * 5 + "and more")
    assert "and more" in difference.expected, "one being the beginning of the other"
