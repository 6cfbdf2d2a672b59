"""The parts of an image dataset as training reads them: prepared by the contract, unreadable images known.

A small part is kept in memory (150,528 bytes an image); a large one is decoded anew each time by threads,
a few batches ahead. Decoding lets go of Python's lock, so threads are enough, and they need no /dev/shm.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.datasets import (
    ImageDataset,
    LabelledImage,
    Splits,
    Unreadable,
    prepared_from_set,
    readable_part,
)
from alexnet_model.errors import DatasetError
from alexnet_model.progress import Progress

IN_MEMORY = 2_048  # images: 308 MB
BATCHES_AHEAD = 3

Indices = npt.NDArray[np.int64]


class Part(Protocol):
    @property
    def labels(self) -> Indices: ...  # (N,)

    @property
    def unreadable(self) -> tuple[Unreadable, ...]: ...

    def batches(self, order: Indices, size: int) -> Iterator[tuple[Uint8Array, Indices]]:
        """Images `(B, S, S, 3)` and labels `(B,)` in this order; the last batch may be smaller."""
        ...


@dataclass(frozen=True)
class PartInMemory:
    images: Uint8Array  # (N, S, S, 3)
    labels: Indices
    unreadable: tuple[Unreadable, ...]

    def batches(self, order: Indices, size: int) -> Iterator[tuple[Uint8Array, Indices]]:
        for chosen in _pieces(order, size):
            yield self.images[chosen], self.labels[chosen]


@dataclass(frozen=True)
class PartOnDisk:
    images: tuple[LabelledImage, ...]
    labels: Indices
    unreadable: tuple[Unreadable, ...]
    contract: Contract

    def batches(self, order: Indices, size: int) -> Iterator[tuple[Uint8Array, Indices]]:
        ahead: deque[tuple[Indices, list[Future[Uint8Array]]]] = deque()

        def taken() -> tuple[Uint8Array, Indices]:
            chosen, pending = ahead.popleft()
            return np.stack([one.result() for one in pending]), self.labels[chosen]

        pool = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)))
        try:
            for chosen in _pieces(order, size):
                sources = [self.images[index].source for index in chosen]
                ahead.append((chosen, [pool.submit(self.contract.prepared, source) for source in sources]))
                if len(ahead) > BATCHES_AHEAD:
                    yield taken()
            while ahead:
                yield taken()
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Parts:
    """`test` is `validation` itself where the folder has no held-out part of its own."""

    train: Part
    validation: Part
    test: Part

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        distinct = [self.train, self.validation] + [self.test] * (self.test is not self.validation)
        return tuple(image for part in distinct for image in part.unreadable)


def parts_from_splits(splits: Splits, contract: Contract, *, progress: Progress) -> Parts:
    """Read every image once; those that cannot be read are left out and named.

    Raises:
        DatasetError: a part, or a class of the training part, has no readable image.
    """
    train = _part_from_set(splits.train, contract, progress)
    _check_classes(splits.train, train)
    validation = _part_from_set(splits.validation, contract, progress)
    same = splits.test.images == splits.validation.images
    test = validation if same else _part_from_set(splits.test, contract, progress)
    return Parts(train, validation, test)


def _part_from_set(images: ImageDataset, contract: Contract, progress: Progress) -> Part:
    if len(images) <= IN_MEMORY:
        prepared = prepared_from_set(images, contract, progress=progress)
        return PartInMemory(prepared.images, prepared.labels, prepared.unreadable)
    readable, unreadable = readable_part(images, contract, progress=progress)
    return PartOnDisk(readable.images, readable.labels, unreadable, contract)


def _check_classes(images: ImageDataset, train: Part) -> None:
    where = f"{images.source} ({images.part})"
    if len(images.class_names) < 2:
        raise DatasetError(
            where,
            got=f"the one class {images.class_names[0]!r}",
            expected="at least two to tell apart",
            next_step="Add a folder of images for each other class.",
        )
    counts = np.bincount(train.labels, minlength=len(images.class_names))
    empty = [name for name, count in zip(images.class_names, counts, strict=True) if not count]
    if empty:
        label = images.class_names.index(empty[0])
        names = {image.name for image in images.images if image.label == label}
        reasons = [image.reason for image in train.unreadable if image.name in names]
        raise DatasetError(
            f"{where}: class {empty[0]!r}",
            got="no readable image",
            expected="at least one of every class",
            next_step=f"The first reason: {reasons[0]}" if reasons else "Add images, or remove the folder.",
        )


def _pieces(order: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
