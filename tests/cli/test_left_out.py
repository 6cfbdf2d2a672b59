"""What `train` prints about images that they leave out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_cli.tables import print_training
from alexnet_model.labelled_images import Unreadable
from alexnet_training import Accuracy, TrainingReport


def report(**changes: Any) -> TrainingReport:
    values: dict[str, Any] = {
        "checkpoint": SimpleNamespace(class_names=("rose", "tulip")),
        "epochs": (),
        "epochs_resumed": 0,
        "test_accuracy": Accuracy(20, 20, 20),
        "ten_crop_accuracy": None,
        "missing_classes": (),
        "unreadable": (),
        "notes": (),
    }
    return TrainingReport(**values | changes)


def test_the_classes_without_a_test_image_are_beside_the_accuracy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_training(report(missing_classes=("rose", "tulip")))
    assert "accuracy 100.0% (20 of 20 test images; none of rose, tulip)" in capsys.readouterr().out
    print_training(report())
    assert "accuracy 100.0% (20 of 20 test images)" in capsys.readouterr().out


def test_top_5_is_printed_if_there_are_more_classes(capsys: pytest.CaptureFixture[str]) -> None:
    print_training(report())
    assert "top-5" not in capsys.readouterr().out
    digits = SimpleNamespace(class_names=tuple("0123456789"))
    print_training(report(checkpoint=digits, test_accuracy=Accuracy(10, 20, 15)))
    assert "accuracy 50.0% (10 of 20 test images), top-5 75.0%, " in capsys.readouterr().out


def test_ten_of_many_images_that_were_left_out_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    print_training(report(unreadable=tuple(Unreadable(f"{n}", f"{n}.png: cut") for n in range(312))))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Left out 312 images and folders that cannot be read:"
    assert lines[1:] == [*(f"  {n}.png: cut" for n in range(10)), "  and 302 more"]
    print_training(report(unreadable=(Unreadable("1", "a\nb.png: cut"),)))
    assert capsys.readouterr().err.splitlines()[1:] == ["  a\\nb.png: cut"]
