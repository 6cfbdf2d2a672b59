"""What a person writes to name images on a command line: files, folders, patterns, `-`, web addresses."""

from __future__ import annotations

import glob
import io
import itertools
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import BinaryIO, TypeAlias

from alexnet_model.decoding import MAX_ENCODED_BYTES
from alexnet_model.errors import DatasetError, UsageError

from .folders import images_in_folder

STDIN = "-"
_WEB = ("http://", "https://")
_CHUNK_BYTES = 1 << 16
_LOOK_UP_S = 0.05


class WebImage:
    """An image on the web: a file that is fetched when it is read, so in the threads that prepare images.

    `read` raises OSError, as files do: no such host, an error's status, or more than `timeout_s` in all. Once
    `given_up` is set nobody waits any more.
    """

    read_later = True  # not when it is taken from the iterator, but in the thread that prepares it

    def __init__(self, url: str, *, timeout_s: float, given_up: threading.Event | None = None) -> None:
        self.name = url
        self._timeout_s = timeout_s
        self._given_up = given_up or threading.Event()

    def read(self, size: int) -> bytes:
        """At most `size` bytes of it."""
        # A socket's timeout is of each piece that arrives, and nothing interrupts it: what counts is here.
        deadline = time.monotonic() + self._timeout_s
        fetched: Future[bytes] = Future()
        threading.Thread(target=self._fetch, args=(size, deadline, fetched), daemon=True).start()
        while not fetched.done():
            left_s = deadline - time.monotonic()
            if self._given_up.is_set():
                raise InterruptedError("given up")
            if left_s <= 0:
                raise self._too_slow()
            wait([fetched], timeout=min(left_s, _LOOK_UP_S))
        try:
            return fetched.result()
        except (OSError, HTTPException, ValueError) as error:
            raise self._in_words(error) from error

    def _fetch(self, size: int, deadline: float, fetched: Future[bytes]) -> None:
        try:
            fetched.set_result(self._content(size, deadline))
        except Exception as error:
            fetched.set_exception(error)

    def _content(self, size: int, deadline: float) -> bytes:
        request = urllib.request.Request(self.name, headers={"User-Agent": "alexnet-serving"})  # noqa: S310
        chunks: list[bytes] = []
        try:
            opened = urllib.request.urlopen(request, timeout=self._timeout_s)  # noqa: S310 (http or https)
        except urllib.error.HTTPError as error:
            error.close()
            raise
        with opened as answer:
            while size > 0 and (chunk := answer.read1(min(size, _CHUNK_BYTES))):
                chunks.append(chunk)
                size -= len(chunk)
                if time.monotonic() > deadline:
                    raise self._too_slow()
            missing = getattr(answer, "length", None)  # http.client only counts them
            if size > 0 and missing:
                raise OSError(f"{missing:,} bytes less than was said")
        return b"".join(chunks)

    def _too_slow(self) -> TimeoutError:
        return TimeoutError(f"no whole image in {self._timeout_s:g} s")

    def _in_words(self, error: Exception) -> OSError:
        """The reason on one line."""
        if isinstance(error, urllib.error.HTTPError):
            redirects = "a redirect that leads nowhere, " if 300 <= error.code < 400 else ""
            return OSError(f"{redirects}HTTP status {error.code}")
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return self._too_slow()
        if isinstance(reason, socket.gaierror):
            return OSError("no such host")
        if isinstance(reason, OSError):  # first: some are of the other kinds too
            return OSError(" ".join((reason.strerror or str(reason)).split()))
        if isinstance(reason, InvalidURL | ValueError):
            return OSError("no web address that can be asked for")
        if isinstance(reason, HTTPException):
            return OSError("an answer that is broken, or no HTTP")
        return OSError(str(reason))


class StdinImage:
    """The one image that stands on standard input.

    `load` it in the main thread: an interrupt does not end the reading of any other.
    """

    name = STDIN

    def __init__(self, stdin: BinaryIO) -> None:
        self._stdin = stdin
        self._content = io.BytesIO()

    def load(self) -> None:
        """Read it to its end, or to just past what an image may take."""
        self._content = io.BytesIO(self._stdin.read(MAX_ENCODED_BYTES + 1))

    def read(self, size: int) -> bytes:
        """At most `size` bytes of what was loaded."""
        return self._content.read(size)


Source: TypeAlias = Path | WebImage | StdinImage


def name_of_source(source: Source) -> str:
    """As it will be called in a prediction."""
    return str(source) if isinstance(source, Path) else source.name


def sources_from_words(
    words: Iterable[str],
    *,
    recursive: bool,
    stdin: BinaryIO | None,
    timeout_s: float,
    given_up: threading.Event | None = None,
) -> Iterator[Source]:
    """Every image that is meant, in order, found as it is wanted.

    A folder means the images in it, a pattern what it matches (`**` goes deeper). A file that is not there
    is given all the same: it gets its error in its place. `given_up` ends what is being fetched.

    Raises:
        DatasetError: a folder without an image, or a pattern that matches nothing.
        UsageError: `-` twice, or where standard input is closed.
    """
    stdin_is_read = False
    for word in words:
        if word == STDIN:
            if stdin_is_read:
                raise UsageError("images", got="'-' twice", expected="one image on standard input")
            if stdin is None:
                raise UsageError("standard input", got="a closed one", expected="one image on it")
            stdin_is_read = True
            yield StdinImage(stdin)
        elif word.lower().startswith(_WEB):
            yield WebImage(word, timeout_s=timeout_s, given_up=given_up)
        else:
            yield from _from_disk(word, recursive=recursive)


def _from_disk(word: str, *, recursive: bool) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        yield from _at_least_one(
            images_in_folder(path, recursive=recursive),
            word,
            "a folder of images",
            "Check the path." if recursive else "Look in its folders too: --recursive.",
        )
    elif glob.has_magic(word) and not path.exists():
        fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        # Not glob.glob, whose `**` follows symbolic links round and round.
        base, pattern = Path(*fixed), str(Path(*path.parts[len(fixed) :]))
        files = (match for match in sorted(base.glob(pattern)) if match.is_file())
        if "/." not in f"/{pattern}":  # as in a shell, hidden files are matched only where a dot is written
            files = (match for match in files if "/." not in f"/{match.relative_to(base)}")
        yield from _at_least_one(files, word, "a pattern that matches files", "Check the pattern.")
    else:
        yield path


def _at_least_one(paths: Iterator[Path], word: str, expected: str, next_step: str) -> Iterator[Path]:
    first = next(paths, None)
    if first is None:
        raise DatasetError(word, got="no image", expected=expected, next_step=next_step)
    yield first
    yield from paths
