"""Labelled images as arrays: about 100 bytes an image, where one Python object each takes ten times as much.

A table is also what worker processes share. A fork copies a memory page once something is written to it, and
Python writes to an object whenever it counts a reference; the arrays stay as they are.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import DatasetError, UnreadableImage, os_error_reason

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageInShard:
    """An encoded image inside a tar file, which is not unpacked; `Contract.prepared` reads it as a file.

    Args:
        path: the tar file.
        offset: where the image begins in it, in bytes.
        size: the image's size in bytes.
        key: the name inside the tar file.
        status: size and modification time of the tar file when its index was made, in bytes and nanoseconds.
    """

    path: Path
    offset: int
    size: int
    key: str
    status: tuple[int, int]

    @property
    def name(self) -> str:
        """What messages call the image."""
        return f"{self.path}/{self.key}"

    def read(self, size: int = -1, /) -> bytes:
        """Return the image from its start, at most `size` bytes of it; -1 returns all.

        Raises:
            UnreadableImage: the tar file is shorter than when its index was made.
            DatasetError: the tar file was changed or removed, so that no image of it can be found any more.
        """
        wanted = self.size if size < 0 else min(size, self.size)
        return self.part(0, wanted)

    def part(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start`; the errors are those of `read`."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = os.fstat(handle)
                content = os.pread(handle, size, self.offset + start)
            finally:
                os.close(handle)
        except OSError as error:
            raise _changed_shard(self.path, os_error_reason(error)) from error
        if (found.st_size, found.st_mtime_ns) != self.status:
            raise _changed_shard(self.path, "a file that has changed since its index was made")
        if len(content) < size:
            raise UnreadableImage(self.name, got=f"{len(content)} bytes", expected=f"{size} bytes")
        return content


def _changed_shard(path: Path, got: str) -> DatasetError:
    return DatasetError(
        f"shard {path}",
        got=got,
        expected="the same file during the whole run",
        next_step="Put it back, or start again.",
    )


@dataclass(frozen=True)
class LabelledImage:
    """An image that is not decoded yet.

    Args:
        name: unique in its dataset; for a file, the path below the dataset's folder.
        label: the index of its class in `ImageDataset.class_names`.
        source: where `Contract.prepared` reads it from.
    """

    name: str
    label: int
    source: Path | ImageInShard | Image.Image


@dataclass(frozen=True, eq=False)
class Columns:
    """The arrays of a table, all of the length N but `names` and `shards`.

    Args:
        names: the bytes of all names, one after the other.
        ends: where each name ends in `names`.
        labels: indices of classes.
        sizes: of the encoded images, in bytes.
        mtimes_ns: when each file was modified, in nanoseconds; empty for images in shards.
        shard_of: the index in `shards`; empty for files.
        offsets: where each image begins in its shard; empty for files.
        shards: the paths of the shards below the root, and the size and modification time of each.
    """

    names: bytes
    ends: Int64Array
    labels: Int64Array
    sizes: Int64Array
    mtimes_ns: Int64Array
    shard_of: Int64Array
    offsets: Int64Array
    shards: tuple[tuple[str, int, int], ...] = ()


class ImageTable(Sequence[LabelledImage]):
    """A sequence of labelled images that are files or in shards; an image object is made when it is read.

    Args:
        root: the folder that names of files, or paths of shards, are relative to.
        columns: the images.
        rows: indices `(M,)` of those that this table has. None: all.
        opened_ns: when the dataset was opened, in nanoseconds: a file that was modified later has changed
            during the run.
    """

    def __init__(
        self, root: Path, columns: Columns, *, rows: Int64Array | None = None, opened_ns: int
    ) -> None:
        self.root, self.columns, self.opened_ns = root, columns, opened_ns
        self.rows = np.arange(len(columns.ends)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...
    @overload
    def __getitem__(self, index: slice) -> ImageTable: ...
    def __getitem__(self, index: int | slice) -> LabelledImage | ImageTable:
        if isinstance(index, slice):
            return self.taken(np.arange(len(self))[index])
        columns, row = self.columns, int(self.rows[index])
        start = int(columns.ends[row - 1]) if row else 0
        name = os.fsdecode(columns.names[start : columns.ends[row]])
        label, size = int(columns.labels[row]), int(columns.sizes[row])
        if not len(columns.offsets):
            return LabelledImage(name, label, self.root / name)
        shard, *status = columns.shards[int(columns.shard_of[row])]
        key = name.removeprefix(f"{shard}/")
        place = ImageInShard(
            self.root / shard, int(columns.offsets[row]), size, key, (int(status[0]), int(status[1]))
        )
        return LabelledImage(name, label, place)

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageTable):
            return NotImplemented
        return len(self) == len(other) and all(map(LabelledImage.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    @property
    def labels(self) -> Int64Array:
        """The labels `(N,)`."""
        return self.columns.labels[self.rows]

    @property
    def sizes(self) -> Int64Array:
        """The sizes of the encoded images in bytes `(N,)`."""
        return self.columns.sizes[self.rows]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the names, labels and sizes."""
        digest = hashlib.sha256(self.columns.names)
        for values in (self.columns.ends, self.rows, self.labels, self.sizes):
            digest.update(values.astype("<i8").tobytes())
        return digest.hexdigest()

    def taken(self, indices: Int64Array) -> ImageTable:
        """Return a table of the images at `indices`, which shares the arrays of this one."""
        return ImageTable(self.root, self.columns, rows=self.rows[indices], opened_ns=self.opened_ns)

    def check_unchanged(self, index: int) -> None:
        """Check that a file was not modified since the dataset was opened. Shards are checked when read.

        Args:
            index: of the image.

        Raises:
            UnreadableImage: it was modified. One that is missing passes; reading it fails.
        """
        if len(self.columns.offsets):
            return
        row = self.rows[index]
        path = self[index].source
        assert isinstance(path, Path)
        try:
            found = path.stat()
        except OSError:
            return
        known = int(self.columns.sizes[row]), int(self.columns.mtimes_ns[row])
        if (found.st_size, found.st_mtime_ns) != known and found.st_mtime_ns > self.opened_ns:
            raise UnreadableImage(
                str(path),
                got="a file that was changed during the run",
                expected="the same images during the whole run",
            )


