"""Files that users name: what is no regular file, too large or nested too deeply is one line, and no wait."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_bench import report_from_file
from alexnet_model.checkpoint import FORMAT, is_checkpoint, load_checkpoint, write_tensors
from alexnet_model.class_names import class_names_from_file
from alexnet_model.contract_sources import contract_from_file
from alexnet_model.errors import AlexnetError
from alexnet_model.files import sha256_of_file
from alexnet_model.manifest import manifest_from_folder
from alexnet_model.passport import passport_of
from alexnet_model.pretrained import checkpoint_from
from alexnet_model.reading import bytes_of_file, text_of_file, value_from_json

READERS: dict[str, Callable[[Path], object]] = {
    "export.json": lambda path: manifest_from_folder(path.parent),
    "model.passport.json": lambda path: passport_of(path.with_name("model.plan")),
    "contract.json": contract_from_file,
    "classes.json": class_names_from_file,
    "report.json": report_from_file,
    "weights.safetensors": checkpoint_from,
    "weights.pth": checkpoint_from,
}
JSON_READERS = [name for name in READERS if name.endswith(".json")]


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(AlexnetError) as caught:
        READERS[name](path)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", JSON_READERS)
@pytest.mark.parametrize("levels", [101, 900, 100_000])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path, name: str, levels: int) -> None:
    if name == "contract.json" and len(deep(levels)) > 64 * 1024:
        levels = 10_000
    (tmp_path / name).write_text(deep(levels))
    with pytest.raises(AlexnetError, match=r"more than 100 levels of nesting"):
        READERS[name](tmp_path / name)


def test_a_checkpoint_whose_record_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path, record = tmp_path / "checkpoint.safetensors", deep(50_000)
    sha256 = hashlib.sha256(record.encode()).hexdigest()
    metadata = {"format": FORMAT, "record": record, "record_sha256": sha256}
    write_tensors(path, {}, metadata)
    assert is_checkpoint(path)
    with pytest.raises(AlexnetError, match="levels of nesting"):
        load_checkpoint(path)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("Ω")
    (tmp_path / "link").symlink_to("file")
    assert text_of_file(tmp_path / "link") == "Ω"
    assert sha256_of_file(tmp_path / "link") == sha256_of_file(tmp_path / "file")


def test_the_size_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert bytes_of_file(tmp_path / "file", max_bytes=5) == b"12345"
    with pytest.raises(OSError, match=r"more than 4 bytes: '.*/file'"):
        bytes_of_file(tmp_path / "file", max_bytes=4)


def test_a_pipe_and_a_device_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (bytes_of_file, sha256_of_file):
            with pytest.raises(OSError, match="a pipe or a device, and not a regular file"):
                read(path)


@pytest.mark.parametrize("value", [1, [], [[[1]]], {"a": [{"b": None}, "x"]}])
def test_json_is_parsed_as_it_is(value: Any) -> None:
    assert value_from_json(json.dumps(value)) == value
    assert value_from_json(deep(100)) == json.loads(deep(100))
