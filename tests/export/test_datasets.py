from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_export.datasets import Evaluation, calibration_from, evaluation_from, synthetic_evaluation
from alexnet_model.class_names import DIGITS
from alexnet_model.contract import Contract
from alexnet_model.errors import CalibrationError, DatasetError
from alexnet_model.progress import silent

UNRELATED = synthetic_evaluation(Contract(), 1)


def write_images(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")


def make_set(root: Path, train: int, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for label, name in enumerate(classes):
        write_images(root / "train" / name, train, seed=label)
        write_images(root / "val" / name, 3, seed=100 + label)
    return root


def evaluation(source: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Evaluation:
    return evaluation_from(str(source), classes, Contract(), silent)


def test_digits_calibrate_on_the_training_part_and_evaluate_on_the_test_split() -> None:
    evaluated = evaluation_from("digits", DIGITS, Contract(), silent)
    _, ledger = calibration_from("digits", evaluated, Contract(), silent)
    assert ledger.in_evaluation_too == ()
    assert (ledger.images, ledger.classes_covered, ledger.part) == (128, 10, "train")
    assert (len(evaluated.images), evaluated.part) == (360, "test")
    assert evaluated.labels is not None
    assert np.bincount(evaluated.labels).min() > 25


def test_too_few_calibration_images_are_refused_with_their_number(tmp_path: Path) -> None:
    make_set(tmp_path, train=5)
    with pytest.raises(CalibrationError, match=r"got 10 readable images .* expected at least 32"):
        calibration_from(str(tmp_path), UNRELATED, Contract(), silent)


def test_an_empty_calibration_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        calibration_from(str(tmp_path), UNRELATED, Contract(), silent)
    with pytest.raises(DatasetError, match="no such file or folder"):
        calibration_from(str(tmp_path / "nowhere"), UNRELATED, Contract(), silent)


def test_unreadable_calibration_images_are_named(tmp_path: Path) -> None:
    make_set(tmp_path, train=20)
    (tmp_path / "train" / "cat" / "000.png").write_bytes(b"broken")
    _, ledger = calibration_from(str(tmp_path), UNRELATED, Contract(), silent)
    assert ledger.images == 39
    assert ledger.unreadable == ("train/cat/000.png",)


def test_the_calibration_sample_is_drawn_from_readable_images(tmp_path: Path) -> None:
    make_set(tmp_path, train=20)
    write_images(tmp_path / "train" / "cat" / "more", 300, seed=5)
    for path in (tmp_path / "train" / "cat" / "more").iterdir():
        path.write_bytes(b"broken")
    _, ledger = calibration_from(str(tmp_path), UNRELATED, Contract(), silent)
    assert (ledger.images, len(ledger.unreadable)) == (40, 300)


def test_images_of_the_evaluation_are_left_out_of_the_calibration_even_under_another_name(
    tmp_path: Path,
) -> None:
    make_set(tmp_path, train=20)
    _, ledger = calibration_from(str(tmp_path), evaluation(tmp_path), Contract(), silent)
    assert ledger.in_evaluation_too == ()
    # Another encoding of the same pixels.
    Image.open(tmp_path / "train" / "cat" / "007.png").save(tmp_path / "val" / "dog" / "copy.bmp")
    prepared, ledger = calibration_from(str(tmp_path), evaluation(tmp_path), Contract(), silent)
    assert (ledger.images, ledger.in_evaluation_too) == (39, ("train/cat/007.png",))
    assert "train/cat/007.png" not in prepared.names


def test_calibration_images_that_are_all_evaluation_images_are_refused(tmp_path: Path) -> None:
    make_set(tmp_path, train=20)
    shutil.rmtree(tmp_path / "val")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    with pytest.raises(CalibrationError, match=r"0 readable images .* without the 40 that"):
        calibration_from(str(tmp_path), evaluation(tmp_path), Contract(), silent)


def test_classes_without_an_evaluation_image_are_named(tmp_path: Path) -> None:
    make_set(tmp_path, train=1, classes=("cat", "dog", "zebra"))
    shutil.rmtree(tmp_path / "val" / "dog")
    assert evaluation(tmp_path, ("zebra", "dog", "cat", "owl")).missing_classes == ("dog", "owl")
    assert synthetic_evaluation(Contract(), 1).missing_classes == ()


def test_labels_follow_names_not_positions(tmp_path: Path) -> None:
    evaluated = evaluation(make_set(tmp_path, train=1), ("zebra", "dog", "cat"))
    assert evaluated.labels is not None
    assert evaluated.labels.tolist() == [2, 2, 2, 1, 1, 1]


def test_classes_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    make_set(tmp_path, train=1)
    with pytest.raises(DatasetError, match="'dog'"):
        evaluation(tmp_path, ("cat", "horse"))


def test_a_set_of_other_classes_still_shows_agreement_but_no_accuracy(tmp_path: Path) -> None:
    make_set(tmp_path, train=1)
    evaluated = evaluation_from(str(tmp_path), ("tench", "goldfish"), Contract(), silent, labels_needed=False)
    assert len(evaluated.images) == 6
    assert evaluated.labels is None


def test_images_without_folders_can_calibrate(tmp_path: Path) -> None:
    write_images(tmp_path / "flat", 60, seed=0)
    _, ledger = calibration_from(str(tmp_path / "flat"), UNRELATED, Contract(), silent)
    assert ledger.images == 43
    evaluated = evaluation_from(str(tmp_path / "flat"), ("tench",), Contract(), silent, labels_needed=False)
    assert len(evaluated.images) == 12


def test_imagenet_folders_are_in_the_models_order(tmp_path: Path) -> None:
    make_set(tmp_path, train=1, classes=("n01440764", "n01443537"))
    evaluated = evaluation(tmp_path, ("tench", "goldfish"))
    assert evaluated.labels is not None
    assert evaluated.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_synthetic_images_differ_and_repeat() -> None:
    first, second = synthetic_evaluation(Contract(), 40), synthetic_evaluation(Contract(), 40)
    assert len(set(first.digests)) == 40
    assert first.digests == second.digests
    assert first.labels is None
