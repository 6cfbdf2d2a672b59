"""A split that is too large for memory: worker processes decode its images again in every epoch.

The order of the images is decided by the caller, so it is the same for any number of workers, and a resumed
epoch continues at its next batch. Workers are forked, and share the table of the images and memory for the
batches, which does not need /dev/shm: a container has only 64 MB there.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import DatasetError, ImageError, TrainingError
from alexnet_model.extras import needs
from alexnet_model.image_table import ImageTable
from alexnet_model.labelled_images import ImageDataset, Unreadable

with needs("train"):
    import torch
    from torch.utils.data import DataLoader, Dataset

Indices: TypeAlias = npt.NDArray[np.int64]  # (N,)

BATCHES_PER_WORKER = 2  # that are decoded ahead
MAX_UNREADABLE_IN_A_ROW = 100
HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 10  # of a worker after SIGTERM, which may go to all processes of a run at once


@dataclass(frozen=True)
class Filled:
    """What a worker returns for a batch, whose images are in shared memory.

    Args:
        labels: int64 `(B,)` of the images.
        unreadable: images that were left out.
        error: why no further batch can be read.
    """

    labels: Indices
    unreadable: tuple[Unreadable, ...]
    error: DatasetError | None


class ImageBatches(Dataset[Filled]):
    """A dataset of PyTorch that maps the indices of a batch to the batch.

    Args:
        dataset: the images.
        contract: how they are prepared.
        memory: uint8 `(slots, B, S, S, 3)`, shared by all processes.
        replace_unreadable: take the next readable image in the place of one that cannot be read, so that
            every batch is complete; False leaves it out.
    """

    def __init__(
        self, dataset: ImageDataset, contract: Contract, memory: Uint8Array, *, replace_unreadable: bool
    ) -> None:
        self.dataset, self.contract, self.memory = dataset, contract, memory
        self.attempts = MAX_UNREADABLE_IN_A_ROW if replace_unreadable else 1

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, task: tuple[int, list[int]]) -> Filled:
        """Prepare images into a slot of the shared memory.

        Args:
            task: the slot, and the indices of the images.
        """
        slot, indices = task
        labels: list[int] = []
        unreadable: list[Unreadable] = []
        error = None
        try:
            for index in indices:
                for attempt in range(self.attempts):
                    found = self._prepared((index + attempt) % len(self), unreadable)
                    if found is not None:
                        self.memory[slot, len(labels)] = found[0]
                        labels.append(found[1])
                        break
        except DatasetError as caught:
            error = caught
        return Filled(np.array(labels, np.int64), tuple(unreadable), error)

    def _prepared(self, index: int, unreadable: list[Unreadable]) -> tuple[Uint8Array, int] | None:
        image = self.dataset.images[index]
        try:
            if isinstance(self.dataset.images, ImageTable):
                self.dataset.images.check_unchanged(index)
            return self.contract.prepared(image.source), image.label
        except ImageError as error:
            unreadable.append(Unreadable(image.name, str(error)))
            return None


class BatchLoader(DataLoader[Filled]):
    """PyTorch's loader without its warning about more workers than cores, whose number was chosen here."""

    def check_worker_number_rationality(self) -> None:
        """Check nothing."""


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """One split whose images are decoded by worker processes whenever they are used.

    Args:
        dataset: the images.
        contract: how they are prepared.
        replace_unreadable: see `ImageBatches`.
        workers: processes.
    """

    dataset: ImageDataset
    contract: Contract
    replace_unreadable: bool
    workers: int
    labels: Indices = field(init=False)
    _found: dict[str, Unreadable] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", self.dataset.labels)

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """What cannot be used, as far as images have been read."""
        return (*self.dataset.left_out, *self._found.values())

    def batches(self, order: Indices, size: int) -> Iterator[tuple[Uint8Array, Indices]]:
        """Yield images uint8 `(B, S, S, 3)` and labels `(B,)`.

        Args:
            order: indices of images, in the order to read them.
            size: images a batch; the last batch may be smaller, and so are those with unreadable images
                unless these are replaced.

        Raises:
            DatasetError: 100 images in a row, or all of `order`, cannot be read, or a shard was changed.
            TrainingError: a worker was killed.
        """
        # Lists, because PyTorch sends the indices to workers through a pipe.
        chunks = [order[start : start + size].tolist() for start in range(0, len(order), size)]
        workers = max(1, min(self.workers, len(chunks)))
        # PyTorch gives out this many batches, and one more is in use.
        slots = workers * BATCHES_PER_WORKER + 1
        shape = (slots, min(size, len(order)), *self.contract.image_shape)
        memory = np.frombuffer(mmap.mmap(-1, max(1, math.prod(shape))), np.uint8)[: math.prod(shape)]
        batches = ImageBatches(
            self.dataset,
            self.contract,
            memory.reshape(shape),
            replace_unreadable=self.replace_unreadable,
        )
        loader = BatchLoader(
            batches,
            batch_size=None,  # an index of the dataset is a whole batch
            collate_fn=_unchanged,
            sampler=[(number % slots, chunk) for number, chunk in enumerate(chunks)],
            num_workers=workers,
            prefetch_factor=BATCHES_PER_WORKER,
            multiprocessing_context="fork",
            worker_init_fn=_leave_signals_to_the_main_process,
            # The seed that it draws for workers must not change the random numbers of the training.
            generator=torch.Generator(),
        )
        seen = 0
        with _worker_errors():
            for number, filled in enumerate(_started(loader)):
                self._found.update((image.name, image) for image in filled.unreadable)
                if filled.error:
                    raise filled.error
                count = len(filled.labels)
                if self.replace_unreadable and count < len(chunks[number]):
                    raise self._not_readable(f"{MAX_UNREADABLE_IN_A_ROW} images in a row that cannot be read")
                seen += count
                if count:
                    yield batches.memory[number % slots, :count].copy(), filled.labels
        if not seen and chunks:
            raise self._not_readable(f"no readable image among {len(order)}")

    def _not_readable(self, got: str) -> DatasetError:
        first = next(iter(self._found.values()))
        return DatasetError(
            f"{self.dataset.source} ({self.dataset.split})",
            got=got,
            expected="images that can be read",
            next_step=f"The first reason: {first.reason}",
        )


