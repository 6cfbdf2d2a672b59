from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_model.errors import ExportError
from alexnet_model.folders import is_junk, refuse_foreign_files

OURS = {"export.json", "model.onnx"}


def refuse(folder: Path) -> None:
    refuse_foreign_files(
        folder,
        OURS.__contains__,
        what="an export",
        error=ExportError,
        record="export.json",
        ignored=("README.md",),
    )


@pytest.mark.parametrize(
    "names",
    [
        *((), ("README.md",), ("export.json",), ("export.json", "model.onnx")),
        *(
            (".DS_Store", "lost+found", ".Trash-1000", ".gitkeep"),
            ("export.json", "._export.json", "@eaDir", ".git"),
        ),
    ],
)
def test_our_own_files_and_ignored_ones_pass(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    refuse(tmp_path)
    refuse(tmp_path / "missing")


@pytest.mark.parametrize(
    ("names", "got"),
    [
        (("export.json", "notes.txt"), r"a folder that holds notes\.txt"),
        (("model.onnx",), r"a folder without export\.json"),
        ((".DS_Store", ".ssh"), r"a folder that holds \.ssh"),
    ],
)
def test_other_files_and_a_missing_record_are_named(names: tuple[str, ...], got: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ExportError, match=f"got {got}, expected an export, an empty folder, or none"):
        refuse(tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="got a file"):
        refuse(tmp_path / "file")


@pytest.mark.parametrize(
    "name",
    [
        *(".DS_Store", "._rose.jpg", ".ipynb_checkpoints", ".hidden", "__MACOSX", "@eaDir", "lost+found"),
        *("Thumbs.db", "thumbs.DB", "Desktop.ini", "$RECYCLE.BIN", "System Volume Information", "#recycle"),
    ],
)
def test_files_and_folders_that_systems_write_are_junk(name: str) -> None:
    assert is_junk(name)


@pytest.mark.parametrize(
    "name", ["rose.jpg", "_rose", "__pycache__", "thumbs", "lost", "@home", "a.DS_Store"]
)
def test_names_of_users_are_not_junk(name: str) -> None:
    assert not is_junk(name)
