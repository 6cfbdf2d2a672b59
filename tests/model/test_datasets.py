from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_model import Contract, ImageDataset, Splits, splits_from
from alexnet_model.datasets import prepared_from_set, readable_images
from alexnet_model.errors import DatasetError

FolderOf = Callable[..., Path]


@pytest.fixture(scope="module")
def digits() -> Splits:
    return splits_from("digits")


@pytest.fixture
def folder_of(tmp_path: Path) -> FolderOf:
    """Write an image folder: `folder_of({"train/cat": 5, "val/cat": 2})`. Every image has its own colour."""

    def make(counts: dict[str, int]) -> Path:
        root = tmp_path / "images"
        colour = 0
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for index in range(count):
                colour += 1
                Image.new("RGB", (30, 20), (colour, 255 - colour, 0)).save(root / name / f"{index:03d}.png")
        return root

    return make


def names_of(*splits: ImageDataset) -> list[str]:
    return [image.name for split in splits for image in split.images]


def test_the_splits_of_digits_are_disjoint_and_cover_the_dataset(digits: Splits) -> None:
    splits = (digits.train, digits.validation, digits.test)
    assert [len(split) for split in splits] == [1293, 144, 360]
    assert [split.split for split in splits] == ["train", "validation", "test"]
    assert sorted(names_of(*splits)) == [f"digit_{index:04d}" for index in range(1797)]


def test_digits_have_every_class_in_every_split_and_are_not_mirrorable(digits: Splits) -> None:
    for split in (digits.train, digits.validation, digits.test):
        shares = np.bincount(split.labels, minlength=10) / len(split)
        assert shares.min() > 0.08
        assert shares.max() < 0.12
        assert not split.mirrorable
        assert split.class_names == tuple("0123456789")


def test_the_split_is_the_same_every_time(digits: Splits) -> None:
    assert names_of(splits_from("digits").test) == names_of(digits.test)
    # A change would put images that old checkpoints were trained on into the test split.
    assert names_of(digits.test)[:4] == ["digit_0002", "digit_0004", "digit_0007", "digit_0009"]


def test_digits_equal_the_images_of_scikit_learn(digits: Splits) -> None:
    from sklearn.datasets import load_digits

    known = load_digits()
    image = digits.test.images[7]
    index = int(image.name.removeprefix("digit_"))
    assert image.label == known.target[index]
    assert isinstance(image.source, Image.Image)
    np.testing.assert_allclose(np.asarray(image.source), known.images[index] * 255 / 16, atol=0.5)


def test_a_folder_with_train_and_val(folder_of: FolderOf) -> None:
    root = folder_of({"train/dog": 3, "train/cat": 2, "val/cat": 1, "val/dog": 2})
    splits = splits_from(str(root))
    assert splits.train.class_names == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert splits.train.mirrorable
    assert splits.train.images[0].source == root / "train/cat/000.png"
    assert names_of(splits.validation) == ["val/cat/000.png", "val/dog/000.png", "val/dog/001.png"]
    assert splits.test == replace(splits.validation, split="test")


def test_a_folder_with_train_val_and_test(folder_of: FolderOf) -> None:
    root = folder_of({"train/a": 2, "train/b": 2, "val/a": 1, "test/b": 3})
    splits = splits_from(str(root))
    assert names_of(splits.test) == [f"test/b/00{index}.png" for index in range(3)]
    assert splits.test.labels.tolist() == [1, 1, 1]
    assert splits.validation.class_names == splits.test.class_names == ("a", "b")


def test_a_flat_folder_is_split_evenly_over_its_classes(folder_of: FolderOf) -> None:
    splits = splits_from(str(folder_of({"a": 50, "b": 50})))
    every = (splits.train, splits.validation, splits.test)
    assert [len(split) for split in every] == [72, 8, 20]
    assert len(set(names_of(*every))) == 100
    for split in every:
        counts = np.bincount(split.labels, minlength=2)
        assert abs(int(counts[0]) - int(counts[1])) <= 1