def default_workers() -> int:
    """Return one worker for each core that this process may use, shared by the processes of one machine."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")  # torchrun sets it
    return max(1, len(os.sched_getaffinity(0)) // (int(processes) if processes.isdigit() else 1) or 1)


def _started(loader: DataLoader[Filled]) -> Iterator[Filled]:
    """Start the workers.

    PyTorch notices a killed worker within 5 s when it waits for a batch. It also sets a handler of SIGCHLD,
    which raises an error at any place of the main process, even while that handles another error.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGCHLD)
    with signals_held():
        batches = iter(loader)
    if in_main_thread:
        signal.signal(signal.SIGCHLD, previous)
    return batches


@contextmanager
def _worker_errors() -> Iterator[None]:
    """Translate the end of a worker process.

    Raises:
        TrainingError: a worker was killed.
    """
    try:
        yield
    except RuntimeError as error:
        killed = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
        if not killed:
            raise
        raise TrainingError(
            f"worker process {killed[1]}",
            got="its end before all images were decoded",
            expected="a process that nothing kills",
            next_step="Look for the out-of-memory killer in the kernel's log (dmesg), then run again.",
        ) from error


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM while processes are forked; call it in the main thread to hold them back.

    Otherwise a signal could come before a new process has set its handlers, or be lost in a callback that
    Python runs after a fork. Blocking them does not suffice: another thread may receive a signal, and Python
    then runs its handler in the main thread. New processes call `release_signals`.
    """
    arrived: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for held in HELD_SIGNALS:
            handlers[held] = signal.signal(held, lambda number, _: arrived.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(arrived):
            signal.raise_signal(number)


def release_signals() -> None:
    """Receive the signals that `signals_held` holds back, in a new process with its own handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def _unchanged(filled: Any) -> Any:
    """Return what a worker returned; by default PyTorch makes tensors of arrays."""
    return filled


def _leave_signals_to_the_main_process(_: int) -> None:
    """Ignore Ctrl-C, and end some time after SIGTERM: the main process gets both too, and saves its state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: (signal.alarm(GRACE_S), None)[1])
    release_signals()
