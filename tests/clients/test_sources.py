from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from alexnet_clients import (
    ImageSource,
    StdinImage,
    images_in_folder,
    name_from_source,
    sources_from_arguments,
)
from alexnet_model.contract import Contract
from alexnet_model.errors import DatasetError, UnreadableImage, UsageError


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "below/c.webp", "below/deeper/d.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    (tmp_path / "below" / "round").symlink_to(tmp_path, target_is_directory=True)
    return tmp_path


def found(*words: object, recursive: bool = False, stdin: bytes = b"") -> list[ImageSource]:
    return list(sources_from_arguments(map(str, words), recursive=recursive, stdin=io.BytesIO(stdin)))


def names(*words: object, recursive: bool = False) -> list[str]:
    return [name_from_source(source) for source in found(*words, recursive=recursive)]


def test_a_folder_names_its_images_in_order(tree: Path) -> None:
    assert names(tree) == [str(tree / name) for name in ("a.JPG", "b.png")]


def test_recursive_searches_every_folder_once(tree: Path) -> None:
    expected = [str(tree / name) for name in ("a.JPG", "b.png", "below/c.webp", "below/deeper/d.bmp")]
    assert names(tree, recursive=True) == expected
    assert [str(path) for path in images_in_folder(tree, recursive=True)] == expected


def test_recursive_follows_links_and_passes_over_junk(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "far.jfif").write_bytes(png())
    (tree / "link").symlink_to(elsewhere)
    for junk in ("@eaDir", "__MACOSX", ".git", "below/.ipynb_checkpoints"):
        (tree / junk).mkdir()
        (tree / junk / "copy.png").write_bytes(png())
    assert names(tree, recursive=True)[-1] == str(tree / "link/far.jfif")
    assert not any("copy" in name for name in names(tree, recursive=True))
    assert not any("copy" in name for name in names(tree / "**" / "*.png"))
    assert names(tree / "@eaDir" / "*.png") == [str(tree / "@eaDir/copy.png")]


def test_what_cannot_be_used_is_yielded_in_its_place(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "dead.png").symlink_to(tree / "nowhere")
    (tree / "photo.heic").write_bytes(b"\0")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if path == tree / "below":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert names(tree, recursive=True) == [
        str(tree / name) for name in ("a.JPG", "b.png", "dead.png", "photo.heic", "below")
    ]


def test_a_pattern_names_its_matches(tree: Path) -> None:
    assert names(tree / "*.png") == [str(tree / "b.png")]
    assert names(tree / "below" / "**" / "*.bmp") == [str(tree / "below/deeper/d.bmp")]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cat[1].png").write_bytes(png())
    assert names(tmp_path / "cat[1].png") == [str(tmp_path / "cat[1].png")]


def test_a_missing_file_is_yielded(tree: Path) -> None:
    assert names(tree / "b.png", "missing.png") == [str(tree / "b.png"), "missing.png"]


@pytest.mark.parametrize(
    ("word", "words"),
    [("below/deeper/nothing*", ["no image", "pattern"]), ("empty", ["no image", "--recursive"])],
)
def test_arguments_without_an_image_are_refused(tree: Path, word: str, words: list[str]) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        found(tree / word)
    for part in words:
        assert part in str(caught.value)


def test_a_missing_folder_is_refused() -> None:
    with pytest.raises(DatasetError, match="no such file"):
        list(images_in_folder(Path("nowhere")))


def test_standard_input_is_one_image() -> None:
    (source,) = found("-", stdin=png())
    assert isinstance(source, StdinImage)
    assert Contract().prepared(source)[0, 0].tolist() == [10, 200, 30]
    with pytest.raises(UsageError, match="twice"):
        found("-", "-")


def test_closed_standard_input_is_refused_only_for_a_dash() -> None:
    def sources(word: str) -> list[ImageSource]:
        return list(sources_from_arguments([word], recursive=False, stdin=None))

    assert sources("a.png") == [Path("a.png")]
    with pytest.raises(UsageError, match="standard input: got a closed one"):
        sources("-")


def test_a_web_address_is_refused_with_the_command_that_downloads_it() -> None:
    with pytest.raises(UsageError, match=r"curl -s 'https://host/a\?b=c' \| alexnet classify -"):
        found("https://host/a?b=c")


def test_pipes_and_devices_are_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(UnreadableImage, match="a pipe or device"):
            Contract().prepared(path)


def test_sample_images_are_named_by_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*arguments: str) -> list[str]:
        sources = sources_from_arguments(arguments, recursive=False, stdin=None)
        return [Path(name_from_source(source)).name for source in sources]

    assert found("sample:flower", "a.png", "sample:digit_3") == ["flower.jpg", "a.png", "digit_3.png"]
    with pytest.raises(
        UsageError, match=r"sample:dog: got no such sample image, expected sample: and one of"
    ):
        found("sample:dog")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample:dog").touch()
    assert found("sample:dog") == ["sample:dog"], "a file of that name is that file"
