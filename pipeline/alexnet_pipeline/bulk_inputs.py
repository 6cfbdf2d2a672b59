"""Names of the inputs of a bulk classification, and how worker processes turn them into prepared images.

A name is a path, or a URL of an object store that fsspec knows (`s3://bucket/rose.jpg`).
"""

from __future__ import annotations

import errno
import io
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.decoding import MAX_ENCODED_BYTES
from alexnet_model.errors import BulkError, DatasetError, ImageError, UnreadableImage, UsageError
from alexnet_model.extras import needs
from alexnet_model.folders import is_junk
from alexnet_model.image_formats import image_suffixes

MAX_LIST_BYTES = 4 * 1024**3
READS_AT_ONCE = 16  # by each worker, from an object store, where one read waits for tens of milliseconds
# Decoding and resizing release Python's lock. A process costs a copy of the pixels, but has its own lock.
THREADS_SUFFICE = 4  # cores
_URL = re.compile(r"[a-z][a-z0-9+.:-]*://", re.IGNORECASE)
# Of a disk or a network file system, and of this process: a second attempt may succeed.
_FAILURES = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class PreparedBatch:
    """Some of the inputs, decoded.

    Attributes:
        names: Of the inputs, N of them.
        images: uint8 `(N - len(errors), S, S, 3)`; None if none could be read.
        errors: Why an input could not be read, by its place in `names`.
    """

    names: tuple[str, ...]
    images: Uint8Array | None
    errors: dict[int, str]


def is_url(name: str) -> bool:
    """Return whether a name is a URL, such as `s3://bucket/rose.jpg`, and not a path."""
    return _URL.match(name) is not None


def is_list(name: str) -> bool:
    """Return whether an argument names a list of inputs: a path or URL that ends in `.txt`."""
    return name.lower().endswith(".txt")


def names_in_list(path: str) -> list[str]:
    """Read a list of inputs.

    Args:
        path: The path or URL of UTF-8 text with one path or URL a line. Paths are relative to the folder of
            the list. Empty lines and lines that start with `#` are ignored.

    Raises:
        DatasetError: The list is missing, is not UTF-8, is larger than 4 GiB or has no name.
        UsageError: fsspec does not know the URL's protocol.
        MissingExtra: A URL without the [bulk] extra.
    """
    folder = path.rpartition("/")[0]
    try:
        with _opened(path) as file:
            content = file.read(MAX_LIST_BYTES + 1)
        if len(content) > MAX_LIST_BYTES:
            raise ValueError(f"more than {MAX_LIST_BYTES:,} bytes")
        lines = [line.strip() for line in content.decode("utf-8").splitlines()]
        names = [line for line in lines if line and not line.startswith("#")]
        if not names:
            raise ValueError("no name")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(
            path,
            got=reason[:1].lower() + reason[1:],
            expected="a UTF-8 list of images, one path or URL a line",
            next_step="Check the list.",
        ) from error
    is_relative = [folder and not (name.startswith("/") or is_url(name)) for name in names]
    return [f"{folder}/{name}" if inside else name for name, inside in zip(names, is_relative, strict=True)]


def names_at_url(url: str, *, recursive: bool = False) -> list[str]:
    """Find the images that a URL names: one object, a pattern, or the images of a folder by their suffix.

    Args:
        url: Such as `s3://bucket/images`, `s3://bucket/images/*.jpg` or `memory://rose.png`.
        recursive: Search also the folders inside a folder.

    Raises:
        DatasetError: A folder without an image, a pattern without a match, or a store that cannot be read.
        UsageError: fsspec does not know the URL's protocol, or needs another package for it.
        MissingExtra: The [bulk] extra is not installed.
    """
    store, path = _store_and_path(url)
    try:
        if any(letter in path for letter in "*?["):
            found = [match for match in store.glob(path) if not store.isdir(match)]
            expected = "a pattern that matches objects"
        elif store.isdir(path):
            found = [
                name
                for name in store.find(path, maxdepth=None if recursive else 1)
                if PurePosixPath(name).suffix.lower() in image_suffixes()
                and not any(map(is_junk, PurePosixPath(name[len(path) :].lstrip("/")).parts))
            ]
            expected = "a folder of images" if recursive else "a folder of images, or --recursive"
        else:
            return [url]
    except Exception as error:  # each store raises errors of its own library
        raise _store_failed(url, error) from error
    if not found:
        raise DatasetError(url, got="no image", expected=expected, next_step="Check the URL.")
    return [store.unstrip_protocol(name) for name in found]


