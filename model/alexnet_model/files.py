"""Write files and folders atomically: fill a temporary folder beside them, fsync, then exchange.

What is not complete yet lies in a folder `.alexnet-XXXXXXXX.part`, which its process holds locked:

    lock            held by the process that writes; the lock ends with the process
    new             what is written
    old/NAME        the folder NAME, on file systems that cannot exchange two folders in one step
    record, removing, adding
                    the contents of a folder that cannot be renamed (`_swap_contents`)

If a process was killed, the next one that writes to the same place undoes an unfinished replacement and
removes the part (docs/decisions/replacing-folders.md).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .folders import is_junk
from .interrupts import deferred_interrupts
from .reading import open_regular

_PART = re.compile(r"\.alexnet-[a-z0-9_]{8}\.part")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes.

    Args:
        path: the file; it is read in chunks.

    Raises:
        OSError: the file cannot be read, or is a pipe or a device.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder on the disk of `path`, which is removed at the end.

    Files can be hard-linked between the two. If the process is killed, a later one removes the folder.

    Args:
        path: a file or folder, which need not exist. Its folder is created.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the error names `path`.
    """
    path = path.resolve()
    with _naming(path), _part_in(_folder_for_parts(path)) as part:
        yield part / "new"


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield an empty folder where the system keeps temporary files, which is removed at the end.

    Unlike with `tempfile.TemporaryDirectory`, Ctrl-C during the removal waits until nothing is left.

    Args:
        prefix: how its name starts, such as `alexnet-bench-`.

    Raises:
        OSError: the folder cannot be created.
    """
    with deferred_interrupts() as interrupts:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            with interrupts.allowed():
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to create; it replaces `path` at the end, or is removed on an error.

    Args:
        path: the file to create or replace. Its folder is created.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the error names `path`.
    """
    with _naming(path), _part_in(path.parent) as part:
        temporary = part / "new" / path.name
        yield temporary
        # Some libraries create files that only their owner can read; the folder is by the umask.
        temporary.chmod(temporary.parent.stat().st_mode & 0o666)
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8; an error leaves an existing file as it was.

    Args:
        path: the file to create or replace, or a pipe or device to write to.
        text: the whole content.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the error names `path`.
    """
    if is_stream(path):
        with _naming(path):
            path.write_text(text, encoding="utf-8")
    else:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe or a device, such as /dev/stdout, which must not be replaced by a file.

    Args:
        path: /dev/stdout counts as a device even if the shell has redirected it to a regular file.
    """
    if path.is_symlink() and path.absolute().parts[1] in ("dev", "proc"):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def atomic_directory(path: Path, *, record: str) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; it replaces `path` at the end, or is removed on an error.

    The old folder stays complete until then, and there is no moment without one, except on file systems that
    cannot exchange two folders. A folder that is a mount point cannot be renamed: then its contents are
    exchanged, and it is without its record while that lasts. Hidden files and folders of the old folder stay.

    Args:
        path: the folder to create or replace.
        record: the name of the file without which the folder is not valid, such as `export.json`.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the error names `path`.
    """
    path = path.resolve()
    restore_interrupted(path)
    folder = _folder_for_parts(path)
    with _naming(path), _part_in(folder) as part:
        staged = part / "new"
        yield staged
        for file in (staged, *staged.rglob("*")):
            if not file.is_symlink():
                _fsync(file)
        if folder == path:
            _swap_contents(path, part, record)
        else:
            _replace_directory(path, part, record)
        _fsync(folder)


def check_writable(path: Path, *, needed_bytes: int = 0) -> None:
    """Check that a file or folder can be created or replaced, before slow work starts.

    A replacement of it that a killed process left unfinished is undone.

    Args:
        path: the file or folder, which need not exist. Nothing is created.
        needed_bytes: the space that it needs, in bytes; not checked by default.

    Raises:
        OSError: it cannot be written, or the free space does not suffice; the error names `path`.
    """
    path = path.resolve()
    restore_interrupted(path)
    folder = _folder_for_parts(path)
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        error.filename = str(path)  # and not the name of the temporary file
        raise
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        reason = f"{free / 1e6:,.0f} MB are free, and at least {needed_bytes / 1e6:,.0f} MB are needed"
        raise OSError(errno.ENOSPC, reason, str(path))


def restore_interrupted(path: Path) -> None:
    """Undo a replacement of a folder that a killed process left unfinished, and remove what it left.

    Args:
        path: the folder. Nothing happens if it cannot be written, or if another process is writing it.
    """
    path = path.resolve()
    for folder in (path.parent, path):
        _sweep(folder)


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


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors of the operating system name a path, and not its part or, as for a full disk, none."""
    try:
        yield
    except OSError as error:
        is_of_disk = error.filename is None and error.errno in _DISK_ERRORS
        if is_of_disk or _PART.search(str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise


def _folder_for_parts(path: Path) -> Path:
    """Return where parts of a path are made: beside it, or inside it if it cannot be renamed."""
    if path.is_dir() and (path.is_mount() or not os.access(path.parent, os.W_OK)):
        return path
    return path.parent


@contextmanager
def _part_in(folder: Path) -> Iterator[Path]:
    """Create a part and hold it locked; at the end, undo a replacement that is not complete and remove it."""
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    with deferred_interrupts() as interrupts:
        part, lock = _locked_part(folder)
        with lock:
            try:
                (part / "new").mkdir()  # by the umask, and not for its owner only as the part
                with interrupts.allowed():
                    yield part
            finally:
                _dispose(part)


def _locked_part(folder: Path) -> tuple[Path, IO[str]]:
    """Create a part; again if another process has taken it for one that was left, before it was locked."""
    while True:
        part = Path(tempfile.mkdtemp(prefix=".alexnet-", suffix=".part", dir=folder))
        try:
            lock = (part / "lock").open("w")
        except FileNotFoundError:
            continue
        except OSError:
            part.rmdir()
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_taken = not (part / "lock").exists()
        except OSError as error:  # others: a file system without locks, where no part is swept
            is_taken = error.errno == errno.EWOULDBLOCK
        if not is_taken:
            return part, lock
        lock.close()


def _sweep(folder: Path) -> None:
    """Dispose of the parts in a folder that processes of this user have left."""
    try:
        with os.scandir(folder) as entries:
            parts = [entry for entry in entries if _PART.fullmatch(entry.name)]
    except OSError:
        return
    for entry in parts:
        # It cannot be locked: it is in use, or was removed meanwhile.
        with suppress(OSError), deferred_interrupts():
            if not entry.is_dir(follow_symlinks=False) or entry.stat().st_uid != os.geteuid():
                continue
            lock = os.open(f"{entry.path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _dispose(Path(entry.path))
            finally:
                os.close(lock)


def _dispose(part: Path) -> None:
    try:
        _undo(part)
    except OSError:
        return  # the part holds the only copy of a folder; the next process tries again
    shutil.rmtree(part, ignore_errors=True)


def _undo(part: Path) -> None:
    """Put back what a replacement has moved into its part, unless the replacement was complete."""
    folder = part.parent
    for old in _entries(part / "old"):
        if not (folder / old.name).exists():
            old.rename(folder / old.name)
    removing, adding = part / "removing", part / "adding"
    if adding.is_dir() and _entries(part / "new"):
        for entry in _entries(folder):
            _move(entry, part / "new", part)
        adding.rename(removing)
    for entry in (*_entries(removing), *(_entries(part / "record") if removing.is_dir() else ())):
        _move(entry, folder, part)


def _replace_directory(path: Path, part: Path, record: str) -> None:
    staged, retired = part / "new", part / "old" / path.name
    if not path.exists():
        staged.rename(path)
        return
    _copy_hidden(path, staged)
    with suppress(OSError):
        _exchange(staged, path)
        return
    retired.parent.mkdir()
    try:
        path.rename(retired)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _copy_into_mount(path, staged, record)
        return
    staged.rename(path)  # if this fails, `_undo` renames the old folder back


def _copy_into_mount(path: Path, staged: Path, record: str) -> None:
    """Replace a folder that turned out to be a mount, or a folder of an image's layer in a container."""
    with _part_in(path) as inside:
        shutil.copytree(staged, inside / "new", dirs_exist_ok=True)
        _swap_contents(path, inside, record)


def _swap_contents(path: Path, part: Path, record: str) -> None:
    """Exchange the contents of a folder that cannot be renamed with those of `part`, which is inside it.

    The old record is the first file that goes, and the new one is the last that comes, so that a reader finds
    the old contents, the new ones, or a folder without a record. `_undo` can put everything back until then.
    """
    removing, adding, old_record = part / "removing", part / "adding", part / "record"
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at this point with the same folder
        old_record.mkdir()
        removing.mkdir()
        for entry in sorted(_entries(path), key=lambda entry: entry.name != record):
            _move(entry, old_record if entry.name == record else removing, part)
        removing.rename(adding)
        for entry in sorted(_entries(part / "new"), key=lambda entry: entry.name == record):
            _move(entry, path, part)
    finally:
        os.close(lock)


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder except for what stays in it; nothing if there is no such folder."""
    return [entry for entry in folder.iterdir() if not is_junk(entry.name)] if folder.is_dir() else []


def _move(entry: Path, folder: Path, part: Path) -> None:
    """Move a file or folder; in a container, a folder of the image's layers can only be copied."""
    target = folder / entry.name
    try:
        entry.rename(target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOTEMPTY):
            raise
        if target.is_dir():  # a copy or a removal of it was interrupted
            shutil.rmtree(target)
        copy = part / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(entry, copy, symlinks=True)
        copy.rename(target)
        shutil.rmtree(entry)


def _copy_hidden(old: Path, new: Path) -> None:
    """Copy hidden files and folders of the user, such as `.git`, into the folder that replaces theirs."""
    for entry in old.iterdir():
        target = new / entry.name
        if not entry.name.startswith(".") or _PART.fullmatch(entry.name) or target.exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True)
        else:
            shutil.copy2(entry, target, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step.

    Raises:
        OSError: the file system or the C library cannot do it.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    if rename is None or rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno() or errno.ENOSYS
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
