"""Lists of tar shards: a text file with one path or URL a line. URLs are downloaded once."""

from __future__ import annotations

import http.client
import re
from collections import Counter
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from .errors import DatasetError
from .files import atomic_file, check_writable
from .progress import Progress
from .reading import text_of_file

MAX_LIST_BYTES = 16 * 1024 * 1024
MAX_SHARD_BYTES = 64 * 1024**3
TIMEOUT_S = 60.0  # without any data


def shards_in_list(path: Path, progress: Progress) -> list[str]:
    """Read a list of shards, and download those that are not here yet.

    Args:
        path: UTF-8 text with one path or URL (http, https) of a `.tar` file a line. Paths are relative to the
            folder of the list. Empty lines and lines that start with `#` are ignored. Downloads are kept in
            the folder `<name of the list>.shards` beside it; a file that is there is not downloaded again.
        progress: called after every shard.

    Returns:
        Paths, relative to the folder of the list or absolute.

    Raises:
        DatasetError: the file is no such list, or a download failed.
        OSError: it cannot be read, or a download cannot be written.
    """
    try:
        lines = [line.strip() for line in text_of_file(path, max_bytes=MAX_LIST_BYTES).splitlines()]
    except UnicodeDecodeError:
        lines = [f"{path.name}, which is not UTF-8"]
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines or ["no line"]:
        if not urlsplit(line).path.endswith(".tar"):
            raise DatasetError(
                str(path),
                got=line[:80],
                expected="a list of tar shards, one path or URL a line",
                next_step="Name files that end in .tar.",
            )
    shards = []
    for number, line in enumerate(lines):
        is_url = re.match(r"[a-z][a-z0-9+.-]+://", line, re.IGNORECASE)
        shards.append(_downloaded(line, path, progress) if is_url else line)
        progress("opening shards", number + 1, len(lines))
    name, count = Counter(shards).most_common(1)[0]
    if count > 1:
        raise DatasetError(
            str(path),
            got=f"{count} shards with the name {name}",
            expected="different names",
            next_step="Remove or rename the others.",
        )
    return shards


def _downloaded(url: str, path: Path, progress: Progress) -> str:
    """Download one shard, unless it is here; return its path relative to the list's folder."""
    parts = urlsplit(url)
    name = parts.path.rpartition("/")[2]
    if parts.scheme.lower() not in ("http", "https") or not re.fullmatch(r"\w[\w.-]*\.tar", name, re.ASCII):
        raise DatasetError(
            url,
            got="a URL of another kind",
            expected="http or https, and a name of ASCII letters, digits, '.', '-' and '_'",
            next_step=f"Download it, and put its path into {path}.",
        )
    shard = path.with_name(f"{path.name}.shards") / name
    if not shard.exists():
        try:
            with urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - the scheme is checked above
                length = int(response.headers.get("Content-Length") or -1)
                if length > MAX_SHARD_BYTES:
                    raise ValueError(f"{length:,} bytes, more than {MAX_SHARD_BYTES:,}")
                check_writable(shard, needed_bytes=max(0, length))
                with atomic_file(shard) as temporary:
                    size = 0
                    with temporary.open("wb") as file:
                        while size <= MAX_SHARD_BYTES and (part := response.read(1024 * 1024)):
                            size += file.write(part)
                            progress(f"downloading {name}", size, max(length, size))
                    if size > MAX_SHARD_BYTES:
                        raise ValueError(f"more than {MAX_SHARD_BYTES:,} bytes")
                    if length >= 0 and size != length:
                        raise ValueError(f"{size:,} of {length:,} bytes")
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, HTTPError):
                error.close()
            raise DatasetError(
                url,
                got=f"{error}",
                expected="a tar file",
                next_step="Run again: shards that are complete are kept.",
            ) from error
    return str(shard.relative_to(path.parent))
