"""Read files that users name and records that others may have edited: regular files only, bounded in size."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_RECORD_BYTES = 64 * 1024 * 1024
MAX_JSON_DEPTH = 100  # levels; the deepest record of this project has about ten


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading, or a link to one, without waiting for the other end of a pipe.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read, or is a folder, a pipe or a device, whose end may never come.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "a pipe or a device, and not a regular file", str(path))


def bytes_of_file(path: Path, *, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        max_bytes: its largest size; 64 MiB by default.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"more than {max_bytes:,} bytes", str(path))
    return content


def text_of_file(path: Path, *, max_bytes: int = MAX_RECORD_BYTES) -> str:
    """Return the content of a regular file in UTF-8.

    Args:
        path: the file.
        max_bytes: its largest size; 64 MiB by default.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
        UnicodeDecodeError: it is not UTF-8.
    """
    return bytes_of_file(path, max_bytes=max_bytes).decode("utf-8")


def value_from_json(text: str | bytes) -> Any:
    """Parse JSON whose nesting is bounded, so that code that follows it by recursion does not fail.

    Args:
        text: the JSON, as bytes in UTF-8.

    Raises:
        ValueError: it is no JSON, or has more than 100 levels.

    >>> value_from_json('{"names": ["rose"]}')
    {'names': ['rose']}
    """
    too_deep = f"more than {MAX_JSON_DEPTH} levels of nesting"
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return value
    raise ValueError(too_deep)


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
