"""Write files and folders atomically: write under a temporary name, fsync, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes.

    Args:
        path: the file; it is read in chunks.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` at the end, or is removed on an error.

    Args:
        path: the file to create or replace. Its folder is created.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp creates files that only their owner can read
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8; an error leaves an existing file as it was.

    Args:
        path: the file to create or replace, or a pipe or device to write to.
        text: the whole content.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    try:
        if is_stream(path):
            path.write_text(text, encoding="utf-8")
        else:
            with atomic_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".part"):  # a full disk sets no name
            error.filename = str(path)
        raise


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe or a device, such as /dev/stdout, which must not be replaced by a file.

    Args:
        path: /dev/stdout counts as a device even if the shell has redirected it to a regular file.
    """
    if path.is_symlink() and path.absolute().parts[1] in ("dev", "proc"):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; it replaces `path` at the end, or is removed on an error.

    The old folder stays complete until then. Only between two renames is there no folder of that name; an
    error between them restores the old one.

    Args:
        path: the folder to create or replace.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    retired = staged.with_suffix(".old")
    try:
        yield staged
        staged.chmod(0o755)  # mkdtemp creates folders that only their owner can enter
        for file in staged.rglob("*"):
            _fsync(file)
        try:
            if path.exists():
                path.rename(retired)
            staged.rename(path)
        except BaseException:  # an interrupt too must not lose the old folder
            if retired.exists() and not path.exists():
                retired.rename(path)
            raise
        _fsync(path.parent)
    finally:
        if path.exists():  # otherwise the rename back has failed, and `retired` is the only copy
            shutil.rmtree(retired, ignore_errors=True)
        shutil.rmtree(staged, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link, or a copy where the file system has none. Never edit the content in place.

    Args:
        source: the file; a symbolic link is followed.
        target: the path of the link, which must not exist.

    Raises:
        OSError: the target exists, or the disk is full.
    """
    try:
        os.link(source.resolve(), target)  # resolved, because Linux would link the symbolic link itself
    except OSError:
        shutil.copyfile(source, target)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