def test_images_in_subfolders_are_found_and_other_files_ignored(folder_of: FolderOf) -> None:
    root = folder_of({"train/a": 1, "train/a/deeper": 1, "train/b": 1, "val/a": 1, "train/.cache": 1})
    (root / "train/a/notes.txt").write_text("no image")
    (root / "train/a/UPPER.PNG").write_bytes((root / "train/a/000.png").read_bytes())
    splits = splits_from(str(root))
    assert splits.train.class_names == ("a", "b")
    assert names_of(splits.train) == [
        "train/a/000.png",
        "train/a/UPPER.PNG",
        "train/a/deeper/000.png",
        "train/b/000.png",
    ]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, ["no such folder"]),
        ({"train/a": 2}, ["val", "validation split"]),
        ({"train/a": 2, "val": 0}, ["no images"]),
        ({"train": 0, "val/a": 1}, ["no images"]),
        ({"train/a": 0, "val/a": 1}, ["no images"]),
        ({"train/a": 2, "val/a": 1, "val/b": 1}, ["class folder 'b'", "1 classes"]),
        ({"train/a": 2, "val/a": 1, "test": 0}, ["no images"]),
        ({"a": 0}, ["no images"]),
        ({"a": 1}, ["leaves none for the train split", "at least 10"]),
    ],
    ids=str,
)
def test_folders_without_images_or_with_wrong_classes_are_refused(
    folder_of: FolderOf, tmp_path: Path, counts: dict[str, int], words: list[str]
) -> None:
    folder_of(counts)
    with pytest.raises(DatasetError) as refused:
        splits_from(str(tmp_path / "images"))
    for word in words:
        assert word in str(refused.value)


def with_broken(root: Path) -> Splits:
    """Break three images, each in a different way, and replace one by a dead link."""
    (root / "train/a/003.png").write_bytes(b"")
    (root / "train/a/005.png").write_bytes((root / "train/a/005.png").read_bytes()[:40])
    (root / "train/b/000.png").unlink()
    (root / "train/b/000.png").symlink_to(root / "nowhere")
    (root / "train/b/001.png").write_text("no image")
    return splits_from(str(root))


BROKEN = ["train/b/000.png", "train/a/003.png", "train/a/005.png", "train/b/001.png"]


def test_unreadable_images_are_named_with_the_reason(folder_of: FolderOf) -> None:
    splits = with_broken(folder_of({"train/a": 10, "train/b": 10, "val/a": 1}))
    prepared = prepared_from_set(splits.train, Contract())
    assert [image.name for image in prepared.unreadable] == BROKEN
    assert "a link that leads nowhere" in prepared.unreadable[0].reason
    assert "0 bytes" in prepared.unreadable[1].reason
    assert len(prepared.images) == len(prepared.labels) == len(prepared.names) == 16
    assert not set(BROKEN) & set(prepared.names)
    # Labels and images still belong to their names.
    for name, label, pixels in zip(prepared.names, prepared.labels, prepared.images, strict=True):
        image = next(image for image in splits.train.images if image.name == name)
        assert image.label == label
        np.testing.assert_array_equal(pixels, Contract().prepared(image.source))


def test_readable_images_leaves_out_the_same_images_as_preparation(folder_of: FolderOf) -> None:
    splits = with_broken(folder_of({"train/a": 10, "train/b": 10, "val/a": 1}))
    seen: list[tuple[str, int, int]] = []
    readable, unreadable = readable_images(
        splits.train,
        Contract(),
        progress=lambda stage, done, total, note="": seen.append((stage, done, total)),
    )
    prepared = prepared_from_set(splits.train, Contract())
    assert unreadable == prepared.unreadable
    assert tuple(names_of(readable)) == prepared.names
    assert readable == replace(splits.train, images=readable.images)
    assert seen == [("checking train", done, 19) for done in range(1, 20)]


@pytest.mark.parametrize("read", [prepared_from_set, readable_images])
def test_a_dataset_without_readable_images_is_refused(
    folder_of: FolderOf, read: Callable[..., object]
) -> None:
    root = folder_of({"train/a": 2, "val/a": 1})
    for path in (root / "train/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"no readable image among 2.*0 bytes"):
        read(splits_from(str(root)).train, Contract())


def test_equal_pixels_have_equal_digests(digits: Splits) -> None:
    few = digits.validation.sample(6)
    twice = replace(few, images=(*few.images, few.images[2]))
    digests = prepared_from_set(twice, Contract()).digests
    assert digests[6] == digests[2]
    assert len(set(digests)) == 6


@pytest.mark.parametrize("count", [0, 1, 10, 37, 100, 1000])
def test_a_sample_has_every_class_in_proportion(digits: Splits, count: int) -> None:
    sample = digits.train.sample(count)
    assert len(sample) == count
    counts = np.bincount(sample.labels, minlength=10)
    shares = np.bincount(digits.train.labels, minlength=10) * count / len(digits.train)
    assert np.abs(counts - shares).max() < 1
    assert set(names_of(sample)) <= set(names_of(digits.train))
    assert names_of(sample) == sorted(names_of(sample))


def test_a_sample_of_at_least_the_size_is_the_dataset_itself(digits: Splits) -> None:
    assert digits.validation.sample(144) is digits.validation
    assert digits.validation.sample(10_000) is digits.validation
