from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from alexnet_model import Contract, splits_from
from alexnet_model.errors import DatasetError, ImageError
from alexnet_model.progress import silent
from alexnet_training import parts as parts_module
from alexnet_training.parts import PartInMemory, PartOnDisk, Parts, parts_from_splits


def read(folder: Path) -> Parts:
    return parts_from_splits(splits_from(str(folder)), Contract(), progress=silent)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is too large for memory."""
    monkeypatch.setattr(parts_module, "IN_MEMORY", 0)


def test_small_parts_are_kept_in_memory(stripes: Path) -> None:
    assert isinstance(read(stripes).train, PartInMemory)


@pytest.mark.usefixtures("on_disk")
def test_batches_come_in_order_with_their_labels_from_disk_as_from_memory(
    stripes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = read(stripes).train
    assert isinstance(decoded, PartOnDisk)
    monkeypatch.setattr(parts_module, "IN_MEMORY", 100)
    kept = read(stripes).train
    order = np.random.default_rng(0).permutation(32)[:29]
    batches = list(decoded.batches(order, 4))
    assert [len(labels) for _, labels in batches] == [4] * 7 + [1]
    for (images, labels), (same_images, same_labels) in zip(batches, kept.batches(order, 4), strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), kept.labels[order])


@pytest.mark.usefixtures("on_disk")
def test_leaving_in_the_middle_stops_the_decoding(stripes: Path) -> None:
    part = read(stripes).train
    before = threading.active_count()
    batches = part.batches(np.arange(32), 2)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.usefixtures("on_disk")
def test_an_image_that_vanishes_later_is_named(own_stripes: Path) -> None:
    part = read(own_stripes).train
    (own_stripes / "train/upright/03.png").unlink()
    with pytest.raises(ImageError, match=r"upright/03\.png: got no such file"):
        list(part.batches(np.arange(32), 8))


def test_without_a_held_out_part_validation_is_read_once(stripes: Path) -> None:
    parts = read(stripes)
    assert parts.test is parts.validation


@pytest.mark.parametrize("in_memory", [0, 100])
def test_unreadable_images_of_every_part_are_named_once(
    own_stripes: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(parts_module, "IN_MEMORY", in_memory)
    for name in ("train/lying/03.png", "train/upright/00.png", "val/upright/05.png"):
        (own_stripes / name).write_bytes(b"no image")
    parts = read(own_stripes)
    assert [image.name for image in parts.unreadable] == [
        "train/lying/03.png",
        "train/upright/00.png",
        "val/upright/05.png",
    ]
    assert len(parts.train.labels) == 30
    assert parts.train.labels.sum() == 15


@pytest.mark.parametrize("in_memory", [0, 100])
def test_a_class_without_a_readable_image(
    own_stripes: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(parts_module, "IN_MEMORY", in_memory)
    for path in (own_stripes / "train/upright").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"class 'upright': got no readable image.*00\.png: got 0 bytes"):
        read(own_stripes)


def test_a_class_folder_without_images(own_stripes: Path) -> None:
    (own_stripes / "train/zebra").mkdir()
    with pytest.raises(DatasetError, match=r"class 'zebra': got no readable image.*Add images"):
        read(own_stripes)


def test_a_part_without_a_readable_image(own_stripes: Path) -> None:
    for path in (own_stripes / "val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"\(validation\): got no readable image among 12"):
        read(own_stripes)


def test_one_class_is_nothing_to_tell_apart(own_stripes: Path) -> None:
    for part in ("train", "val"):
        for path in (own_stripes / part / "upright").iterdir():
            path.unlink()
        (own_stripes / part / "upright").rmdir()
    with pytest.raises(DatasetError, match="the one class 'lying'"):
        read(own_stripes)
