"""From what a caller has (paths, bytes, files, images, arrays) to batches for the model, in order.

Images are prepared in threads, a bounded number ahead of what is sent, so that a long list costs no more
memory than a short one. A broken image keeps its place with its error; a wrong array is the caller's bug.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Contract, ImageInput
from alexnet_model.errors import ClientError, ImageError

from .items import ImageOrArray, Slot, Taken, checked_item, name_of_item, slot_from_item, taken
from .steps import Steps, done, result_of

HANDFUL = 8
LINGER_S = 0.1  # so long a batch waits for more images from a slow source


@dataclass(frozen=True)
class Batch:
    """Slots in order; `rows` are of those that could be read, None where none could."""

    slots: tuple[Slot, ...]
    rows: npt.NDArray[Any] | None  # (N, 224, 224, 3), or (N, 1) encoded


class End(Enum):
    """Not None, which a caller's list may hold by mistake."""

    END = auto()


END = End.END


class ItemsInTurn:
    """A caller's iterator, one item at a time."""

    def __init__(self, items: Iterator[ImageOrArray]) -> None:
        self._items = items

    def next(self) -> Steps[ImageOrArray | End]:
        """The next item, END after the last; whatever the iterator raises."""
        yield from ()  # nothing to wait for
        return next(self._items, END)


class AsyncItemsInTurn:
    """A caller's asynchronous iterator; `spawn` starts a coroutine in the caller's event loop."""

    def __init__(
        self,
        items: AsyncIterator[ImageOrArray],
        spawn: Callable[[Coroutine[Any, Any, ImageOrArray | End]], Future[ImageOrArray | End]],
    ) -> None:
        self._items = items
        self._spawn = spawn

    def next(self) -> Steps[ImageOrArray | End]:
        return (yield from result_of(self._spawn(self._next())))

    async def _next(self) -> ImageOrArray | End:
        return await anext(self._items, END)


Source: TypeAlias = ItemsInTurn | AsyncItemsInTurn


class PreparedBatches:
    """Prepares items in a pool and gathers `size` readable ones a batch."""

    def __init__(
        self,
        source: Source,
        row_from_image: Callable[[ImageInput], npt.NDArray[Any]],
        *,
        contract: Contract,
        size: int,
        takes_arrays: bool,
        pool: Executor,
        threads: int,
    ) -> None:
        self._source = source
        self._row_from_image = row_from_image
        self._contract = contract
        self._size = size
        self._takes_arrays = takes_arrays
        self._pool = pool
        # Handing one image to a thread costs half as much as preparing a small one: they go by the handful.
        self._handful = min(HANDFUL, size)
        # A whole batch is prepared while the one before it is computed.
        self._ahead = -(-size // self._handful) + threads
        self._waiting: deque[Future[list[Slot]]] = deque()
        self._ready: deque[Slot] = deque()
        self._count = 0
        self._exhausted = False

    def next(self) -> Steps[Batch | None]:
        """The next batch, None after the last.

        Raises:
            ImageError: an array is not the contract's, or an item is nothing that can be an image.
        """
        slots: list[Slot] = []
        rows: list[npt.NDArray[Any]] = []
        until_s = time.monotonic() + LINGER_S
        # Images that cannot be read take no room on the wire, but must not pile up here either.
        while len(rows) < self._size and len(slots) < 8 * self._size:
            if slots and time.monotonic() > until_s:
                break
            if not self._ready:
                yield from self._look_ahead(until_s)
                if not self._waiting:
                    break
                yield from done(self._waiting[0])
                prepared = self._waiting.popleft()
                if prepared.cancelled():
                    raise _closed()
                self._ready.extend(prepared.result())
            slot = self._ready.popleft()
            slots.append(slot)
            if slot.row is not None:
                rows.append(slot.row)
        if not slots:
            return None
        return Batch(tuple(slots), _stacked(rows))

    def close(self) -> None:
        """Prepare no more."""
        for future in self._waiting:
            future.cancel()

    def _look_ahead(self, until_s: float) -> Steps[None]:
        """Take items ahead of their need; from a slow source until the time is up, and at least one."""
        while not self._exhausted and len(self._waiting) < self._ahead:
            if self._waiting and time.monotonic() > until_s:
                return
            handful: list[tuple[str, Taken]] = []
            while len(handful) < self._handful and not (handful and time.monotonic() > until_s):
                item = yield from self._source.next()
                if item is END:
                    self._exhausted = True
                    break
                handful.append(self._named(checked_item(item, self._count, self._contract)))
            if handful:
                self._waiting.append(self._prepared(handful))

    def _named(self, item: ImageOrArray) -> tuple[str, Taken]:
        name = name_of_item(item, self._count)
        self._count += 1
        if isinstance(item, np.ndarray) and not self._takes_arrays:
            raise ImageError(
                name,
                got="an array of prepared pixels",
                expected="an encoded image: this model decodes on the server",
                next_step="Ask a model that takes pixels, such as alexnet_fp32.",
            )
        return name, taken(item)

    def _prepared(self, handful: list[tuple[str, Taken]]) -> Future[list[Slot]]:
        if not all(isinstance(item, np.ndarray) for _, item in handful):
            try:
                return self._pool.submit(_slots_from_items, handful, self._row_from_image)
            except RuntimeError as error:  # "cannot schedule new futures after shutdown"
                raise _closed() from error
        slots: Future[list[Slot]] = Future()  # nothing to prepare
        slots.set_result(_slots_from_items(handful, self._row_from_image))
        return slots


class SlicedBatches:
    """An array of prepared images, cut into batches without a copy."""

    def __init__(self, images: npt.NDArray[Any], *, size: int) -> None:
        self._slices = iter([images[start : start + size] for start in range(0, len(images), size)])

    def next(self) -> Steps[Batch | None]:
        """The next batch, None after the last."""
        yield from ()  # nothing to wait for
        images = next(self._slices, None)
        return None if images is None else Batch((), images)

    def close(self) -> None:
        """There is nothing to end."""


Batches: TypeAlias = PreparedBatches | SlicedBatches


def _slots_from_items(
    handful: list[tuple[str, Taken]], row_from_image: Callable[[ImageInput], npt.NDArray[Any]]
) -> list[Slot]:
    return [slot_from_item(name, item, row_from_image) for name, item in handful]


def _closed() -> ClientError:
    return ClientError(
        "client",
        got="its closing while images were prepared",
        expected="it open until they are answered",
        next_step="Close it after the last prediction.",
    )


def _stacked(rows: list[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    if not rows:
        return None
    return rows[0][None] if len(rows) == 1 else np.stack(rows)  # (N, ...)