class TableBuilder:
    """Collects the columns of a table, image by image."""

    def __init__(self) -> None:
        self._names, self._ends, self._labels, self._sizes = bytearray(), array("q"), array("q"), array("q")
        self._mtimes, self._shard_of, self._offsets = array("q"), array("q"), array("q")
        self.shards: list[tuple[str, int, int]] = []

    def __len__(self) -> int:
        return len(self._ends)

    def add_file(self, name: str, label: int, *, size: int, mtime_ns: int) -> None:
        """Add an image file."""
        self._add(name, label, size)
        self._mtimes.append(mtime_ns)

    def add_in_shard(self, name: str, label: int, *, size: int, offset: int) -> None:
        """Add an image that is in the last of `shards`."""
        self._add(name, label, size)
        self._shard_of.append(len(self.shards) - 1)
        self._offsets.append(offset)

    def _add(self, name: str, label: int, size: int) -> None:
        self._names += os.fsencode(name)
        self._ends.append(len(self._names))
        self._labels.append(label)
        self._sizes.append(size)

    def columns(self) -> Columns:
        """Return what was added."""
        ends, labels, sizes, mtimes, shard_of, offsets = (
            np.array(values, dtype=np.int64)
            for values in (
                *(self._ends, self._labels, self._sizes),
                *(self._mtimes, self._shard_of, self._offsets),
            )
        )
        shards = tuple(self.shards)
        return Columns(bytes(self._names), ends, labels, sizes, mtimes, shard_of, offsets, shards)
