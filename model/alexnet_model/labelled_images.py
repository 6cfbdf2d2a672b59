"""The types of an image dataset: labelled images in a training, a validation and a test split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .contract import canonical_json
from .image_table import ImageTable, LabelledImage

UNLABELLED = "unlabelled"  # the one class of images that are in no class folder


@dataclass(frozen=True)
class Unreadable:
    """An image, folder or shard that was left out because it cannot be used, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageDataset:
    """The images of one split of a dataset.

    Args:
        source: the name of a built-in dataset, such as "digits", or the path of a folder or a list of shards.
        split: "train", "validation" or "test".
        class_names: the names of the classes, in the order of the labels.
        images: the images; those of folders and shards are an `ImageTable`.
        mirrorable: whether a mirrored image keeps its class; a digit does not.
        left_out: what the search for images found and cannot use, such as unreadable folders.
    """

    source: str
    split: str
    class_names: tuple[str, ...]
    images: Sequence[LabelledImage]
    mirrorable: bool
    left_out: tuple[Unreadable, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The labels `(N,)` in the order of the images."""
        if isinstance(self.images, ImageTable):
            return self.images.labels
        return np.array([image.label for image in self.images], dtype=np.int64)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the names, labels and sizes in bytes of the images."""
        if isinstance(self.images, ImageTable):
            return self.images.digest
        every = [[image.name, image.label] for image in self.images]
        return hashlib.sha256(canonical_json(every).encode()).hexdigest()

    def taken(self, indices: npt.NDArray[np.int64]) -> ImageDataset:
        """Return the dataset with only the images at `indices` `(M,)`, in that order."""
        images = self.images
        if isinstance(images, ImageTable):
            return replace(self, images=images.taken(indices))
        return replace(self, images=tuple(images[index] for index in indices.tolist()))

    def sample(self, count: int) -> ImageDataset:
        """Return at most `count` images, with every class in proportion to its size, to within one image."""
        if count >= len(self):
            return self
        by_class = np.argsort(self.labels, kind="stable")
        return self.taken(np.sort(by_class[evenly_spaced(len(self), count)]))


@dataclass(frozen=True)
class Splits:
    """The three splits of a dataset.

    Args:
        train: the images to train on.
        validation: the images that every epoch is measured on.
        test: the images that the result is measured on, after the training.
        duplicates: in a dataset that was split here, how many images have the same bytes as an earlier one.
    """

    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset
    duplicates: int = 0


def evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    """Return `count` evenly spaced indices `(count,)` of `length` things."""
    return (np.arange(count) * length // max(count, 1)).astype(np.int64)
