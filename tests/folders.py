"""Read a folder's contents, to check that it did not change."""

from __future__ import annotations

from pathlib import Path


def contents_of(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
