"""The splits of a dataset as training reads them: prepared by the contract, without unreadable images.

A small split is kept in memory. A large one is decoded again in every epoch by threads, a few batches ahead.
Pillow releases Python's lock while it decodes, so threads are enough, and unlike processes they need no
/dev/shm.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.datasets import (
    ImageDataset,
    LabelledImage,
    Splits,
    Unreadable,
    digests_of_images,
    prepared_from_set,
    readable_images,
)
from alexnet_model.errors import DatasetError, listed
from alexnet_model.progress import Progress

MAX_BYTES_IN_MEMORY = 308_281_344  # of one split: 2,048 images of 224 pixels
BATCHES_AHEAD = 3

Indices: TypeAlias = npt.NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class SplitOnDisk:
    """One split with only the names of its images in memory."""

    images: tuple[LabelledImage, ...]
    labels: Indices
    digests: tuple[str, ...]  # of the images as the contract prepares them
    unreadable: tuple[Unreadable, ...]
    contract: Contract

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the images."""
        return tuple(image.name for image in self.images)

    def batches(self, order: Indices, size: int) -> Iterator[tuple[Uint8Array, Indices]]:
        """Yield images and labels as `SplitInMemory.batches` does.

        Raises:
            ImageError: an image has become unreadable since it was checked.
        """
        pending: deque[tuple[Indices, list[Future[Uint8Array]]]] = deque()

        def next_batch() -> tuple[Uint8Array, Indices]:
            indices, futures = pending.popleft()
            return np.stack([future.result() for future in futures]), self.labels[indices]

        pool = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)))
        try:
            for indices in _chunks(order, size):
                sources = [self.images[index].source for index in indices]
                pending.append((indices, [pool.submit(self.contract.prepared, one) for one in sources]))
                if len(pending) > BATCHES_AHEAD:
                    yield next_batch()
            while pending:
                yield next_batch()
        finally:
            pool.shutdown(cancel_futures=True)


Split: TypeAlias = SplitInMemory | SplitOnDisk


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


def prepared_from_splits(
    splits: Splits, contract: Contract, *, keep_margin: bool = False, progress: Progress
) -> PreparedSplits:
    """Decode every image once and leave out those that cannot be read.

    Args:
        splits: the dataset.
        contract: how images are prepared.
        keep_margin: keep the margin of training images that the contract's centre crop removes: they have
            the shape `(resize, resize, 3)`. Without effect if the contract does not crop.
        progress: called after every image.

    Raises:
        DatasetError: a split, or a class of the training split, has no readable image.
    """
    train = _prepared_split(splits.train, contract, progress, keep_margin=keep_margin)
    _check_classes(splits, train)
    validation = _prepared_split(splits.validation, contract, progress)
    same = splits.test.images == splits.validation.images
    test = validation if same else _prepared_split(splits.test, contract, progress)
    return PreparedSplits(train, validation, test)


def notes_on_copies(splits: Splits, prepared: PreparedSplits) -> list[str]:
    """Say how many images are copies, and whether training images are among those of the other splits.

    Args:
        splits: the dataset.
        prepared: its prepared splits. Images are equal if their prepared pixels are.
    """
    notes = []
    if splits.copies:
        notes.append(
            f"{splits.copies:,} images are copies of others in {splits.train.source}; "
            "copies of an image are all in one split."
        )
    trained_on = dict(zip(prepared.train.digests, prepared.train.names, strict=True))
    others = [prepared.validation] + [prepared.test] * (prepared.test is not prepared.validation)
    for dataset, split in zip((splits.validation, splits.test), others, strict=False):
        shared = [
            f"{name} ({trained_on[digest]})"
            for name, digest in zip(split.names, split.digests, strict=True)
            if digest in trained_on
        ]
        if shared:
            notes.append(
                f"{len(shared):,} of {len(split.names):,} {dataset.split} images are training images too, "
                f"which makes their accuracy too high: {listed(shared)}."
            )
    return notes


def _prepared_split(
    dataset: ImageDataset, contract: Contract, progress: Progress, *, keep_margin: bool = False
) -> Split:
    wide = contract
    if keep_margin and isinstance(contract.resize, int):
        wide = replace(contract, size=contract.resize)
    if len(dataset) * wide.image_bytes <= MAX_BYTES_IN_MEMORY:
        prepared = prepared_from_set(dataset, wide, progress=progress)
        margin, end = (wide.size - contract.size) // 2, (wide.size + contract.size) // 2
        digests = digests_of_images(prepared.images[:, margin:end, margin:end])
        return SplitInMemory(prepared.images, prepared.labels, prepared.names, digests, prepared.unreadable)
    readable = readable_images(dataset, contract, progress=progress)
    images = readable.dataset
    return SplitOnDisk(images.images, images.labels, readable.digests, readable.unreadable, wide)


def _check_classes(splits: Splits, train: Split) -> None:
    dataset = splits.train
    subject = f"{dataset.source} ({dataset.split})"
    if len(dataset.class_names) < 2:
        raise DatasetError(
            subject,
            got=f"one class, {dataset.class_names[0]!r}",
            expected="at least two classes",
            next_step="Add a folder of images for each other class.",
        )
    counts = np.bincount(train.labels, minlength=len(dataset.class_names))
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
        reasons = [image.reason for image in train.unreadable if image.name in listed_here]
        reasons += [image.reason for image in left_out if empty[0] in Path(image.name).parts]
        if reasons:
            got, next_step = "no readable image", f"The first reason: {reasons[0]}"
        elif elsewhere:
            got = f"only {len(elsewhere)}, for validation and testing"
            next_step = "Add images of this class. A folder that is split needs at least 3."
        else:
            got, next_step = "no image", "Add images, or remove the folder."
        raise DatasetError(
            f"{subject}: class {empty[0]!r}",
            got=got,
            expected="at least one of every class",
            next_step=next_step,
        )


def _chunks(order: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
