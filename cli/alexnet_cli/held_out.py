"""Held-out digits as PNG files, and how many of them a served model names rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from alexnet_model.pictures import splits_from

if TYPE_CHECKING:
    from alexnet_clients import Prediction


@dataclass(frozen=True)
class HeldOutPicture:
    path: Path
    label: str


@dataclass(frozen=True)
class Answers:
    """What one served model said of each picture, in their order."""

    model: str
    predictions: Sequence[Prediction]
    pictures: Sequence[HeldOutPicture]

    @property
    def right(self) -> int:
        """How many are named rightly.

        Raises:
            AlexnetError: a picture could not be answered.
        """
        return sum(
            prediction.best.label == picture.label
            for prediction, picture in zip(self.predictions, self.pictures, strict=True)
        )

    @property
    def request_bytes_a_picture(self) -> int:
        """The most that a picture took on the wire."""
        return max(prediction.request_bytes or 0 for prediction in self.predictions)


def write_held_out_pictures(folder: Path) -> list[HeldOutPicture]:
    """Write the digits' held-out part, one PNG a picture, named by number and class.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = splits_from("digits").test
    written = []
    for picture in part.pictures:
        label = part.class_names[picture.label]
        path = folder / f"{picture.name}_is_{label}.png"
        assert isinstance(picture.source, Image.Image)
        picture.source.save(path)
        written.append(HeldOutPicture(path, label))
    return written