def prepared_batch(contract: Contract, names: tuple[str, ...]) -> PreparedBatch:
    """Read and decode some of the inputs; the objects of a store are read at the same time.

    Args:
        contract: How images are prepared.
        names: Of the inputs.

    Raises:
        BulkError: An object store or a disk failed, so that a second attempt may succeed.
        UsageError: fsspec does not know the protocol of a URL.
    """
    if any(map(is_url, names)):
        with ThreadPoolExecutor(READS_AT_ONCE) as threads:
            found = list(threads.map(lambda name: _prepared(contract, name), names))
    else:
        found = [_prepared(contract, name) for name in names]
    images = [each for each in found if not isinstance(each, str)]
    errors = {place: each for place, each in enumerate(found) if isinstance(each, str)}
    return PreparedBatch(names, np.stack(images) if images else None, errors)  # (N, S, S, 3)


def _prepared(contract: Contract, name: str) -> Uint8Array | str:
    """Return a prepared image, or why it cannot be read: what a second attempt would find too."""
    try:
        return contract.prepared(_object_at(name) if is_url(name) else name)
    except ImageError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _FAILURES:
            raise _store_failed(name, cause) from error
        return str(error)


def _object_at(url: str) -> io.BytesIO:
    """Read one object, at most as much of it as an image may have."""
    try:
        with _opened(url) as file:
            content = io.BytesIO(file.read(MAX_ENCODED_BYTES + 1))
    except (FileNotFoundError, IsADirectoryError) as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableImage(
            url, got=reason[:1].lower() + reason[1:], expected="a readable object", next_step="Check the URL."
        ) from error
    except (BulkError, UsageError):
        raise
    except Exception as error:  # each store raises errors of its own library
        raise _store_failed(url, error) from error
    content.name = url  # what an error calls it
    return content


def _opened(name: str) -> Any:
    """Open a path or URL as a binary file."""
    if not is_url(name):
        return open(name, "rb")  # noqa: PTH123
    store, path = _store_and_path(name)
    return store.open(path, "rb", cache_type="none")  # read as a whole and once


def _store_and_path(url: str) -> tuple[Any, str]:
    with needs("bulk"):
        import fsspec.core
    try:
        store, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # a package to install, or an unknown protocol
        raise UsageError(
            url,
            got=str(error).rstrip("."),
            expected="a URL that fsspec can open",
            next_step="Check how the URL starts, and install the package of its store, such as s3fs for s3://.",
        ) from error
    return store, path


def _store_failed(url: str, error: Exception) -> BulkError:
    return BulkError(
        url,
        got=f"{type(error).__name__}: {error}".rstrip("."),
        expected="a store or disk that can be read",
        next_step="Run the same command again; it continues.",
    )


def in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result]:
    """Yield the result of each item in order, while a pool works on the next ones.

    Args:
        pool: Runs `function`.
        function: Computes the result of one item.
        items: Taken one at a time.
        ahead: How many items are in work at most, so that memory is bounded.
    """
    window: deque[Future[Result]] = deque()
    try:
        for item in items:
            window.append(pool.submit(function, item))
            if len(window) >= ahead:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        for future in window:
            future.cancel()


def default_workers() -> int:
    """Return how many processes decode images on this machine: none, but threads, on up to four cores."""
    cores = len(os.sched_getaffinity(0))
    return cores if cores > THREADS_SUFFICE else 0


@contextmanager
def decoding_pool(workers: int) -> Iterator[Executor]:
    """Start the processes that decode images, and end them on leaving the `with`.

    Args:
        workers: How many; 0 for threads of this process.
    """
    if workers == 0:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            yield threads
        return
    context = multiprocessing.get_context("spawn")  # not forked, because runtimes have threads
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as processes:
        # A new process inherits the blocked Ctrl-C until it ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            for _ in range(workers):  # each call starts one while none is idle
                processes.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield processes


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and end when it ends: a killed process cannot end its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def follow() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
