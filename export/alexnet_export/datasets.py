"""The images of an export: calibration images for INT8 scales and, disjoint, evaluation images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.datasets import is_built_in, splits_from
from alexnet_model.errors import CalibrationError, DatasetError
from alexnet_model.labelled_images import ImageDataset
from alexnet_model.manifest import CalibrationLedger
from alexnet_model.prepared_images import PreparedImages, digests_of_images, prepared_sample
from alexnet_model.progress import Progress

if TYPE_CHECKING:
    from alexnet_model.checkpoint import Checkpoint

CALIBRATION_IMAGES = 128
MINIMUM_CALIBRATION_IMAGES = 32
EVALUATION_IMAGES = 1000
SYNTHETIC_IMAGES = 256


@dataclass(frozen=True)
class Evaluation:
    """Held-out images, prepared for the model.

    Attributes:
        source: `digits`, a folder, or `synthetic`.
        part: The part of the source, such as `test`.
        images: uint8, `(N, S, S, 3)`.
        labels: The model's output for each image's class, int64 `(N,)`; None if the classes are unknown.
        names: The images' names.
        unreadable: Names of the images that could not be read.
        missing_classes: The model's classes of which there is no image; empty if the classes are unknown.
    """

    source: str
    part: str
    images: Uint8Array
    labels: npt.NDArray[np.int64] | None
    names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()
    missing_classes: tuple[str, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of each image."""
        return digests_of_images(self.images)


def data_trained_on(checkpoint: Checkpoint) -> str | None:
    """Return the data that a checkpoint was trained on, built in or a folder; None if it is not here."""
    data = checkpoint.training.get("data")
    return data if isinstance(data, str) and (is_built_in(data) or Path(data).exists()) else None


def evaluation_from(
    source: str | None,
    class_names: tuple[str, ...],
    contract: Contract,
    progress: Progress,
    *,
    labels_needed: bool = True,
) -> Evaluation:
    """Read the test split of a set, at most 1,000 images evenly over its classes.

    Args:
        source: `digits` or a folder. None: synthetic images.
        class_names: The model's classes.
        contract: How images are prepared.
        progress: Called with the progress of reading.
        labels_needed: Whether a set of other classes than the model's is an error. If not, such a set has no
            labels, and still shows whether two runners agree.

    Raises:
        DatasetError: the set cannot be read, or labels are needed and its classes are not the model's.
    """
    if source is None:
        return synthetic_evaluation(contract)
    images = splits_from(source).test
    label_of = None
    if labels_needed or _has_classes_of(images, class_names):
        label_of = _labels_of(images, class_names)
    prepared = prepared_sample(images, EVALUATION_IMAGES, contract, progress=progress)
    labels = None if label_of is None else label_of[prepared.labels]
    seen = set() if labels is None else set(labels.tolist())
    return Evaluation(
        source=source,
        part=images.split,
        images=prepared.images,
        labels=labels,
        names=prepared.names,
        unreadable=tuple(image.name for image in prepared.unreadable),
        missing_classes=tuple(name for index, name in enumerate(class_names) if seen and index not in seen),
    )


def synthetic_evaluation(contract: Contract, count: int = SYNTHETIC_IMAGES) -> Evaluation:
    """Make `count` random images from coarse blobs to fine noise, always the same; they have no labels."""
    generator = np.random.default_rng(0)
    size = contract.size
    images = np.empty((count, size, size, 3), np.uint8)
    for index, image in enumerate(images):
        cells = 2 ** (1 + index % 7)  # 2 to 128 cells a side
        coarse = generator.integers(0, 256, (cells, cells, 3), np.uint8)
        grown = np.repeat(np.repeat(coarse, -(-size // cells), axis=0), -(-size // cells), axis=1)
        image[:] = grown[:size, :size]
    names = tuple(f"synthetic_{index:03d}" for index in range(count))
    return Evaluation("synthetic", "probes", images, None, names)


def calibration_from(
    source: str, evaluation: Evaluation, contract: Contract, progress: Progress
) -> tuple[PreparedImages, CalibrationLedger]:
    """Read at most 128 images of a set's training part, evenly over its classes.

    Args:
        source: `digits` or a folder.
        evaluation: The evaluation images. They are left out, even under another name.
        contract: How images are prepared.
        progress: Called with the progress of reading.

    Returns:
        The prepared images, and their record.

    Raises:
        DatasetError: the set cannot be read.
        CalibrationError: it has too few readable images that are not in `evaluation`.
    """
    from .convert import CALIBRATION_METHOD  # with PyTorch, which reading images does not need

    images = splits_from(source).train
    prepared = prepared_sample(
        images, CALIBRATION_IMAGES, contract, excluded=set(evaluation.digests), progress=progress
    )
    if len(prepared.images) < MINIMUM_CALIBRATION_IMAGES:
        shared = f", without the {len(prepared.excluded)} that the evaluation has too"
        raise CalibrationError(
            f"calibration set {source}",
            got=f"{len(prepared.images)} readable images in its training part"
            + (shared if prepared.excluded else ""),
            expected=f"at least {MINIMUM_CALIBRATION_IMAGES}, {CALIBRATION_IMAGES} are better",
            next_step="Add images like those that will be classified.",
        )
    return prepared, CalibrationLedger(
        source=source,
        part=images.split,
        images=len(prepared.images),
        images_sha256=sha256_of_digests(prepared.digests),
        classes_covered=len(set(prepared.labels.tolist())),
        in_evaluation_too=prepared.excluded,
        method=CALIBRATION_METHOD,
        unreadable=tuple(image.name for image in prepared.unreadable),
    )


def sha256_of_digests(digests: Sequence[str]) -> str:
    """Return the hex SHA-256 of the sorted digests: the same for the same images in any order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _has_classes_of(images: ImageDataset, class_names: tuple[str, ...]) -> bool:
    names = images.class_names
    return _are_imagenet_folders(names, class_names) or set(names) <= set(class_names)


def _are_imagenet_folders(names: tuple[str, ...], class_names: tuple[str, ...]) -> bool:
    return len(names) == len(class_names) and all(re.fullmatch(r"n\d{8}", name) for name in names)


def _labels_of(images: ImageDataset, class_names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return the model's output for each class of the set: by name, or ImageNet's folders in order."""
    names = images.class_names
    if _are_imagenet_folders(names, class_names):
        return np.arange(len(names))  # torchvision's outputs are the WordNet ids in sorted order
    outputs = {name: index for index, name in enumerate(class_names)}
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise DatasetError(
            f"{images.source}: class {unknown[0]!r}",
            got=f"{len(unknown)} of {len(names)} classes that the model does not have",
            expected=f"names among the model's {len(class_names)}, such as {class_names[0]!r}",
            next_step="Rename the folders, or evaluate on the data the model was trained for.",
        )
    return np.array([outputs[name] for name in names])
