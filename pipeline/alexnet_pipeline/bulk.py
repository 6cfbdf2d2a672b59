"""Classify many images into Parquet shards; a run that was killed is continued by the same call.

The inputs are fixed first: their names are sorted, and `_bulk.json` records their digest, the model and the
number of shards. Each shard has the predictions of consecutive names. It is written beside its place and
renamed, so a file that is there is complete, and is never computed again.

    OUT/_bulk.json    the name starts with _ so that the folder can be read as one dataset
    OUT/part-00000-of-00008.parquet    columns: image, error, classes (label, index, probability)
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import BulkError, UsageError
from alexnet_model.extras import needs
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision

from .bulk_files import (
    BulkRecord,
    Classified,
    FloatArray,
    Shard,
    check_shard,
    digest_of,
    is_finished,
    shards_of,
    write_or_compare_record,
    write_shard,
)
from .bulk_inputs import PreparedBatch, decoding_pool, default_workers, in_order, prepared_batch

IMAGES_PER_SHARD = 10_000  # by default; what a killed run loses at most
BATCHES_PER_WORKER = 2  # that are decoded ahead


@dataclass(frozen=True, kw_only=True)
class BulkModel:
    """A model that classifies prepared images, in this process or on a server.

    Attributes:
        name: Such as `alexnet_int8`.
        contract: How images are prepared.
        class_names: The classes, in the order of the outputs.
        probabilities: Computes float32 `(N, classes)` of uint8 `(N, S, S, 3)`.
        batch: The most images of one call of `probabilities`.
        in_flight: How many calls of it run at once, in threads.
        sha256: Hex SHA-256 of the model's file; empty if it is not known, as for a server's model.
    """

    name: str
    contract: Contract
    class_names: tuple[str, ...]
    probabilities: Callable[[Uint8Array], FloatArray]
    batch: int = 32
    in_flight: int = 1
    sha256: str = ""


#: Opens the model, for the time of the `with`. For Ray it must be picklable, as a partial function is.
OpenModel: TypeAlias = Callable[[], AbstractContextManager[BulkModel]]


@dataclass(frozen=True)
class BulkResult:
    """The outcome of a complete run.

    Attributes:
        inputs: How many images there are, each with one row.
        errors: How many of them could not be read.
        shards: How many files there are.
        kept: How many of these an earlier run had finished.
        repeated: How many names were given more than once; an image is classified once.
    """

    inputs: int
    errors: int
    shards: int
    kept: int
    repeated: int


@contextmanager
def bulk_model_from_export(
    folder: Path, *, precision: Precision | None = None, name: str | None = None
) -> Iterator[BulkModel]:
    """Load a model of an export in the runtime that serves it, on the CPU.

    Args:
        folder: The folder of an export, or a model repository.
        precision: One that the gate accepted. None: the most precise one.
        name: Which export of a repository. None: its only one.

    Raises:
        UsageError, ManifestError, MissingExtra: as of `model_from_export`.
    """
    from .local_model import model_from_export

    with model_from_export(folder, precision=precision, name=name) as model:
        yield BulkModel(
            name=model.name,
            contract=model.contract,
            class_names=model.class_names,
            probabilities=lambda images: model.runner.infer(images).probabilities,
            sha256=model.sha256,
        )


def classify_in_bulk(
    names: Iterable[str],
    open_model: OpenModel,
    out: Path,
    *,
    top: int = 5,
    shards: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = silent,
) -> BulkResult:
    """Classify images into Parquet shards, or continue a run that did not finish.

    Args:
        names: Paths and URLs of the images.
        open_model: Opens the model.
        out: The folder of the shards: a new or empty one, or that of an earlier call with the same arguments.
        top: How many classes a row has, most probable first; at most all.
        shards: How many files. Default: one for each 10,000 images.
        workers: Processes that decode images, 0 for threads of this process. Default: one for each core, but
            threads on up to four cores.
            With `ray`: actors, each with a model of its own. Default: one for each machine.
        ray: Use Ray instead, at this address: `local` starts it on this machine, `auto` finds a running one.
            `out` must then be a folder that all machines share.
        progress: Called with the number of images that are done.

    Raises:
        UsageError: There is no image; or `out` has other files, or shards of other images, of another model
            or of other options.
        BulkError: A worker was killed, an object store failed, or a shard is broken or incomplete.
        MissingExtra: The [bulk] extra is not installed, or [ray] for `ray`.
        OSError: `out` cannot be written, or the disk is full.
    """
    with needs("bulk"):
        import pyarrow.parquet  # noqa: F401  # before any work
    given = list(names)
    inputs = sorted(set(given))
    if not inputs:
        raise UsageError(
            "images", got="none", expected="at least one", next_step="Name files, folders, lists or URLs."
        )
    count = min(shards or -(-len(inputs) // IMAGES_PER_SHARD), len(inputs))
    with _locked(out):
        with open_model() as model:
            record = BulkRecord(
                model=model.name,
                model_sha256=model.sha256,
                contract_digest=model.contract.digest,
                class_names=model.class_names,
                top=min(top, len(model.class_names)),
                shards=count,
                inputs=len(inputs),
                inputs_sha256=digest_of(inputs),
            )
            write_or_compare_record(out, record)
            every = shards_of(out, inputs, count)
            pending = [shard for shard in every if not is_finished(shard, record)]
            kept = len(every) - len(pending)
            report = _RateOf(progress, len(inputs), sum(len(shard.names) for shard in pending))
            if pending and ray is None:
                workers = default_workers() if workers is None else workers
                with decoding_pool(workers) as pool:
                    ahead = BATCHES_PER_WORKER * (workers or len(os.sched_getaffinity(0)))
                    write_shards(model, pending, record, pool, ahead=ahead, report=report.add)
        if pending and ray is not None:
            from .bulk_ray import write_shards_on_ray

            write_shards_on_ray(ray, open_model, pending, record, workers=workers, report=report.add)
        errors = sum(check_shard(shard, record) for shard in every)
    return BulkResult(len(inputs), errors, len(every), kept, len(given) - len(inputs))


def write_shards(
    model: BulkModel,
    shards: Sequence[Shard],
    record: BulkRecord,
    pool: Executor,
    *,
    ahead: int,
    report: Callable[[int], None],
) -> None:
    """Classify the images of some shards, and write each shard when it is complete.

    The images of the next shard are decoded while one is written.

    Args:
        model: The opened model.
        shards: What to do.
        record: Of the run.
        pool: Decodes images.
        ahead: How many batches are decoded ahead.
        report: Called with the number of images of each batch that is done.

    Raises:
        BulkError: A worker was killed, or an object store failed.
        OSError: A shard cannot be written.
    """

    def batches_of(shard: Shard) -> Iterator[tuple[str, ...]]:
        for start in range(0, len(shard.names), model.batch):
            yield tuple(shard.names[start : start + model.batch])

    batches = itertools.chain.from_iterable(map(batches_of, shards))
    try:
        with (
            ThreadPoolExecutor(model.in_flight) as threads,
            closing(in_order(pool, partial(prepared_batch, model.contract), batches, ahead)) as prepared,
            closing(
                in_order(threads, partial(_classified, model, record.top), prepared, model.in_flight + 1)
            ) as results,
        ):
            for shard in shards:
                count = -(-len(shard.names) // model.batch)
                write_shard(shard, itertools.islice(results, count), record, report)
    except BrokenProcessPool as error:
        raise BulkError(
            "a process that decodes images",
            got="killed",
            expected="to run until all images are decoded",
            next_step="Look for the out-of-memory killer in the kernel's log (dmesg), then run the same "
            "command again; it continues.",
        ) from error


def check_model(model: BulkModel, record: BulkRecord) -> None:
    """Check that a model is the one that a run was begun with.

    Args:
        model: The opened model.
        record: Of the run.

    Raises:
        BulkError: it is another one.
    """
    found = (model.name, model.sha256, model.contract.digest, model.class_names)
    if found != (record.model, record.model_sha256, record.contract_digest, record.class_names):
        raise BulkError(
            f"model {model.name}",
            got="another file, contract or classes than the run was begun with",
            expected=f"{record.model} {record.model_sha256[:12]}".rstrip(),
            next_step="Give all machines the same model.",
        )


def _classified(model: BulkModel, top: int, batch: PreparedBatch) -> Classified:
    if batch.images is None:
        return Classified(
            batch.names, batch.errors, np.empty((0, top), np.int64), np.empty((0, top), np.float32)
        )
    probabilities = model.probabilities(batch.images)  # (N, classes)
    indices = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return Classified(batch.names, batch.errors, indices, np.take_along_axis(probabilities, indices, axis=1))


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Create the folder, and hold it so that no second run writes to it.

    Raises:
        UsageError: another run is writing to it, or it is a file.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(str(out), got="a file", expected="a folder", next_step="Choose another --out.")
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:  # other errors: a file system without locks
                raise UsageError(
                    str(out),
                    got="a folder that another run is writing",
                    expected="one run at a time",
                    next_step="Wait for its end, or choose another --out.",
                ) from error
        yield
    finally:
        os.close(handle)
        if is_new:
            with suppress(OSError):  # it has files, unless no run could begin
                out.rmdir()


class _RateOf:
    """Reports progress with the images per second of this run and the time that is left."""

    def __init__(self, progress: Progress, total: int, left: int) -> None:
        self._progress, self._total, self._left = progress, total, left
        self._done = 0
        self._started_s = time.monotonic()

    def add(self, images: int) -> None:
        self._done += images
        rate = self._done / max(time.monotonic() - self._started_s, 1e-9)
        left_s = round((self._left - self._done) / rate)
        note = f"{rate:,.0f} images/s, {left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left"
        self._progress("classifying", self._total - self._left + self._done, self._total, note)
