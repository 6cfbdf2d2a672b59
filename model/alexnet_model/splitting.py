"""Split a dataset by a fixed seed, with the duplicates of an image in one split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .errors import AlexnetError, DatasetError
from .files import sha256_of_file
from .image_table import ImageInShard, ImageTable, LabelledImage
from .labelled_images import ImageDataset, Splits, evenly_spaced
from .progress import Progress, silent
from .reading import open_regular

Key = TypeVar("Key")

# A constant, not an option: with another seed in evaluation, it would include images that were trained on.
SPLIT_SEED = 0
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2
TAIL_BYTES = 4096  # read of files of equal size before they are read as a whole


def split_by_seed(
    whole: ImageDataset, test: ImageDataset | None = None, *, progress: Progress = silent
) -> Splits:
    """Shuffle by the fixed seed, then take the test and validation splits evenly over the classes.

    Duplicates of an image are in the split that the image is in.

    Args:
        whole: the images to split.
        test: the test split, if there is one; then only validation is taken.
        progress: called during the search for duplicates.

    Raises:
        DatasetError: a split would have no images.
    """
    originals = originals_of(whole.images, progress)
    distinct = np.flatnonzero(originals == np.arange(len(whole)))
    duplicates = len(whole) - len(distinct)
    shuffled = distinct[np.random.default_rng(SPLIT_SEED).permutation(len(distinct))]
    rest = shuffled[np.argsort(whole.labels[shuffled], kind="stable")]

    def split(name: str, indices: npt.NDArray[np.int64]) -> ImageDataset:
        if not len(indices):
            raise DatasetError(
                whole.source,
                got=f"{len(distinct)} images{f' and {duplicates} duplicates' if duplicates else ''}, "
                f"which leaves none for the {name} split",
                expected="at least 10",
                next_step="Add images.",
            )
        return replace(whole.taken(np.flatnonzero(np.isin(originals, indices))), split=name)

    if test is None:
        chosen, rest = _divided(rest, TEST_SHARE)
        test = split("test", chosen)
    validation, train = _divided(rest, VALIDATION_SHARE)
    return Splits(split("train", train), split("validation", validation), test, duplicates)


def originals_of(images: Sequence[LabelledImage], progress: Progress = silent) -> npt.NDArray[np.int64]:
    """Return for each image the index of the first image with the same bytes: for most, its own `(N,)`.

    Args:
        images: those of an `ImageTable` are compared, others are all different.
        progress: called after every image that may be a duplicate.
    """
    originals = np.arange(len(images))
    if not isinstance(images, ImageTable):
        return originals
    sizes = images.sizes
    _, group, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(counts[group] > 1).tolist()
    found = ((index, images[index], int(sizes[index])) for index in candidates)
    for equal in _equal(found, len(candidates), progress):
        originals[equal] = equal[0]
    return originals


def duplicates_between(
    first: Sequence[LabelledImage], second: Sequence[LabelledImage], progress: Progress = silent
) -> list[tuple[str, str]]:
    """Return the names of the images of `second` that have the same bytes as one of `first`, each with that.

    Args:
        first: the images of one split; those of an `ImageTable` are compared.
        second: the images of another split.
        progress: called after every image that may be a duplicate.
    """
    if not isinstance(first, ImageTable) or not isinstance(second, ImageTable):
        return []
    sizes = (first.sizes, second.sizes)  # gathered once: each takes milliseconds for a million images
    candidates = [np.flatnonzero(np.isin(own, other)).tolist() for own, other in (sizes, sizes[::-1])]
    groups = _equal(
        (
            ((side, images[index].name), images[index], int(sizes[side][index]))
            for side, images in enumerate((first, second))
            for index in candidates[side]
        ),
        sum(map(len, candidates)),
        progress,
    )
    duplicates = []
    for equal in groups:
        originals = [name for side, name in equal if side == 0]
        if originals:
            duplicates += [(name, originals[0]) for side, name in equal if side == 1]
    return sorted(duplicates)


def _equal(
    candidates: Iterable[tuple[Key, LabelledImage, int]], count: int, progress: Progress
) -> list[list[Key]]:
    """Return the keys of the images that have the same bytes as others, in groups, in their order.

    Args:
        candidates: a key, the image, and its size in bytes. Files of 0 bytes are no images.
        count: how many candidates there are.
        progress: called after every candidate.
    """
    same_tail: defaultdict[tuple[int, bytes], list[tuple[Key, LabelledImage]]] = defaultdict(list)
    for done, (key, image, size) in enumerate(candidates):
        progress("finding duplicates", done + 1, count)
        with suppress(OSError, AlexnetError):  # reported when the image is read
            if size:
                same_tail[size, _tail_of(image.source, size)].append((key, image))
    same_bytes: defaultdict[str, list[Key]] = defaultdict(list)
    for group in same_tail.values():
        for key, image in group if len(group) > 1 else ():
            with suppress(OSError, AlexnetError):
                same_bytes[_sha256_of(image.source)].append(key)
    return [group for group in same_bytes.values() if len(group) > 1]


def _tail_of(source: object, size: int) -> bytes:
    """Return a digest of the last bytes of an encoded image."""
    start = max(0, size - TAIL_BYTES)
    if isinstance(source, ImageInShard):
        tail = source.part(start, size - start)
    else:
        assert isinstance(source, Path)
        with open_regular(source) as file:
            file.seek(start)
            tail = file.read(TAIL_BYTES)
    return hashlib.blake2b(tail, digest_size=16).digest()


def _sha256_of(source: object) -> str:
    if isinstance(source, ImageInShard):
        return hashlib.sha256(source.read()).hexdigest()
    assert isinstance(source, Path)
    return sha256_of_file(source)


def _divided(
    order: npt.NDArray[np.int64], share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide indices into an evenly spaced share, rounded up, and the rest."""
    chosen = evenly_spaced(len(order), int(np.ceil(len(order) * share)))
    return order[chosen], np.delete(order, chosen)
