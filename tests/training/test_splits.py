from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_model import Contract, splits_from
from alexnet_model.errors import DatasetError
from alexnet_model.progress import silent
from alexnet_training import splits as splits_module
from alexnet_training.splits import (
    PreparedSplits,
    SplitInMemory,
    notes_on_duplicates,
    prepared_from_splits,
)
from alexnet_training.streaming import StreamedSplit

from .conftest import striped


def read(folder: Path) -> PreparedSplits:
    return prepared_from_splits(splits_from(str(folder)), Contract(), progress=silent)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every split too large for memory."""
    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", 0)


def test_small_splits_are_kept_in_memory(stripes: Path) -> None:
    assert isinstance(read(stripes).train, SplitInMemory)


@pytest.mark.usefixtures("on_disk")
def test_batches_from_disk_equal_those_from_memory_in_order_images_and_labels(
    stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = read(stripes).train
    assert isinstance(decoded, StreamedSplit)
    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", 100 * Contract().image_bytes)
    kept = read(stripes).train
    order = np.random.default_rng(0).permutation(32)[:29]
    batches = list(decoded.batches(order, 4))
    assert [len(labels) for _, labels in batches] == [4] * 7 + [1]
    for (images, labels), (same_images, same_labels) in zip(batches, kept.batches(order, 4), strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), kept.labels[order])


@pytest.mark.usefixtures("on_disk")
def test_the_number_of_workers_can_be_given(stripes: Path) -> None:
    splits = splits_from(str(stripes))
    prepared = prepared_from_splits(splits, Contract(), workers=3, progress=silent)
    next(batches := prepared.train.batches(np.arange(32), 1))
    assert len(multiprocessing.active_children()) == 3
    batches.close()  # type: ignore[attr-defined]
    assert "The 32 train images are decoded by 3 worker processes" in prepared.notes[0]


@pytest.mark.usefixtures("on_disk")
def test_closing_the_batches_ends_the_workers(stripes: Path) -> None:
    split = read(stripes).train
    batches = split.batches(np.arange(32), 2)
    next(batches)
    assert multiprocessing.active_children()
    batches.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_without_a_test_folder_validation_is_read_once(stripes: Path) -> None:
    splits = read(stripes)
    assert splits.test is splits.validation


@pytest.mark.parametrize("in_memory", [0, 100])
def test_unreadable_images_of_every_split_are_named_once(
    own_stripes: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", in_memory * Contract().image_bytes)
    for name in ("train/lying/03.png", "train/upright/00.png", "val/upright/05.png"):
        (own_stripes / name).write_bytes(b"no image")
    splits = read(own_stripes)
    labels = [
        np.concatenate([labels for _, labels in split.batches(np.arange(len(split.labels)), 5)])
        for split in (splits.train, splits.validation)
    ]
    assert sorted(image.name for image in splits.unreadable) == [
        "train/lying/03.png",
        "train/upright/00.png",
        "val/upright/05.png",
    ]
    # A large training split has others in their place, so that its batches are complete.
    assert np.bincount(labels[0]).tolist() == ([15, 15] if in_memory else [16, 16])
    assert np.bincount(labels[1]).tolist() == [6, 5]


@pytest.mark.parametrize("in_memory", [0, 100])
def test_a_class_without_a_readable_image_is_refused(
    own_stripes: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", in_memory * Contract().image_bytes)
    for path in (own_stripes / "train/upright").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"class 'upright': got no readable image.*00\.png: got 0 bytes"):
        read(own_stripes)


def test_a_class_folder_without_images_is_refused(own_stripes: Path) -> None:
    (own_stripes / "train/zebra").mkdir()
    with pytest.raises(DatasetError, match=r"class 'zebra': got no image,.*Add images"):
        read(own_stripes)


def test_a_class_whose_images_are_all_in_other_splits_is_refused_with_the_cause(own_stripes: Path) -> None:
    for name in ("lying", "upright"):
        shutil.move(own_stripes / "train" / name, own_stripes / name)
    shutil.rmtree(own_stripes / "train")
    shutil.rmtree(own_stripes / "val")
    for name in ("aaa", "mmm", "zzz"):
        (own_stripes / name).mkdir()
        striped(True, ord(name[0])).save(own_stripes / name / "one.png")
    # The first of a class-sorted list is always taken for the test split.
    with pytest.raises(
        DatasetError, match=r"class 'aaa': got only 1, for validation and testing, .* at least 3"
    ):
        read(own_stripes)


@pytest.mark.parametrize("in_memory", [0, 100])
def test_training_images_in_the_validation_split_are_noted(
    own_stripes: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(splits_module, "MAX_BYTES_IN_MEMORY", in_memory * Contract().image_bytes)
    splits = splits_from(str(own_stripes))
    assert notes_on_duplicates(splits, read(own_stripes)) == []
    if in_memory:  # by their pixels
        Image.open(own_stripes / "train/lying/03.png").save(own_stripes / "val/upright/copy.bmp")
    else:
        shutil.copy(own_stripes / "train/lying/03.png", own_stripes / "val/upright/copy.bmp")
    splits = splits_from(str(own_stripes))
    assert notes_on_duplicates(splits, read(own_stripes)) == [
        "1 of 13 validation images are training images too, which makes their accuracy too high: "
        "val/upright/copy.bmp (train/lying/03.png)."
    ]


def test_copies_in_a_folder_that_is_split_are_counted(own_stripes: Path) -> None:
    folder = own_stripes / "train"
    for index in range(16):
        shutil.copy(folder / f"lying/{index:02d}.png", folder / f"lying/copy_{index:02d}.png")
    assert notes_on_duplicates(splits_from(str(folder)), read(folder)) == [
        f"16 images are duplicates of others in {folder}; duplicates of an image are all in one split."
    ]


def test_a_split_without_a_readable_image_is_refused(own_stripes: Path) -> None:
    for path in (own_stripes / "val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"\(validation\): got no readable image among 12"):
        read(own_stripes)


def test_a_single_class_is_refused(own_stripes: Path) -> None:
    for split in ("train", "val"):
        for path in (own_stripes / split / "upright").iterdir():
            path.unlink()
        (own_stripes / split / "upright").rmdir()
    with pytest.raises(DatasetError, match="one class, 'lying'"):
        read(own_stripes)
