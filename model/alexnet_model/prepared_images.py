"""Prepare images of a dataset in memory, without those that cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .contract import Contract, Uint8Array
from .errors import DatasetError, ImageError
from .image_table import LabelledImage
from .labelled_images import ImageDataset, Unreadable, evenly_spaced
from .progress import Progress, silent


@dataclass(frozen=True)
class PreparedImages:
    """Prepared images in memory, and the images that were left out.

    Args:
        images: uint8 `(N, S, S, 3)`.
        labels: int64 `(N,)`.
        names: of the images.
        unreadable: what could not be read.
        excluded: names of the images that were not wanted, see `prepared_sample`.
    """

    images: Uint8Array
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    excluded: tuple[str, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Hex SHA-256 of each image."""
        return digests_of_images(self.images)


def digests_of_images(images: Uint8Array) -> tuple[str, ...]:
    """Return the hex SHA-256 of each prepared image: equal digests mean equal pixels.

    Args:
        images: uint8 `(N, S, S, 3)`.
    """
    return tuple(map(_digest_of, images))


def _digest_of(image: Uint8Array) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def prepared_from_set(
    dataset: ImageDataset, contract: Contract, *, progress: Progress = silent
) -> PreparedImages:
    """Prepare every image of a dataset in memory.

    Args:
        dataset: the images; those that cannot be read are left out.
        contract: how images are prepared. Each takes `contract.image_bytes`.
        progress: called after every image.

    Raises:
        DatasetError: none of the images can be read.
    """
    images = np.empty((len(dataset), *contract.image_shape), dtype=np.uint8)
    readable: list[int] = []
    unreadable: list[Unreadable] = []
    for index, (_, outcome) in enumerate(_prepared_in_order(dataset.images, contract)):
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
        else:
            images[len(readable)] = outcome
            readable.append(index)
        progress(f"reading {dataset.split}", index + 1, len(dataset))
    if not readable:
        raise none_readable(dataset, unreadable)
    kept = dataset.taken(np.array(readable))
    names = tuple(image.name for image in kept.images)
    return PreparedImages(images[: len(kept)], kept.labels, names, (*dataset.left_out, *unreadable))


def prepared_sample(
    dataset: ImageDataset,
    count: int,
    contract: Contract,
    *,
    excluded: Container[str] = (),
    progress: Progress = silent,
) -> PreparedImages:
    """Prepare at most `count` images of a dataset in memory, every class in proportion to its size.

    In the place of an image that cannot be read or is excluded, another one is taken, of its class if
    possible. Images are read until there are enough.

    Args:
        dataset: the images.
        count: how many are wanted; there are fewer only if the dataset has no more.
        contract: how images are prepared. Each takes `contract.image_bytes`.
        excluded: digests of prepared images that are not wanted.
        progress: called after every image.

    Raises:
        DatasetError: none of the images can be read.
    """
    count = min(count, len(dataset))
    images = np.empty((count, *contract.image_shape), dtype=np.uint8)
    kept: list[LabelledImage] = []
    unreadable: list[Unreadable] = []
    unwanted: list[str] = []
    labels, kept_labels = dataset.labels, np.zeros(len(dataset.class_names), np.int64)
    left = np.argsort(labels, kind="stable")
    chosen = left[evenly_spaced(len(left), count)]
    wanted = np.bincount(labels[chosen], minlength=len(kept_labels))
    while len(chosen):
        left = left[~np.isin(left, chosen)]
        drawn = [dataset.images[index] for index in sorted(chosen.tolist())]
        for image, outcome in _prepared_in_order(drawn, contract):
            if isinstance(outcome, Unreadable):
                unreadable.append(outcome)
            elif _digest_of(outcome) in excluded:
                unwanted.append(image.name)
            else:
                images[len(kept)] = outcome
                kept.append(image)
                kept_labels[image.label] += 1
            progress(f"reading {dataset.split}", len(kept), count)
        # First others of the classes that have too few, then of any.
        chosen = np.empty(0, np.int64)
        for label in np.flatnonzero(wanted > kept_labels):
            pool = left[labels[left] == label]
            short = min(len(pool), wanted[label] - kept_labels[label])
            chosen = np.concatenate([chosen, pool[evenly_spaced(len(pool), short)]])
        if not len(chosen):
            chosen = left[evenly_spaced(len(left), min(len(left), count - len(kept)))]
    if not kept and not unwanted:
        raise none_readable(dataset, unreadable)
    return PreparedImages(
        images[: len(kept)],
        np.array([image.label for image in kept], dtype=np.int64),
        tuple(image.name for image in kept),
        (*dataset.left_out, *unreadable),
        tuple(unwanted),
    )


def none_readable(dataset: ImageDataset, unreadable: Sequence[Unreadable]) -> DatasetError:
    """Return the error for a dataset of which no image can be read."""
    return DatasetError(
        f"{dataset.source} ({dataset.split})",
        got=f"no readable image among {len(dataset)}",
        expected="at least one",
        next_step=f"The first reason: {unreadable[0].reason}" if unreadable else "",
    )


def _prepared_in_order(
    images: Sequence[LabelledImage], contract: Contract
) -> Iterator[tuple[LabelledImage, Uint8Array | Unreadable]]:
    def prepare(image: LabelledImage) -> Uint8Array | Unreadable:
        try:
            return contract.prepared(image.source)
        except ImageError as error:
            return Unreadable(image.name, str(error))

    with ThreadPoolExecutor() as pool:
        # In chunks, so that at most 64 decoded images wait for the consumer.
        for start in range(0, len(images), 64):
            chunk = images[start : start + 64]
            yield from zip(chunk, pool.map(prepare, chunk), strict=True)
