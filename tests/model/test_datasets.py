from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_model import Contract, ImageDataset, Splits, built_in_datasets, splits_from
from alexnet_model.errors import DatasetError, MissingExtra
from alexnet_model.prepared_images import prepared_from_set, prepared_sample

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


def test_digits_are_read_without_the_import_of_scikit_learn() -> None:
    """It takes three seconds of processor time."""
    program = "import sys; from alexnet_model import splits_from; splits_from('digits')"
    check = "sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", f"{program}; {check}"]).returncode == 0


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_in_datasets, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"module sklearn: got no such module, .*alexnet-serving\[train\]"):
        splits_from("digits")


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
        ({}, ["no such file or folder"]),
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


def test_a_dataset_without_readable_images_is_refused(folder_of: FolderOf) -> None:
    root = folder_of({"train/a": 2, "val/a": 1})
    for path in (root / "train/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"no readable image among 2.*0 bytes"):
        prepared_from_set(splits_from(str(root)).train, Contract())


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


def test_a_prepared_sample_of_readable_images_is_the_sample(digits: Splits) -> None:
    prepared = prepared_sample(digits.train, 37, Contract())
    assert list(prepared.names) == names_of(digits.train.sample(37))
    expected = prepared_from_set(digits.train.sample(37), Contract())
    np.testing.assert_array_equal(prepared.images, expected.images)
    np.testing.assert_array_equal(prepared.labels, expected.labels)


def test_others_of_the_class_take_the_place_of_unreadable_images_in_a_sample(folder_of: FolderOf) -> None:
    root = folder_of({"train/a": 60, "train/b": 60, "val/a": 1})
    for path in sorted((root / "train/a").iterdir())[:45]:
        path.write_bytes(b"broken")
    train = splits_from(str(root)).train
    done: list[tuple[int, int]] = []
    prepared = prepared_sample(
        train, 20, Contract(), progress=lambda stage, count, total, note="": done.append((count, total))
    )
    assert np.bincount(prepared.labels).tolist() == [10, 10]
    assert len(set(prepared.names)) == len(prepared.images) == 20
    assert all(int(name[-7:-4]) >= 45 for name in prepared.names if "/a/" in name)
    assert done[-1] == (20, 20)
    for name, pixels in zip(prepared.names, prepared.images, strict=True):
        np.testing.assert_array_equal(pixels, Contract().prepared(root / name))
    every = prepared_sample(train, 110, Contract())
    assert (len(every.images), len(every.unreadable)) == (75, 45)


def test_a_sample_leaves_out_excluded_images(folder_of: FolderOf) -> None:
    train = splits_from(str(folder_of({"train/a": 20, "train/b": 20, "val/a": 1}))).train
    first = prepared_sample(train, 10, Contract())
    second = prepared_sample(train, 10, Contract(), excluded=first.digests)
    assert second.excluded == first.names
    assert len(second.images) == 10
    assert not set(second.digests) & set(first.digests)
    none = prepared_sample(train, 10, Contract(), excluded=prepared_from_set(train, Contract()).digests)
    assert (len(none.images), len(none.excluded)) == (0, 40)


def test_copies_are_in_the_split_of_their_image(folder_of: FolderOf) -> None:
    root = folder_of({"a": 30, "b": 30})
    before = splits_from(str(root))
    for index in range(30):
        content = (root / "a" / f"{index:03d}.png").read_bytes()
        (root / "a" / f"copy_{index:03d}.png").write_bytes(content)
        (root / "b" / f"copy_{index:03d}.png").write_bytes(content)
    splits = splits_from(str(root))
    assert (before.duplicates, splits.duplicates) == (0, 60)
    every = (splits.train, splits.validation, splits.test)
    assert sum(map(len, every)) == 120
    contents = [{Path(str(image.source)).read_bytes() for image in split.images} for split in every]
    assert sum(map(len, contents)) == 60  # no content is in two splits
    # The images themselves are where they are without duplicates.
    for with_copies, without in zip(every, (before.train, before.validation, before.test), strict=True):
        assert [name for name in names_of(with_copies) if "copy" not in name] == names_of(without)
