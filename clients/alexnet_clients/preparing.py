"""From what a caller has (paths, bytes, files, images, arrays) to batches of prepared pictures, in order.

Pictures are decoded in threads, a bounded number ahead of what is sent, so that a long list costs no more
memory than a short one. A broken picture keeps its place with its error; a wrong array is the caller's bug.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_model.contract import Contract, Picture, Uint8Array
from alexnet_model.decoding import name_of
from alexnet_model.errors import AlexnetError, PictureError

PictureOrArray: TypeAlias = Picture | npt.NDArray[Any]
Pictures: TypeAlias = PictureOrArray | Iterable[PictureOrArray]

_ACCEPTED = "a path, bytes, a binary file, a PIL image, or a uint8 array (224, 224, 3)"


@dataclass(frozen=True)
class Slot:
    """One picture's place: its pixels, or why there are none."""

    name: str
    image: Uint8Array | None  # (224, 224, 3)
    error: AlexnetError | None = None


@dataclass(frozen=True)
class Batch:
    """Slots in order; `images` are of those that could be read, None where none could."""

    slots: tuple[Slot, ...]
    images: Uint8Array | None  # (N, 224, 224, 3)


def batches_from_pictures(pictures: Pictures, contract: Contract, *, max_batch: int) -> Generator[Batch]:
    """Prepare pictures and gather up to `max_batch` readable ones a batch, in order.

    Raises:
        PictureError: an array is not the contract's, or an item is nothing that can be a picture.
    """
    slots: list[Slot] = []
    images: list[Uint8Array] = []
    for slot in _slots(pictures, contract, ahead=max_batch):
        slots.append(slot)
        if slot.image is not None:
            images.append(slot.image)
        if len(images) == max_batch:
            yield Batch(tuple(slots), np.stack(images))  # (N, 224, 224, 3)
            slots, images = [], []
    if slots:
        yield Batch(tuple(slots), np.stack(images) if images else None)


def _slots(pictures: Pictures, contract: Contract, *, ahead: int) -> Iterator[Slot]:
    """Every picture's slot in order; at most `ahead`, and one a thread, wait to be taken."""
    threads = min(8, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    waiting: deque[Future[Slot]] = deque()
    try:
        for index, picture in enumerate(_each(pictures, contract)):
            waiting.append(pool.submit(_slot, index, _checked(picture, index, contract), contract))
            if len(waiting) >= ahead + threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _slot(index: int, picture: PictureOrArray, contract: Contract) -> Slot:
    name = _name(index, picture)
    if isinstance(picture, np.ndarray):
        return Slot(name, picture)
    try:
        return Slot(name, contract.prepared(picture))
    except PictureError as error:
        return Slot(name, None, error)


def _each(pictures: Pictures, contract: Contract) -> Iterable[PictureOrArray]:
    """One picture, or many: files and strings can be iterated over too, but are one picture each."""
    if isinstance(pictures, np.ndarray):
        return contract.checked(pictures)  # (N, 224, 224, 3)
    if isinstance(pictures, str | Path | bytes | Image.Image) or hasattr(pictures, "read"):
        return [cast("Picture", pictures)]
    if not isinstance(pictures, Iterable):
        raise PictureError("pictures", got=type(pictures).__name__, expected=f"{_ACCEPTED}, or many of them")
    return pictures


def _checked(picture: PictureOrArray, index: int, contract: Contract) -> PictureOrArray:
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3:
            raise PictureError(
                f"pictures[{index}]",
                got=f"shape {picture.shape} {picture.dtype}",
                expected=f"one picture {contract.picture_shape} uint8",
                next_step="Pass a batch by itself, or its pictures one by one.",
            )
        checked: Uint8Array = contract.checked(picture)[0]  # (224, 224, 3)
        return checked
    if isinstance(picture, str | Path | bytes | Image.Image) or hasattr(picture, "read"):
        return picture
    raise PictureError(f"pictures[{index}]", got=type(picture).__name__, expected=_ACCEPTED)


def _name(index: int, picture: object) -> str:
    named = isinstance(picture, str | Path | Image.Image) or hasattr(picture, "read")
    name = name_of(picture) if named else "picture"
    return f"picture {index}" if name == "picture" else name
