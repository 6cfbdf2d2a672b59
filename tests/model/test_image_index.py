from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_model import Splits, folder_dataset, image_index, splits_from
from alexnet_model.image_index import index_folder
from alexnet_model.image_table import ImageTable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of six files, with folders that were changed an hour ago. Every dataset is indexed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_index, "INDEXED_IMAGES", 1)
    root = tmp_path / "images"
    for name in ("train/a/0", "train/a/1", "train/a/deep/0", "train/b/é", "val/a/0", "val/b/0"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    settle(root)
    return root


def settle(root: Path) -> None:
    hour_ago = time.time() - 3600
    for path in (root, *root.rglob("*")):
        os.utime(path, (hour_ago, hour_ago))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were searched."""
    found: list[Path] = []
    search = folder_dataset._search

    def noted(source: Path, searched: Path, *rest: Any) -> Any:
        found.append(searched)
        return search(source, searched, *rest)

    monkeypatch.setattr(folder_dataset, "_search", noted)
    return found


def facts(splits: Splits) -> list[tuple[str, int]]:
    return [(image.name, image.label) for split in (splits.train, splits.test) for image in split.images]


def test_an_unchanged_folder_is_searched_once(folder: Path, searches: list[Path]) -> None:
    first, second = splits_from(str(folder)), splits_from(str(folder))
    assert searches == [folder / "train", folder / "val"]
    assert first == second
    assert facts(first)[:4] == [
        ("train/a/0.png", 0),
        ("train/a/1.png", 0),
        ("train/a/deep/0.png", 0),
        ("train/b/é.png", 1),
    ]
    assert first.train.digest == second.train.digest
    assert len(list(index_folder().iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train/b/1.png").write_bytes(b"1"),
        lambda root: (root / "train/a/deep/0.png").unlink(),
        lambda root: (root / "train/a/1.png").rename(root / "train/a/2.png"),
        lambda root: (root / "train/a/deep").rename(root / "train/a/deeper"),
        lambda root: (root / "train/outside.png").write_bytes(b"1"),
    ],
    ids=["added", "removed", "renamed", "folder renamed", "outside"],
)
def test_a_changed_folder_is_searched_again(folder: Path, searches: list[Path], change: Any) -> None:
    before = splits_from(str(folder))
    change(folder)
    after = splits_from(str(folder))
    assert searches == [folder / "train", folder / "val", folder / "train"]
    assert facts(after) != facts(before) or after.train.left_out != before.train.left_out


def test_the_number_of_images_is_reported_during_the_search(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_dataset, "IMAGES_PER_REPORT", 2)
    seen: list[tuple[str, int, int, str]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        seen.append((stage, done, total, note))

    folder_dataset.splits_of_folder(folder, progress)
    assert seen == [
        ("finding train", 0, 2, "2 images"),  # of the first class, which has three
        ("finding train", 1, 2, "3 images"),
        ("finding train", 1, 2, "4 images"),
        ("finding train", 2, 2, "4 images"),
        ("finding validation", 1, 2, "1 images"),
        ("finding validation", 1, 2, "2 images"),
        ("finding validation", 2, 2, "2 images"),
    ]


def test_a_folder_that_was_changed_a_moment_ago_is_not_indexed(folder: Path) -> None:
    (folder / "val/b/1.png").write_bytes(b"1")
    splits_from(str(folder))
    assert len(list(index_folder().iterdir())) == 1


def test_a_folder_with_a_dead_link_is_not_indexed(folder: Path, searches: list[Path]) -> None:
    link = folder / "train/a/2.png"
    link.symlink_to(folder / "nowhere")
    os.utime(link.parent, (0, 0))
    assert len(splits_from(str(folder)).train.left_out) == 1
    (folder / "nowhere").write_bytes(b"1")
    assert splits_from(str(folder)).train.left_out == ()


def test_small_folders_are_not_indexed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_index, "INDEXED_IMAGES", 5)
    splits_from(str(folder))
    assert not index_folder().exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "one byte", "pickle"])
def test_a_damaged_index_is_replaced(folder: Path, searches: list[Path], damage: str) -> None:
    before = splits_from(str(folder))
    for path in index_folder().iterdir():
        content = bytearray(path.read_bytes())
        if damage == "cut":
            content = content[:-100]
        elif damage == "empty":
            content.clear()
        elif damage == "one byte":
            content[content.index(b"/a/0.png")] ^= 1
        else:
            np.savez(path, names=np.array([object()]), allow_pickle=True)
            continue
        path.write_bytes(content)
    assert splits_from(str(folder)) == before
    assert len(searches) == 4
    assert splits_from(str(folder)) == before
    assert len(searches) == 4


def test_a_cache_folder_that_cannot_be_written_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(splits_from(str(folder)).train) == 4


def test_the_oldest_indexes_are_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_index, "MAX_INDEXES", 1)
    splits_from(str(folder))
    assert len(list(index_folder().iterdir())) == 1


def test_a_table_takes_about_a_hundred_bytes_an_image(folder: Path) -> None:
    images = splits_from(str(folder)).train.images
    assert isinstance(images, ImageTable)
    columns = images.columns
    arrays = (columns.ends, columns.labels, columns.sizes, columns.mtimes_ns, columns.offsets, images.rows)
    assert sum(one.nbytes for one in arrays) == 40 * len(images)


def test_the_digest_depends_on_names_labels_and_sizes(folder: Path) -> None:
    before = splits_from(str(folder)).train.digest
    (folder / "train/b/é.png").write_bytes(b"longer than before")
    assert splits_from(str(folder)).train.digest == before  # from the index: the names have not changed
    (folder / "train/a/1.png").rename(folder / "train/a/2.png")
    assert splits_from(str(folder)).train.digest != before
