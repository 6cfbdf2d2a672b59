"""Which files and folders of a user's folder are images, classes and splits."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from alexnet_model import splits_from
from alexnet_model.errors import DatasetError
from alexnet_model.image_folders import LeftOut, image_files, split_folders

JUNK = ["__MACOSX", "@eaDir", ".ipynb_checkpoints", "lost+found", "._a", "#recycle"]


def write(root: Path, *names: str) -> Path:
    """Write an image of its own colour to each name, or an empty folder where a name ends in `/`."""
    for index, name in enumerate(names):
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (index % 256, index // 256, 9)).save(path, "PNG")
    return root


def many(*classes: str, count: int = 12) -> list[str]:
    return [f"{name}/{index:02d}.png" for name in classes for index in range(count)]


def found(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the images below a folder, and the reasons of what is left out."""
    every = list(image_files(folder, recursive=True))
    images = [str(path.relative_to(folder)) for path in every if isinstance(path, Path)]
    return images, [left_out.reason for left_out in every if isinstance(left_out, LeftOut)]


def refusal(folder: Path) -> str:
    with pytest.raises(DatasetError) as refused:
        splits_from(str(folder))
    return str(refused.value)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that cannot be read; by a fake, because root can read every folder."""
    folders: list[Path] = []
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if path in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    return folders


def test_junk_is_passed_over_at_every_depth(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "below/b.png", ".hidden.png", "._a.png", "below/._b.png")
    write(tmp_path, *(f"{folder}{name}/x.png" for name in JUNK for folder in ("", "below/")))
    assert found(tmp_path) == (["a.png", "below/b.png"], [])


def test_junk_folders_are_no_classes_and_their_copies_in_no_split(tmp_path: Path) -> None:
    for name in ("train", "val", *JUNK):
        write(tmp_path / name, *many("rose", "tulip", *JUNK, f"rose/{JUNK[1]}", count=3))
    splits = splits_from(str(tmp_path))
    assert splits.train.class_names == ("rose", "tulip")
    assert len(splits.train) == len(splits.validation) == 6


def test_suffixes_are_those_that_pillow_has_for_the_decoded_formats(tmp_path: Path) -> None:
    suffixes = (
        "jpg",
        "JPEG",
        "jfif",
        "jpe",
        "png",
        "apng",
        "bmp",
        "gif",
        "tif",
        "tiff",
        "webp",
        "pgm",
        "pbm",
    )
    write(tmp_path, *(f"a.{suffix}" for suffix in (*suffixes, "txt", "pdf", "ico", "mpo")))
    assert found(tmp_path) == (sorted(f"a.{suffix}" for suffix in suffixes), [])


def test_images_of_other_formats_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.HEIC", "c.svg")
    assert found(tmp_path) == (
        ["a.png"],
        [
            f"{tmp_path}/b.HEIC: a HEIC image; convert it to JPEG or PNG",
            f"{tmp_path}/c.svg: an SVG image; convert it to JPEG or PNG",
        ],
    )


def test_links_to_folders_and_files_are_followed_once_and_not_in_circles(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "class/a.png", "class/sub/b.png")
    elsewhere = write(tmp_path / "elsewhere", "c.png", "deep/d.png")
    (elsewhere / "circle").symlink_to(elsewhere)
    for name, target in {
        "linked": elsewhere,
        "linked again": elsewhere,
        "file.png": elsewhere / "c.png",
        "up": data,
        "itself": data / "class" / "itself",
        "here": data / "class",
    }.items():
        (data / "class" / name).symlink_to(target)
    assert found(data / "class") == (
        ["a.png", "file.png", "linked/c.png", "linked/deep/d.png", "sub/b.png"],
        [],
    )


def test_a_folder_may_be_written_with_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", "below/b.png")
    monkeypatch.chdir(tmp_path / "below")
    for folder in ("..", "../below/..", str(tmp_path / "below" / "..")):
        assert found(Path(folder)) == (["a.png", "below/b.png"], [])
    assert found(Path()) == (["b.png"], [])


def test_what_looks_like_an_image_and_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "dead.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    assert found(tmp_path) == (
        [],
        [f"{tmp_path}/dead.png: a link that leads nowhere", f"{tmp_path}/pipe.png: a pipe or device"],
    )


def test_an_unreadable_folder_costs_only_itself(tmp_path: Path, unreadable: list[Path]) -> None:
    write(tmp_path, "a/1.png", "b/2.png", "b/deeper/3.png", "c/4.png")
    unreadable.append(tmp_path / "b")
    assert found(tmp_path) == (["a/1.png", "c/4.png"], [f"{tmp_path}/b: permission denied"])
    unreadable.append(tmp_path)
    with pytest.raises(PermissionError):
        found(tmp_path)
    assert "permission denied" in refusal(tmp_path)


def test_a_dataset_names_what_it_leaves_out(tmp_path: Path, unreadable: list[Path]) -> None:
    write(tmp_path, *many("train/a", "train/b", "val/a", "val/b", count=3), "train/outside.png")
    write(tmp_path / "train/a/secret", "1.png")
    unreadable += [tmp_path / "train/a/secret", tmp_path / "train/b"]
    splits = splits_from(str(tmp_path))
    assert len(splits.train) == 3
    assert [(left_out.name, left_out.reason) for left_out in splits.train.left_out] == [
        ("train/outside.png", f"{tmp_path}/train/outside.png: in no class folder"),
        ("train/a/secret", f"{tmp_path}/train/a/secret: permission denied"),
        ("train/b", f"{tmp_path}/train/b: permission denied"),
    ]
    assert splits.validation.left_out == ()


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("Training", "Testing"),
        ("TRAIN", "VAL"),
        ("train_set", "test_set"),
        ("train-set", "valid"),
        ("train", "validation"),
        ("trainset", "Test Set"),
        ("train_data", "test_data"),
    ],
)
def test_the_usual_names_of_splits_are_known_in_any_case(tmp_path: Path, train: str, other: str) -> None:
    write(tmp_path, *many(f"{train}/a", f"{train}/b"), *many(f"{other}/a", f"{other}/b", count=4), "info/")
    splits = splits_from(str(tmp_path))
    assert splits.train.class_names == ("a", "b")
    names = {image.name.partition("/")[0] for image in splits.train.images}
    assert names == {train}
    assert {image.name.partition("/")[0] for image in splits.test.images} == {other}
    assert len(splits.test) == 8


def test_without_a_validation_folder_it_is_taken_from_train(tmp_path: Path) -> None:
    write(tmp_path, *many("train/a", "train/b", "test/a", "test/b", count=20))
    splits = splits_from(str(tmp_path))
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [36, 4, 40]
    assert {image.name[:5] for image in splits.validation.images} == {"train"}
    assert not {image.name for image in splits.validation.images} & {
        image.name for image in splits.train.images
    }
    assert [split.split for split in (splits.train, splits.validation, splits.test)] == [
        "train",
        "validation",
        "test",
    ]


@pytest.mark.parametrize("classes", [("test", "control"), ("train", "plane"), ("trainer", "valley", "tests")])
def test_classes_may_be_named_like_splits(tmp_path: Path, classes: tuple[str, ...]) -> None:
    write(tmp_path, *many(*classes))
    assert splits_from(str(tmp_path)).train.class_names == tuple(sorted(classes))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/a", "Training/a", "val/a"], "Training, train for the train split"),
        (["train/a", "val/a", "valid/a"], "val, valid for the validation split"),
        (["train/a"], "got train without val or test"),
        (["val/a", "test/a"], "got test, val without train"),
        (["Set1/a", "Set1/b", "Set2/a"], "Set1, Set2: no images, only folders such as Set1/a"),
        (["images/a", "images/b"], "images: no images, only folders such as images/a,.* Pass .*images"),
        (["train/images/a", "val/images/a"], "images: no images, only folders such as images/a"),
    ],
    ids=str,
)
def test_folders_whose_classes_are_not_clear_are_refused(
    tmp_path: Path, names: list[str], words: str
) -> None:
    write(tmp_path, *many(*names))
    with pytest.raises(DatasetError, match=words):
        splits_from(str(tmp_path))


@pytest.mark.parametrize("under", ["", "train/"])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([os.fsdecode(b"caf\xe9")], "which is not UTF-8"),
        (["two\nlines"], r"'two\nlines', which has a line break"),
        (["caf\u00e9", "cafe\u0301"], "in another Unicode normal form"),
    ],
    ids=["not UTF-8", "line break", "normal forms"],
)
def test_class_folders_that_cannot_name_a_class_are_refused(
    tmp_path: Path, under: str, names: Iterable[str], words: str
) -> None:
    write(tmp_path, *many(*(f"{under}{name}" for name in names), f"{under}b", "val/b"))
    line = refusal(tmp_path) if under else refusal_of_flat(tmp_path)
    assert words in line
    assert line.isascii()
    assert "\n" not in line


def refusal_of_flat(folder: Path) -> str:
    for path in (folder / "val/b").iterdir():
        path.unlink()
    (folder / "val/b").rmdir()
    (folder / "val").rmdir()
    return refusal(folder)


def test_one_folder_inside_each_class_is_part_of_it(tmp_path: Path) -> None:
    write(tmp_path, *many("tench/images", "goldfish/images"))
    assert splits_from(str(tmp_path)).train.class_names == ("goldfish", "tench")


def test_a_class_in_another_normal_form_in_val_is_refused_with_the_cause(tmp_path: Path) -> None:
    write(tmp_path, *many("train/caf\u00e9", "train/b", "val/cafe\u0301"))
    assert "another Unicode normal form" in refusal(tmp_path)


def test_folders_of_splits_are_found_without_their_images(tmp_path: Path) -> None:
    write(tmp_path, "Train/", "Test/", "notes/")
    assert split_folders(tmp_path) == {"train": tmp_path / "Train", "test": tmp_path / "Test"}
    assert split_folders(write(tmp_path / "flat", "a/", "b/")) == {}
