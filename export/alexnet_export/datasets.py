"""The images an export reads: calibration chooses INT8 scales, evaluation judges, and they never mix."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.datasets import (
    ImageDataset,
    PreparedImages,
    digests_of_images,
    prepared_from_set,
    splits_from,
)
from alexnet_model.errors import CalibrationError, DatasetError
from alexnet_model.manifest import CalibrationLedger
from alexnet_model.progress import Progress

from .convert import CALIBRATION_METHOD

CALIBRATION_IMAGES = 128
MINIMUM_CALIBRATION_IMAGES = 32
EVALUATION_IMAGES = 1000
SYNTHETIC_IMAGES = 256


@dataclass(frozen=True)
class Evaluation:
    """Held-out images as the model sees them; synthetic ones have no labels."""

    source: str
    part: str
    images: Uint8Array  # (N, 224, 224, 3)
    labels: npt.NDArray[np.int64] | None  # (N,)
    names: tuple[str, ...]
    unreadable: tuple[str, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        return digests_of_images(self.images)


def data_trained_on(checkpoint: Checkpoint) -> str | None:
    """The set that a checkpoint's own record names, where it can be read here: `digits` or a folder."""
    data = checkpoint.training.get("data")
    return data if data == "digits" or (isinstance(data, str) and Path(data).is_dir()) else None


def evaluation_from(
    source: str | None,
    class_names: tuple[str, ...],
    contract: Contract,
    progress: Progress,
    *,
    labels_needed: bool = True,
) -> Evaluation:
    """The held-out part of a set, at most 1,000 images evenly over its classes; synthetic without a set.

    Where labels are not needed, a set of other classes than the model's, or of none, still tells whether two
    runners agree; it has no labels then.

    Raises:
        DatasetError: the set cannot be read, or labels are needed and its classes are not the model's.
    """
    if source is None:
        return synthetic_evaluation(contract)
    images = splits_from(source).test
    label_of = None
    if labels_needed or _knows(images, class_names):
        label_of = _labels_of(images, class_names)
    prepared = prepared_from_set(images.sample(EVALUATION_IMAGES), contract, progress=progress)
    return Evaluation(
        source=source,
        part=images.split,
        images=prepared.images,
        labels=None if label_of is None else label_of[prepared.labels],
        names=prepared.names,
        unreadable=tuple(image.name for image in prepared.unreadable),
    )


def synthetic_evaluation(contract: Contract, count: int = SYNTHETIC_IMAGES) -> Evaluation:
    """Random images from coarse blobs to fine noise, always the same: for parity, not for accuracy."""
    generator = np.random.default_rng(0)
    size = contract.size
    images = np.empty((count, size, size, 3), np.uint8)
    for index, image in enumerate(images):
        cells = 2 ** (1 + index % 7)  # 2 to 128 cells a side
        coarse = generator.integers(0, 256, (cells, cells, 3), np.uint8)
        grown = np.repeat(np.repeat(coarse, -(-size // cells), axis=0), -(-size // cells), axis=1)
        image[:] = grown[:size, :size]
    names = tuple(f"synthetic_{index:03d}" for index in range(count))
    return Evaluation("synthetic", "probes", images, None, names, ())


def calibration_from(
    source: str, evaluation: Evaluation, contract: Contract, progress: Progress
) -> tuple[PreparedImages, CalibrationLedger]:
    """At most 128 images of a set's training part, evenly over its classes, and their ledger.

    An image that chose the scales cannot also judge them, under whatever name it is in both sets.

    Raises:
        DatasetError: the set cannot be read.
        CalibrationError: it has too few readable images, or one that is evaluated too.
    """
    images = splits_from(source).train
    prepared = prepared_from_set(images.sample(CALIBRATION_IMAGES), contract, progress=progress)
    if len(prepared.images) < MINIMUM_CALIBRATION_IMAGES:
        raise CalibrationError(
            f"calibration set {source}",
            got=f"{len(prepared.images)} readable images in its training part",
            expected=f"at least {MINIMUM_CALIBRATION_IMAGES}, {CALIBRATION_IMAGES} are better",
            next_step="Add images like those that will be classified.",
        )
    shared = _shared_images(prepared, evaluation)
    if shared:
        raise CalibrationError(
            "calibration and evaluation",
            got=f"{len(shared)} shared images, such as {shared[0][0]} and {shared[0][1]}",
            expected="none",
            next_step="Remove them from one of the two.",
        )
    return prepared, CalibrationLedger(
        source=source,
        part=images.split,
        images=len(prepared.images),
        images_sha256=sha256_of_digests(prepared.digests),
        classes_covered=len(set(prepared.labels.tolist())),
        overlap_with_evaluation=len(shared),
        method=CALIBRATION_METHOD,
        unreadable=tuple(image.name for image in prepared.unreadable),
    )


def _shared_images(calibration: PreparedImages, evaluation: Evaluation) -> list[tuple[str, str]]:
    """Both names of every image that is in both."""
    evaluated = dict(zip(evaluation.digests, evaluation.names, strict=True))
    return [
        (name, evaluated[digest])
        for name, digest in zip(calibration.names, calibration.digests, strict=True)
        if digest in evaluated
    ]


def sha256_of_digests(digests: Sequence[str]) -> str:
    """Hex SHA-256 of the sorted digests: the same for the same images in any order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _knows(images: ImageDataset, class_names: tuple[str, ...]) -> bool:
    names = images.class_names
    return _are_imagenets_folders(names, class_names) or set(names) <= set(class_names)


def _are_imagenets_folders(names: tuple[str, ...], class_names: tuple[str, ...]) -> bool:
    return len(names) == len(class_names) and all(re.fullmatch(r"n\d{8}", name) for name in names)


def _labels_of(images: ImageDataset, class_names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """For each class of the set, the model's output: by name, or ImageNet's folders in their order."""
    names = images.class_names
    if _are_imagenets_folders(names, class_names):
        return np.arange(len(names))  # torchvision's outputs are the WordNet ids in sorted order
    outputs = {name: index for index, name in enumerate(class_names)}
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise DatasetError(
            f"{images.source}: class {unknown[0]!r}",
            got=f"{len(unknown)} of {len(names)} classes that the model does not know",
            expected=f"names among the model's {len(class_names)}, such as {class_names[0]!r}",
            next_step="Rename the folders, or evaluate on the data the model was trained for.",
        )
    return np.array([outputs[name] for name in names])
