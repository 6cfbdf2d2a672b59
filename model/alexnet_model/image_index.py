"""The index of a large dataset: what a search for its images found, kept in the user's cache folder.

To find 1.28 million images takes a minute, or several over a network. The index is used again as long as no
folder or shard that was searched has changed. It is a NumPy file without pickled objects.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .contract import canonical_json
from .files import atomic_file
from .image_table import Columns
from .labelled_images import Unreadable
from .reading import value_from_json

FORMAT = "alexnet-image-index-1"
INDEXED_IMAGES = 10_000  # from so many images on; fewer are found at once
MAX_INDEX_BYTES = 4 * 1024**3  # some 40 million images
MAX_INDEXES = 32  # in the cache folder; the oldest are removed
# File systems record times in steps of up to 2 s. A folder that changed so shortly before it was searched can
# change again without another time.
SETTLED_NS = 2_000_000_000
_ARRAYS = ("ends", "labels", "sizes", "mtimes_ns", "shard_of", "offsets")


@dataclass(frozen=True)
class ImageIndex:
    """What a search found.

    Args:
        columns: the images.
        searched: the folders and shards that were searched, with size and modification time in nanoseconds.
            The size of a folder is 0.
        left_out: what was found and cannot be used.
    """

    columns: Columns
    searched: tuple[tuple[str, int, int], ...]
    left_out: tuple[Unreadable, ...]


def index_folder() -> Path:
    """Return the folder of the indexes: `alexnet-serving/indexes` in XDG_CACHE_HOME or `~/.cache`."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path("~/.cache").expanduser()
    return base / "alexnet-serving" / "indexes"


def indexed(subject: object, search: Callable[[], ImageIndex], *, keep_left_out: bool) -> ImageIndex:
    """Return the kept index of a dataset, or search and keep what was found.

    An index that cannot be read or written is no error, because it only saves time.

    Args:
        subject: what is searched, as JSON: the path, and all that changes what a search finds.
        search: makes the index.
        keep_left_out: keep an index in which something is left out. False if that can become usable without
            a change of the folders that were searched, such as the target of a link.
    """
    name = hashlib.sha256(canonical_json([FORMAT, subject]).encode()).hexdigest()
    path = index_folder() / f"{name}.npz"
    kept = _read(path)
    if kept is not None and all(_is_unchanged(*one) for one in kept.searched):
        return kept
    started_ns = time.time_ns()
    found = search()
    settled = all(mtime_ns < started_ns - SETTLED_NS for _, _, mtime_ns in found.searched)
    if len(found.columns.ends) >= INDEXED_IMAGES and settled and (keep_left_out or not found.left_out):
        with suppress(OSError):
            _write(path, found)
    return found


def status_of(path: Path) -> tuple[str, int, int]:
    """Return an entry for `ImageIndex.searched`.

    Args:
        path: a folder or a file; a link is followed.

    Raises:
        OSError: it does not exist.
    """
    found = path.stat()
    return os.path.abspath(path), 0 if path.is_dir() else found.st_size, found.st_mtime_ns  # noqa: PTH100 - keeps links


def _is_unchanged(path: str, size: int, mtime_ns: int) -> bool:
    try:
        return status_of(Path(path)) == (path, size, mtime_ns)
    except OSError:
        return False


def _write(path: Path, index: ImageIndex) -> None:
    record = {
        "format": FORMAT,
        "searched": index.searched,
        "left_out": [[one.name, one.reason] for one in index.left_out],
        "shards": index.columns.shards,
    }
    arrays = {name: getattr(index.columns, name) for name in _ARRAYS}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            names=np.frombuffer(index.columns.names, np.uint8),
            record=np.frombuffer(canonical_json(record).encode(), np.uint8),
            **arrays,
        )
    others = sorted(path.parent.glob("*.npz"), key=lambda other: other.stat().st_mtime_ns, reverse=True)
    for old in others[MAX_INDEXES:]:
        old.unlink(missing_ok=True)


def _read(path: Path) -> ImageIndex | None:
    """Return a kept index; None if there is none, or it is broken."""
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as members:
            # Arrays are stored as they are: a file that declares more than it holds is not one of ours.
            if size > MAX_INDEX_BYTES or sum(one.file_size for one in members.infolist()) > size:
                return None
        with np.load(path, allow_pickle=False) as arrays:
            record = value_from_json(arrays["record"].tobytes())
            if record["format"] != FORMAT:
                return None
            columns = Columns(
                names=arrays["names"].tobytes(),
                shards=tuple((str(name), int(size), int(mtime)) for name, size, mtime in record["shards"]),
                **{name: arrays[name].astype(np.int64, copy=False) for name in _ARRAYS},
            )
            searched = tuple((str(name), int(size), int(mtime)) for name, size, mtime in record["searched"])
            left_out = tuple(Unreadable(str(name), str(reason)) for name, reason in record["left_out"])
        lengths = {len(columns.ends), len(columns.labels), len(columns.sizes)}
        lengths |= (
            {len(columns.offsets), len(columns.shard_of)} if columns.shards else {len(columns.mtimes_ns)}
        )
        if len(lengths) != 1 or not searched or len(columns.names) != columns.ends[-1]:
            return None
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return ImageIndex(columns, searched, left_out)
