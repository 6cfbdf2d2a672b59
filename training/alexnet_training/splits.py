"""The splits of a dataset as training reads them: prepared by the contract, without unreadable images.

A small split is decoded once and kept in memory. A large one is decoded again in every epoch by worker
processes (`streaming.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import DatasetError, ImageError, UsageError, listed
from alexnet_model.labelled_images import ImageDataset, Splits, Unreadable
from alexnet_model.prepared_images import digests_of_images, prepared_from_set
from alexnet_model.progress import Progress, silent
from alexnet_model.splitting import duplicates_between

from .streaming import Indices, StreamedSplit, default_workers

MAX_BYTES_IN_MEMORY = 308_281_344  # of one split: 2,048 images of 224 pixels


@dataclass(frozen=True, eq=False)
class SplitInMemory:
    """One split with its prepared images in memory."""

    images: Uint8Array  # (N, S, S, 3)
    labels: Indices
    names: tuple[str, ...]
    digests: tuple[str, ...]  # of the images as the contract prepares them
    unreadable: tuple[Unreadable, ...]

    def batches(self, order: Indices, size: int) -> Iterator[tuple[Uint8Array, Indices]]:
        """Yield images uint8 `(B, S, S, 3)` and labels `(B,)`.

        Args:
            order: indices of images, in the order to read them.
            size: images a batch; the last batch may be smaller.
        """
        for indices in _chunks(order, size):
            yield self.images[indices], self.labels[indices]


Split: TypeAlias = SplitInMemory | StreamedSplit


@dataclass(frozen=True)
class PreparedSplits:
    """The three splits. `test` is the same object as `validation` for a folder without `test/`."""

    train: Split
    validation: Split
    test: Split

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """The images of all splits that were left out."""
        distinct = [self.train, self.validation] + [self.test] * (self.test is not self.validation)
        return tuple(dict.fromkeys(image for split in distinct for image in split.unreadable))

    @property
    def notes(self) -> list[str]:
        """Which splits are decoded again in every epoch."""
        return [
            f"The {len(split.labels):,} {split.dataset.split} images are decoded by {split.workers} worker "
            f"process{'es' if split.workers > 1 else ''} whenever they are used: in memory they would take "
            f"{len(split.labels) * split.contract.image_bytes / 1e9:,.1f} GB."
            for split in dict.fromkeys((self.train, self.validation, self.test))
            if isinstance(split, StreamedSplit)
        ]


def prepared_from_splits(
    splits: Splits,
    contract: Contract,
    *,
    keep_margin: bool = False,
    workers: int | None = None,
    progress: Progress,
) -> PreparedSplits:
    """Decode the images of small splits into memory, and prepare large ones for streaming.

    Of a large training split, one image of each class is decoded. What else cannot be read in a large split
    is found when it is used.

    Args:
        splits: the dataset.
        contract: how images are prepared.
        keep_margin: keep the margin of training images that the contract's centre crop removes: they have
            the shape `(resize, resize, 3)`. Without effect if the contract does not crop.
        workers: processes that decode the images of large splits. None: `streaming.default_workers`.
        progress: called after every image.

    Raises:
        DatasetError: a split, or a class of the training split, has no readable image.
    """
    _check_several_classes(splits.train)
    wide = with_margin(contract) if keep_margin else contract
    train = prepared_split(splits.train, wide, workers=workers, progress=progress, shown=contract.size)
    if isinstance(train, StreamedSplit):
        _check_classes(splits, *_readable_classes(splits.train, contract, progress))
    else:
        _check_classes(splits, train.labels, train.unreadable)
    validation = prepared_split(splits.validation, contract, workers=workers, progress=progress)
    same = splits.test.images is splits.validation.images
    test = validation if same else prepared_split(splits.test, contract, workers=workers, progress=progress)
    return PreparedSplits(train, validation, test)


def with_margin(contract: Contract) -> Contract:
    """Return a contract that keeps the margin that a centre crop removes; the same one if there is none."""
    return replace(contract, size=contract.resize) if isinstance(contract.resize, int) else contract


def check_ten_crops(dataset: ImageDataset, contract: Contract) -> None:
    """Check that ten different crops of an image exist, and that its mirror image keeps its class.

    Args:
        dataset: the test images.
        contract: how the network's images are prepared.

    Raises:
        UsageError: the images cannot be mirrored, or the contract leaves no margin around its crop.
    """
    without = "Leave --ten-crop out."
    if not dataset.mirrorable:
        raise UsageError(
            "ten crops",
            got=f"{dataset.source}, whose mirror images can be of another class",
            expected="images that keep their class when they are mirrored",
            next_step=without,
        )
    if with_margin(contract).size == contract.size:
        raise UsageError(
            "ten crops",
            got=f"a contract with resize {contract.resize} and size {contract.size}, which has no margin",
            expected="a resize that is larger than the size, such as 256 and 224",
            next_step=without,
        )


def notes_on_duplicates(splits: Splits, prepared: PreparedSplits, progress: Progress = silent) -> list[str]:
    """Say how many images are duplicates, and whether training images are among those of the other splits.

    Args:
        splits: the dataset.
        prepared: its prepared splits. Images are equal if their prepared pixels are, or in large splits
            if their files are.
        progress: called after every file that is compared.
    """
    notes = []
    if splits.duplicates:
        notes.append(
            f"{splits.duplicates:,} images are duplicates of others in {splits.train.source}; "
            "duplicates of an image are all in one split."
        )
    others = [prepared.validation] + [prepared.test] * (prepared.test is not prepared.validation)
    for dataset, split in zip((splits.validation, splits.test), others, strict=False):
        if isinstance(prepared.train, SplitInMemory) and isinstance(split, SplitInMemory):
            trained_on = dict(zip(prepared.train.digests, prepared.train.names, strict=True))
            shared = [
                (name, trained_on[digest])
                for name, digest in zip(split.names, split.digests, strict=True)
                if digest in trained_on
            ]
        else:
            shared = duplicates_between(splits.train.images, dataset.images, progress)
        if shared:
            notes.append(
                f"{len(shared):,} of {len(split.labels):,} {dataset.split} images are training images too, "
                "which makes their accuracy too high: "
                f"{listed(f'{name} ({original})' for name, original in shared)}."
            )
    return notes


def prepared_split(
    dataset: ImageDataset,
    contract: Contract,
    *,
    workers: int | None,
    progress: Progress,
    shown: int | None = None,
) -> Split:
    """Decode the images of a small split into memory, or prepare a large one for streaming.

    Args:
        dataset: the images.
        contract: how they are prepared.
        workers: processes that decode the images of a large split. None: `streaming.default_workers`.
        progress: called after every image that is decoded.
        shown: the size of the centre that the network sees, of training images.

    Raises:
        DatasetError: no image of a small split can be read.
    """
    if len(dataset) * contract.image_bytes > MAX_BYTES_IN_MEMORY:
        is_train = shown is not None
        return StreamedSplit(
            dataset, contract, replace_unreadable=is_train, workers=workers or default_workers()
        )
    prepared = prepared_from_set(dataset, contract, progress=progress)
    size = shown or contract.size
    margin, end = (contract.size - size) // 2, (contract.size + size) // 2
    digests = digests_of_images(prepared.images[:, margin:end, margin:end])
    return SplitInMemory(prepared.images, prepared.labels, prepared.names, digests, prepared.unreadable)


def _readable_classes(
    dataset: ImageDataset, contract: Contract, progress: Progress
) -> tuple[Indices, tuple[Unreadable, ...]]:
    """Return the labels of the classes with a readable image, and what was found to be unreadable."""
    labels = dataset.labels
    by_class = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[by_class], np.arange(len(dataset.class_names)), side="right")
    unreadable: list[Unreadable] = []

    def is_readable(indices: Indices) -> bool:
        for index in indices.tolist():
            image = dataset.images[index]
            try:
                contract.prepared(image.source)
                return True
            except ImageError as error:
                unreadable.append(Unreadable(image.name, str(error)))
        return False

    readable = []
    with ThreadPoolExecutor() as pool:
        found = pool.map(is_readable, np.split(by_class, ends[:-1]))
        try:
            for label, has_image in enumerate(found):
                readable += [label] * has_image
                progress(f"checking {dataset.split}", label + 1, len(ends), "one image of each class")
        finally:
            pool.shutdown(cancel_futures=True)
    return np.array(readable, dtype=np.int64), tuple(unreadable)


def _check_several_classes(dataset: ImageDataset) -> None:
    if len(dataset.class_names) < 2:
        raise DatasetError(
            f"{dataset.source} ({dataset.split})",
            got=f"one class, {dataset.class_names[0]!r}",
            expected="at least two classes",
            next_step="Add a folder of images for each other class.",
        )


def _check_classes(splits: Splits, labels: Indices, unreadable: tuple[Unreadable, ...]) -> None:
    """Check that every class has a training image.

    Args:
        splits: the dataset.
        labels: of readable training images.
        unreadable: training images that cannot be read.
    """
    dataset = splits.train
    counts = np.bincount(labels, minlength=len(dataset.class_names))
    empty = [name for name, count in zip(dataset.class_names, counts, strict=True) if not count]
    if empty:
        label = dataset.class_names.index(empty[0])
        listed_here = {image.name for image in dataset.images if image.label == label}
        elsewhere = {
            image.name
            for split in (splits.validation, splits.test)
            for image in split.images
            if image.label == label
        }
        left_out = dataset.left_out if not listed_here else ()
        reasons = [image.reason for image in unreadable if image.name in listed_here]
        reasons += [image.reason for image in left_out if empty[0] in Path(image.name).parts]
        if reasons:
            got, next_step = "no readable image", f"The first reason: {reasons[0]}"
        elif elsewhere:
            got = f"only {len(elsewhere)}, for validation and testing"
            next_step = "Add images of this class. A folder that is split needs at least 3."
        else:
            got, next_step = "no image", "Add images, or remove the folder."
        raise DatasetError(
            f"{dataset.source} ({dataset.split}): class {empty[0]!r}",
            got=got,
            expected="at least one of every class",
            next_step=next_step,
        )


def _chunks(order: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
