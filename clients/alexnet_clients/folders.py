"""Images below a folder, found lazily and in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alexnet_model.datasets import SUFFIXES
from alexnet_model.errors import DatasetError, os_error_reason


def images_in_folder(folder: Path, *, recursive: bool = False) -> Iterator[Path]:
    """Every image file by its suffix, sorted within each folder; hidden ones are left out.

    Only one folder's names are in memory at a time. A symbolic link to a folder is not followed.

    Raises:
        DatasetError: there is no such folder, or it cannot be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(
            str(folder),
            got=os_error_reason(error),
            expected="a folder of images",
            next_step="Check the path.",
        ) from error
    visible = [path for path in entries if not path.name.startswith(".")]
    yield from (path for path in visible if path.suffix.lower() in SUFFIXES and path.is_file())
    if recursive:
        for path in visible:
            if path.is_dir() and not path.is_symlink():
                yield from images_in_folder(path, recursive=True)
