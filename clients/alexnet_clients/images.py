"""From what a caller passes (paths, bytes, files, PIL images, arrays) to batches for a model, in order.

Images are decoded in threads, a bounded number ahead of what is sent, so that a long list needs no more
memory than a short one. A broken image keeps its place and its error; a wrong array is the caller's error.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from enum import Enum, auto
from operator import length_hint
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_model.contract import Contract, ImageInput
from alexnet_model.decoding import encoded_bytes, name_of, upright_from_opened
from alexnet_model.errors import AlexnetError, ClientError, ImageError

from .sending import result_of, wait_for

ImageOrArray: TypeAlias = ImageInput | bytearray | memoryview | npt.NDArray[Any]
#: One image or an iterable of them. An image is what `alexnet_model.ImageInput` is, a bytearray, a
#: memoryview, or an array: RGB pixels `(H, W, 3)` of uint8.
Images: TypeAlias = ImageOrArray | Iterable[ImageOrArray]
Snapshot: TypeAlias = ImageInput | npt.NDArray[Any] | ImageError

#: The images that one task of a thread decodes. Starting a task costs half as much as decoding a small image.
IMAGES_PER_TASK = 8
LINGER_S = 0.1  # how long a batch waits for more images from a slow source

_ACCEPTED = "a path, bytes, a binary file, a PIL image, or a uint8 array (height, width, 3)"


class End(Enum):
    """The end of an iterator. Not None, which a caller's list may hold by mistake."""

    END = auto()


@dataclass(frozen=True)
class Slot:
    """One image's place in a batch: its row of the input, or the error that explains why it has none."""

    name: str
    row: npt.NDArray[Any] | None  # (S, S, 3) pixels, or (1,) encoded bytes
    error: AlexnetError | None = None


@dataclass(frozen=True)
class Batch:
    """Slots in order, and the rows of those that could be read; None if there is none."""

    slots: tuple[Slot, ...]
    rows: npt.NDArray[Any] | None  # (N, S, S, 3) pixels, or (N, 1) encoded bytes


def source_from_images(images: Images, contract: Contract) -> IteratorSource:
    """Single images from what a caller passed. A file or a string, which can be iterated too, is one image.

    Args:
        images: what the caller passed.
        contract: the model's, which an array is checked against.

    Raises:
        ImageError: an array does not fit the contract, or the argument cannot be images.
    """
    if isinstance(images, np.ndarray):
        if is_frame(images, contract):
            return IteratorSource(iter([images]))
        if images.ndim == 4 and len(images) > 0 and is_frame(images[0], contract):
            return IteratorSource(iter(images))  # (N, H, W, 3)
        return IteratorSource(iter(contract.checked(images)))  # (N, S, S, 3)
    if _is_image(images):
        return IteratorSource(iter([cast("ImageInput", images)]))
    if not isinstance(images, Iterable):
        raise ImageError("images", got=type(images).__name__, expected=f"{_ACCEPTED}, or many of them")
    return IteratorSource(iter(cast("Iterable[ImageOrArray]", images)))


class IteratorSource:
    """Images from a caller's iterator."""

    def __init__(self, items: Iterator[ImageOrArray]) -> None:
        self._items = items

    def count_or(self, default: int) -> int:
        """The number of images if the iterator tells it, as that of a list does."""
        return length_hint(self._items, default)

    async def next(self) -> ImageOrArray | End:
        """The next image, `END` after the last. Raises what the iterator raises."""
        return next(self._items, End.END)


class AsyncIteratorSource:
    """Images from a caller's asynchronous iterator; `spawn` starts a coroutine in the caller's event loop."""

    def __init__(
        self,
        items: AsyncIterator[ImageOrArray],
        spawn: Callable[[Coroutine[Any, Any, ImageOrArray | End]], Future[ImageOrArray | End]],
    ) -> None:
        self._items = items
        self._spawn = spawn

    def count_or(self, default: int) -> int:
        """The default: an asynchronous iterator does not tell how many images it has."""
        return default

    async def next(self) -> ImageOrArray | End:
        """The next image, `END` after the last. Raises what the iterator raises."""
        return await result_of(self._spawn(self._next()))

    async def _next(self) -> ImageOrArray | End:
        return await anext(self._items, End.END)


