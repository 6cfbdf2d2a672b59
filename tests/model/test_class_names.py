"""Class names: the forms of a file, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_model.class_names import checked_class_names, class_names_from_file, imagenet_class_names
from alexnet_model.errors import UsageError

AWKWARD = (
    "tench, Tinca tinca",
    "a:b:c",
    " leading",
    "ночь",
    "犬",
    "👩‍🚀",
    "e\u0301",
    'say "hi"',
    "0",
    "\u3000wide",
)


def test_imagenet_has_1000_class_names() -> None:
    names = imagenet_class_names()
    assert checked_class_names(names, 1000, "ImageNet") == names
    assert all(name == name.strip() != "" for name in names)
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "cat\ndog: big, brown\nkeeshond\n"),
        ("names.txt", "\ufeffcat\r\ndog: big, brown\r\nkeeshond"),
        ("names", "cat \n dog: big, brown\nkeeshond\n\n\n"),
        ("names.json", '["cat", "dog: big, brown", "keeshond"]'),
        ("names.json", '{"0": "cat", "2": "keeshond", "1": "dog: big, brown"}'),
        ("names.json", '{"0": ["n01", "cat"], "1": ["n02", "dog: big, brown"], "2": ["n03", "keeshond"]}'),
        ("names.json", '{"keeshond": 2, "cat": 0, "dog: big, brown": 1}'),
    ],
)
def test_each_form_of_a_file_gives_the_same_names(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert class_names_from_file(tmp_path / name) == ("cat", "dog: big, brown", "keeshond")


def test_names_of_pairs_that_repeat_get_their_identifier(tmp_path: Path) -> None:
    """ImageNet's list has two cranes and two maillots."""
    path = tmp_path / "imagenet_class_index.json"
    path.write_text('{"0": ["n02012849", "crane"], "1": ["n03126707", "crane"], "2": ["n01440764", "tench"]}')
    assert class_names_from_file(path) == ("crane (n02012849)", "crane (n03126707)", "tench")


def test_json_names_of_any_characters_are_kept(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps(AWKWARD))
    names = class_names_from_file(tmp_path / "names.json")
    assert checked_class_names(names, len(AWKWARD), "names") == AWKWARD


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b"], "names.txt: got 2 names, expected 3, one for each output of the network"),
        (["a", "b", "c", "d"], "names.txt: got 4 names, expected 3"),
        (["a", "b", "a"], "class 0: got 'a', as also for class 2, expected names that differ"),
        (["a", "", "c"], "class 1: got '', expected a name of one line"),
        (["a", "  ", "c"], "class 1: got '  ', expected a name of one line"),
        (["a", "b\nc", "d"], r"class 1: got 'b\nc', expected a name of one line"),
        (["a", "b\r", "d"], r"class 1: got 'b\r'"),
        (["a", "b\u2028c", "d"], r"class 1: got 'b\u2028c'"),
        (["a", "b\0", "d"], r"class 1: got 'b\x00'"),
        (["a", "\ud800", "d"], r"class 1: got '\ud800'"),
        (["a", 3, "d"], "class 1: got 3"),
    ],
)
def test_names_that_cannot_be_used_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        checked_class_names(names, 3, "names.txt")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("names.json", b"{", "got Expecting property name"),
        ("names.json", b'{"0": "cat", "2": "dog"}', "got a JSON object of 2 names without the output 1"),
        ("names.json", b'{"cat": 0, "dog": 2}', "without the output 1"),
        ("names.json", b"3", "got JSON of type int"),
        ("names.json", b'["cat", 3]', "got the JSON entry ['', 3]"),
        ("names.json", b'[["a", "b", "c"]]', "got the JSON entry ['a', 'b', 'c']"),
        ("names.json", b"[" * 100_000, "more than 100 levels of nesting"),
        ("names.txt", b"\xff\xfe", "codec can't decode"),
    ],
)
def test_files_that_hold_something_else_are_refused(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as refused:
        class_names_from_file(tmp_path / name)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got no such file"):
        class_names_from_file(tmp_path / "none.txt")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(20 * 2**20)
    with pytest.raises(UsageError, match="got more than 16,777,216 bytes"):
        class_names_from_file(tmp_path / "huge.txt")
