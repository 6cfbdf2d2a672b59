"""Files that are either whole or not there: write beside, fsync, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; on success it becomes `path`, on any error it is removed.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)  # mkstemp makes files that only their owner can read
        _fsync(part)
        part.replace(path)
        _fsync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` in UTF-8, or leave it as it was; a pipe or a device is written to.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    try:
        if is_stream(path):
            path.write_text(text, encoding="utf-8")
        else:
            with atomic_file(path) as part:
                part.write_text(text, encoding="utf-8")
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".part"):  # a full disk names none
            error.filename = str(path)
        raise


def is_stream(path: Path) -> bool:
    """Whether a pipe or a device, such as /dev/stdout, has that name: nothing is to take its place.

    /dev/stdout stays the system's link where the shell has put a file behind it.
    """
    if path.is_symlink() and path.absolute().parts[1] in ("dev", "proc"):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill; on success it takes the place of `path`.

    What stood at `path` stays whole until then and is removed after. The two renames are the only moment
    without a folder of that name; an error between them puts the old one back.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    retired = staged.with_suffix(".old")
    try:
        yield staged
        staged.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
        for file in staged.rglob("*"):
            _fsync(file)
        try:
            if path.exists():
                path.rename(retired)
            staged.rename(path)
        except BaseException:  # an interrupt must not cost the old one either
            if retired.exists() and not path.exists():
                retired.rename(path)
            raise
        _fsync(path.parent)
    finally:
        if path.exists():  # else a rename back has failed, and the old one is all there is
            shutil.rmtree(retired, ignore_errors=True)
        shutil.rmtree(staged, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link where the file system can, copy where it cannot. The content must never be edited in place.

    Raises:
        OSError: the target exists, or the disk is full.
    """
    try:
        os.link(source.resolve(), target)  # of a symbolic link's own name Linux makes another symbolic link
    except OSError:
        shutil.copyfile(source, target)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