Source: TypeAlias = IteratorSource | AsyncIteratorSource
SourceMaker: TypeAlias = Callable[[Contract], Source]


class PreparedBatches:
    """Decode images in a pool of threads and stack `size` readable ones to a batch."""

    def __init__(
        self, source: Source, contract: Contract, *, size: int, encoded: bool, pool: Executor, threads: int
    ) -> None:
        """`encoded`: for a model that decodes on the server; its rows are the files' bytes."""
        self._source = source
        self._contract = contract
        self._size = size
        self._encoded = encoded
        self._pool = pool
        # Few images are divided among the threads, so that none waits for another's.
        count = min(size, source.count_or(size))
        self._per_task = max(1, min(IMAGES_PER_TASK, -(-count // threads)))
        # A whole batch is prepared while the one before it is computed.
        self._tasks_ahead = -(-size // self._per_task) + threads
        self._tasks: deque[Future[list[Slot]]] = deque()
        self._ready: deque[Slot] = deque()
        self._count = 0
        self._exhausted = False

    async def next(self) -> Batch | None:
        """The next batch; None after the last.

        Raises:
            ImageError: an array does not fit the contract, or an item cannot be an image.
            ClientError: the client was closed.
        """
        slots: list[Slot] = []
        rows: list[npt.NDArray[Any]] = []
        until_s = time.monotonic() + LINGER_S
        # Images that cannot be read need no room in the request, but must not accumulate either.
        while len(rows) < self._size and len(slots) < 8 * self._size:
            if slots and time.monotonic() > until_s:
                break
            if not self._ready:
                await self._look_ahead(until_s)
                if not self._tasks:
                    break
                await wait_for(self._tasks[0])
                task = self._tasks.popleft()
                if task.cancelled():
                    raise _closed()
                self._ready.extend(task.result())
            slot = self._ready.popleft()
            slots.append(slot)
            if slot.row is not None:
                rows.append(slot.row)
        if not slots:
            return None
        if len(rows) == 1:
            return Batch(tuple(slots), rows[0][None])  # without a copy
        return Batch(tuple(slots), np.stack(rows) if rows else None)  # (N, ...)

    def close(self) -> None:
        """Prepare no more images."""
        for task in self._tasks:
            task.cancel()

    async def _look_ahead(self, until_s: float) -> None:
        """Take images ahead of their use; from a slow source until `until_s`, and at least one."""
        while not self._exhausted and len(self._tasks) < self._tasks_ahead:
            if self._tasks and time.monotonic() > until_s:
                return
            named: list[tuple[str, Snapshot]] = []
            while len(named) < self._per_task and not (named and time.monotonic() > until_s):
                item = await self._source.next()
                if item is End.END:
                    self._exhausted = True
                    break
                named.append(self._named_snapshot(item))
            if named:
                self._tasks.append(self._start(named))

    def _named_snapshot(self, item: ImageOrArray) -> tuple[str, Snapshot]:
        place = f"images[{self._count}]"
        name = "image" if isinstance(item, bytes | bytearray | memoryview | np.ndarray) else name_of(item)
        name = f"image {self._count}" if name == "image" else name
        self._count += 1
        if isinstance(item, np.ndarray) and not is_frame(item, self._contract):
            if item.ndim != 3:
                raise ImageError(
                    place,
                    got=f"shape {item.shape} {item.dtype}",
                    expected=f"one image {self._contract.image_shape} uint8",
                    next_step="Pass a batch by itself, or its images one by one.",
                )
            item = self._contract.checked(item)[0]  # (S, S, 3)
            if self._encoded:
                raise ImageError(
                    name,
                    got="an array of prepared pixels",
                    expected="an encoded image: this model decodes on the server",
                    next_step="Use a model that takes pixels, such as alexnet_fp32.",
                )
        elif not _is_image(item):
            raise ImageError(place, got=type(item).__name__, expected=_ACCEPTED)
        return name, snapshot(item, self._contract)

    def _start(self, named: list[tuple[str, Snapshot]]) -> Future[list[Slot]]:
        if all(isinstance(item, np.ndarray) for _, item in named):  # nothing to decode
            slots: Future[list[Slot]] = Future()
            slots.set_result(self._slots(named))
            return slots
        try:
            return self._pool.submit(self._slots, named)
        except RuntimeError as error:  # "cannot schedule new futures after shutdown"
            raise _closed() from error

    def _slots(self, named: list[tuple[str, Snapshot]]) -> list[Slot]:
        return [self._slot(name, item) for name, item in named]

    def _slot(self, name: str, item: Snapshot) -> Slot:
        if isinstance(item, np.ndarray):
            return Slot(name, item)
        if isinstance(item, ImageError):
            return Slot(name, None, item)
        try:
            row = encoded_row(item, self._contract) if self._encoded else self._contract.prepared(item)
        except ImageError as error:
            return Slot(name, None, error)
        return Slot(name, row)


class SlicedBatches:
    """An array of prepared images, cut into batches without a copy."""

    def __init__(self, images: npt.NDArray[Any], *, size: int) -> None:
        self._slices = iter([images[start : start + size] for start in range(0, len(images), size)])

    async def next(self) -> Batch | None:
        """The next batch; None after the last."""
        images = next(self._slices, None)
        return None if images is None else Batch((), images)

    def close(self) -> None:
        """Nothing to stop."""


Batches: TypeAlias = PreparedBatches | SlicedBatches


def is_frame(array: npt.NDArray[Any], contract: Contract) -> bool:
    """Whether an array is an image to prepare: uint8 RGB `(H, W, 3)` of another size than the contract's."""
    is_rgb = array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] == 3
    return is_rgb and array.size > 0 and array.shape != contract.image_shape


def snapshot(item: ImageOrArray, contract: Contract) -> Snapshot:
    """Copy the input, so that the caller may reuse its buffer; an `ImageError` if it cannot be read.

    Images are taken well before they are sent, and decoded in other threads. By then a camera has filled its
    array again, a GIF has moved to its next frame, and a file may be closed. Paths and bytes need no copy.
    """
    if isinstance(item, np.ndarray):
        copy = item.copy()  # (S, S, 3) or (H, W, 3)
        return Image.fromarray(copy) if is_frame(item, contract) else copy
    if isinstance(item, bytearray | memoryview):
        return bytes(item)
    try:
        if isinstance(item, Image.Image):
            item.load()
            opened = item.copy()
            opened.format = item.format
            return opened
        return encoded_bytes(item) if hasattr(item, "read") else item
    except ImageError as error:
        return error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        return ImageError(
            name_of(item), got=f"a broken image ({error})", expected=_ACCEPTED, next_step="Remove it."
        )


def encoded_row(image: ImageInput, contract: Contract) -> npt.NDArray[np.object_]:
    """One encoded image as an object array `(1,)`: the file's bytes as they are, a PIL image as PNG.

    Raises:
        ImageError: the image cannot be read.
    """
    if isinstance(image, Image.Image):
        png = io.BytesIO()
        upright = upright_from_opened(image, background=contract.background).copy()
        upright.info.clear()  # metadata was applied above, or is not used
        upright.save(png, "PNG", compress_level=1)
        content = png.getvalue()
    else:
        content = encoded_bytes(image)
    row = np.empty(1, np.object_)
    row[0] = content
    return row


def _is_image(value: object) -> bool:
    kinds = (str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return isinstance(value, kinds) or hasattr(value, "read")


def _closed() -> ClientError:
    return ClientError(
        "client",
        got="a close while images were prepared",
        expected="an open client until the last prediction",
        next_step="Close it after the last prediction.",
    )
