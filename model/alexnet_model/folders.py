"""Folders that a command replaces as a whole: refuse those that hold files that the command did not write."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from .errors import AlexnetError
from .manifest import MANIFEST_NAME


def refuse_foreign_files(
    folder: Path,
    is_ours: Callable[[str], bool],
    *,
    what: str,
    error: type[AlexnetError],
    record: str = MANIFEST_NAME,
    ignored: Collection[str] = (),
) -> None:
    """Refuse to replace a folder that holds anything that the caller did not write.

    An empty folder passes, and so does one that does not exist. A folder with files of ours must also hold
    their record.

    Args:
        folder: The folder that is about to be replaced.
        is_ours: Whether a file or folder of that name is one that the caller writes.
        what: What such a folder is, for the message, such as `an earlier export`.
        error: The class of the error to raise.
        record: The name of the record, by default `export.json`.
        ignored: Names that may be there and are kept.

    Raises:
        AlexnetError: of the class `error`: `folder` is a file, or holds another file or folder.
    """
    if not folder.exists():
        return
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir() if path.name not in ignored)
        foreign = [name for name in names if not is_ours(name)]
        if not foreign and (not names or record in names):
            return
        got = f"a folder that holds {foreign[0]}" if foreign else f"a folder without {record}"
    else:
        got = "a file"
    raise error(
        str(folder),
        got=got,
        expected=f"{what}, an empty folder, or none",
        next_step="Choose another folder; nothing was changed.",
    )
