"""Folders of users: what in them is ignored, and which of them a command may replace as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from .errors import AlexnetError

# In lower case. Names that start with a dot need no entry.
JUNK_NAMES = frozenset(
    {
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),  # Windows
        *("$recycle.bin", "recycler", "system volume information"),
        *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@__thumb", "@recently-snapshot"),  # QNAP
        "lost+found",  # ext4
    }
)

# Of the hidden names, those that an otherwise empty folder may have: from macOS, desktops, NFS, Jupyter, this
# project, and of files that keep a folder in git.
_HIDDEN_IN_EMPTY_FOLDERS = re.compile(
    r"\._.*|\.(ds_store|localized|spotlight-v100|fseventsd|directory|trash.*|nfs.*|ipynb_checkpoints)"
    r"|\.alexnet-.*|\.(git)?keep|\.gitignore",
    re.IGNORECASE,
)


def is_junk(name: str) -> bool:
    """Return whether a system wrote a file or folder for itself beside the user's files, or it is hidden.

    Folders of images and model repositories are read as if such files and folders did not exist.

    Args:
        name: The last part of a path.

    >>> is_junk("._rose.jpg"), is_junk("@eaDir"), is_junk("Thumbs.db"), is_junk("rose.jpg")
    (True, True, True, False)
    """
    return name.startswith(".") or name.lower() in JUNK_NAMES


def refuse_foreign_files(
    folder: Path,
    is_ours: Callable[[str], bool],
    *,
    what: str,
    error: type[AlexnetError],
    record: str,
    ignored: Collection[str] = (),
) -> None:
    """Refuse to replace a folder that holds anything that the caller did not write.

    An empty folder passes, and so does one that does not exist. A folder with files of ours must also hold
    their record. Junk is ignored; `atomic_directory` keeps what is hidden. But a folder in which only hidden
    files of the user are, such as a new home folder, is refused.

    Args:
        folder: The folder that is about to be replaced.
        is_ours: Whether a file or folder of that name is one that the caller writes.
        what: What such a folder is, for the message, such as `an earlier export`.
        error: The class of the error to raise.
        record: The name of the record, such as `export.json`.
        ignored: Names that may be there and are kept.

    Raises:
        AlexnetError: of the class `error`: `folder` is a file, or holds another file or folder.
    """
    if not folder.exists():
        return
    if folder.is_dir():
        found = sorted(path.name for path in folder.iterdir() if path.name not in ignored)
        names = [name for name in found if not is_junk(name)]
        foreign = [name for name in names if not is_ours(name)]
        if not names:
            foreign = [
                name
                for name in found
                if name.startswith(".") and not _HIDDEN_IN_EMPTY_FOLDERS.fullmatch(name)
            ]
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
