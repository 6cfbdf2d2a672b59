"""Held-out digits as PNG files, and how many of them a served model classifies correctly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from alexnet_model.datasets import splits_from

if TYPE_CHECKING:
    from alexnet_clients import Prediction


@dataclass(frozen=True)
class DemoImage:
    """An image that training never saw, and its class."""

    path: Path
    label: str


@dataclass(frozen=True)
class ServedPredictions:
    """What one served model predicted for each image, in their order."""

    model: str
    predictions: Sequence[Prediction]
    images: Sequence[DemoImage]

    @property
    def correct(self) -> int:
        """How many images are classified correctly.

        Raises:
            AlexnetError: the request for an image failed.
        """
        return sum(
            prediction.best.label == image.label
            for prediction, image in zip(self.predictions, self.images, strict=True)
        )

    @property
    def request_bytes_per_image(self) -> int:
        """The largest number of bytes that one image took in a request."""
        return max(prediction.request_bytes or 0 for prediction in self.predictions)


def write_test_images(folder: Path) -> list[DemoImage]:
    """Write the digits' test images as PNG files, named by number and class.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = splits_from("digits").test
    written = []
    for image in part.images:
        label = part.class_names[image.label]
        path = folder / f"{image.name}_is_{label}.png"
        assert isinstance(image.source, Image.Image)
        image.source.save(path)
        written.append(DemoImage(path, label))
    return written
