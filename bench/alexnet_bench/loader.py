"""How fast training images are loaded, compared with decoding them alone in as many processes."""

from __future__ import annotations

import signal
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from alexnet_model.contract import Contract
from alexnet_model.datasets import splits_from
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.errors import AlexnetError, DatasetError, ImageError, TrainingError, UsageError
from alexnet_model.extras import needs
from alexnet_model.labelled_images import ImageDataset
from alexnet_model.progress import Progress, silent

with needs("train"):
    from alexnet_training.splits import with_margin
    from alexnet_training.streaming import (
        Indices,
        StreamedSplit,
        default_workers,
        release_signals,
        signals_held,
    )

SEED = 0
TRIED_IMAGES = 32  # to find how many are decoded in a second
FAILED = 1  # exit code of a process that decodes, after it has printed its error
MIN_BATCHES = 4  # per worker, so that the end of the last ones matters little


@dataclass(frozen=True, kw_only=True)
class LoaderReport:
    """The result of `bench_loader`.

    Args:
        data: the dataset.
        images: training images in it.
        read: images that were read in each repeat, in random order, from the machine's file cache.
        size: both sides of a prepared image, in pixels.
        workers: processes.
        batch_size: images per batch.
        decode_per_s: images per second that the processes decode and prepare alone, for each repeat.
        loader_per_s: images per second that reach the training loop, for each repeat.
        unreadable: images that cannot be read, of those that were read.
        machine: the processor.
        versions: of the packages that matter.
    """

    data: str
    images: int
    read: int
    size: int
    workers: int
    batch_size: int
    decode_per_s: tuple[float, ...]
    loader_per_s: tuple[float, ...]
    unreadable: int
    machine: str
    versions: dict[str, str]

    @property
    def share(self) -> float:
        """The loader's rate as a share of decoding alone: the median over the repeats."""
        pairs = zip(self.loader_per_s, self.decode_per_s, strict=True)
        return statistics.median(loader / decode for loader, decode in pairs)

    @property
    def loader_per_worker_per_s(self) -> float:
        """Images per second and worker of the loader: the median over the repeats."""
        return statistics.median(self.loader_per_s) / self.workers

    @property
    def decode_per_worker_per_s(self) -> float:
        """Images per second and process of decoding alone: the median over the repeats."""
        return statistics.median(self.decode_per_s) / self.workers


def bench_loader(
    data: str,
    *,
    contract: Contract | None = None,
    keep_margin: bool = True,
    workers: int | None = None,
    batch_size: int = 128,
    seconds: float = 5.0,
    repeats: int = 5,
    progress: Progress = silent,
) -> LoaderReport:
    """Measure the loader of large datasets against decoding alone, in alternating order.

    Both read the same images in the same order with the same number of processes, and both times include the
    start of the processes. Decoding alone is the preparation of the images with nothing around it.

    Args:
        data: a dataset, as `splits_from` takes it.
        contract: how images are prepared. None: the default.
        keep_margin: keep the margin of training images, as the recipes for large datasets do.
        workers: processes, 1 to 256. None: one for each core.
        batch_size: images per batch, 1 to 4096.
        seconds: about the time of one measurement, 0.1 to 600.
        repeats: measurements of each, 1 to 100.
        progress: called after every measurement.

    Raises:
        UsageError: an option is out of its range.
        DatasetError: the dataset cannot be read.
        TrainingError: a process that decodes was killed.
    """
    for name, value, lowest, highest in (
        ("workers", 1 if workers is None else workers, 1, 256),
        ("batch size", batch_size, 1, 4096),
        ("seconds", seconds, 0.1, 600),
        ("repeats", repeats, 1, 100),
    ):
        if not lowest <= value <= highest:
            raise UsageError(name, got=f"{value:g}", expected=f"{lowest:g} to {highest:g}")
    workers = workers or default_workers()
    dataset = splits_from(data, progress=progress).train
    contract = contract or Contract()
    prepared_by = with_margin(contract) if keep_margin else contract
    split = StreamedSplit(dataset, prepared_by, replace_unreadable=False, workers=workers)

    shuffled = np.random.default_rng(SEED).permutation(len(dataset))
    tried = np.resize(shuffled, TRIED_IMAGES)
    started = time.perf_counter()
    if _decode(dataset, prepared_by, tried) == 0:
        raise DatasetError(data, got=f"no readable image among {len(tried)}", expected="readable images")
    rate = len(tried) / (time.perf_counter() - started)
    order = np.resize(shuffled, max(MIN_BATCHES * batch_size * workers, round(rate * workers * seconds)))
    _time_of_decoding(dataset, prepared_by, order, workers)  # from now on the files are in the file cache

    decode_per_s, loader_per_s = [], []
    for repeat in range(repeats):
        decode_per_s.append(len(order) / _time_of_decoding(dataset, prepared_by, order, workers))
        started = time.perf_counter()
        for _ in split.batches(order, batch_size):
            pass
        loader_per_s.append(len(order) / (time.perf_counter() - started))
        progress("measuring", repeat + 1, repeats, f"{loader_per_s[-1]:,.0f} images/s")
    return LoaderReport(
        data=data,
        images=len(dataset),
        read=len(order),
        size=prepared_by.size,
        workers=workers,
        batch_size=batch_size,
        decode_per_s=tuple(decode_per_s),
        loader_per_s=tuple(loader_per_s),
        unreadable=len(split.unreadable),
        machine=machine_name(),
        versions=versions_of("torch", "numpy", "pillow", "alexnet-serving"),
    )


def _time_of_decoding(dataset: ImageDataset, contract: Contract, order: Indices, workers: int) -> float:
    """Return the seconds that so many processes take to prepare images, each every n-th one."""
    context = get_context("fork")
    processes = [
        context.Process(target=_decode_in_process, args=(dataset, contract, order[worker::workers]))
        for worker in range(workers)
    ]
    started = time.perf_counter()
    try:
        with signals_held():
            for process in processes:
                process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()
    seconds = time.perf_counter() - started
    failed = next((process for process in processes if process.exitcode), None)
    if failed and failed.exitcode == FAILED:
        raise DatasetError(
            f"process {failed.pid} that decodes images",
            got="the error above",
            expected="images and shards that do not change during the measurement",
        )
    if failed:
        raise TrainingError(
            f"process {failed.pid} that decodes images",
            got=f"exit code {failed.exitcode}",
            expected="a process that nothing kills",
            next_step="Look for the out-of-memory killer in the kernel's log (dmesg), then run again.",
        )
    return seconds


def _decode_in_process(dataset: ImageDataset, contract: Contract, order: Indices) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process gets it too, and ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    release_signals()
    try:
        _decode(dataset, contract, order)
    except AlexnetError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(FAILED)


def _decode(dataset: ImageDataset, contract: Contract, order: Indices) -> int:
    """Prepare images; return how many can be read."""
    readable = 0
    for index in order.tolist():
        try:
            contract.prepared(dataset.images[index].source)
            readable += 1
        except ImageError:
            continue
    return readable
