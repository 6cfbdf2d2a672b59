from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_model import files
from alexnet_model.files import (
    atomic_directory,
    atomic_file,
    link_or_copy,
    sha256_of_file,
    write_text_atomically,
)

RECORD = "export.json"


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


FAULTS = [ValueError("broken"), KeyboardInterrupt(), SystemExit(1), OSError(errno.ENOSPC, "no space")]


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "file"
    with atomic_file(path) as part:
        part.write_text("first")
        assert not path.exists()
    with atomic_file(path) as part:
        part.write_text("second")
        assert path.read_text() == "first"
    assert tree(tmp_path) == {"deeper/file": "second"}


def test_a_folder_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "folder"
    for generation in ("first", "second"):
        with atomic_directory(path, record=RECORD) as staged:
            (staged / "sub").mkdir()
            (staged / "sub" / generation).write_text(generation)
            assert path.exists() == (generation == "second")
    assert tree(tmp_path) == {"deeper/folder/sub/second": "second"}
    assert [entry.name for entry in path.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_while_writing_a_file_keeps_the_old_one(
    tmp_path: Path, fault: BaseException, old: str | None
) -> None:
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    before = tree(tmp_path)

    def write_half() -> None:
        with atomic_file(path) as part:
            part.write_text("half")
            raise fault

    with pytest.raises(type(fault)):
        write_half()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_while_filling_a_folder_keeps_the_old_one(
    tmp_path: Path, fault: BaseException, old: str | None
) -> None:
    path = tmp_path / "folder"
    if old:
        path.mkdir()
        (path / "file").write_text(old)
    before = tree(tmp_path)

    def fill_half() -> None:
        with atomic_directory(path, record=RECORD) as staged:
            (staged / "file").write_text("half")
            raise fault

    with pytest.raises(type(fault)):
        fill_half()
    assert tree(tmp_path) == before
    assert path.exists() == bool(old)
    assert len(list(tmp_path.iterdir())) == bool(old)


@pytest.mark.parametrize("step", ["_fsync", "replace"])
def test_a_full_disk_at_the_end_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "target"
    path.write_text("old")
    monkeypatch.setattr(files if step == "_fsync" else Path, step, full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*/target'"), atomic_file(path) as part:
        part.write_text("new")
    assert tree(tmp_path) == {"target": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "file", "Ω\n")
    assert (tmp_path / "file").read_bytes() == b"\xce\xa9\n"


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="file"), atomic_file(tmp_path / "file" / "below"):
        pass
    assert tree(tmp_path) == {"file": "old"}


def test_a_link_has_the_same_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a"
    assert (tmp_path / "b").samefile(tmp_path / "a")


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    """A folder that is copied or mounted elsewhere must not have links to files outside of it."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    link_or_copy(tmp_path / "link", tmp_path / "b")
    assert not (tmp_path / "b").is_symlink()
    assert (tmp_path / "b").samefile(tmp_path / "a")


def test_a_link_across_file_systems_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_device(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", other_device)
    (tmp_path / "a").write_text("a")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "file").startswith("ba7816bf8f01cfea")


def test_the_target_of_a_linked_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with atomic_directory(tmp_path / "link", record=RECORD) as staged:
        (staged / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "new").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text_atomically(pipe, "text")
        assert os.read(reading, 10) == b"text"
    finally:
        os.close(reading)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_the_error_of_a_full_disk_names_the_file() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_text_atomically(Path("/dev/full"), "text")


def test_redirected_standard_output_is_not_replaced(tmp_path: Path) -> None:
    """A shell's `> file` makes /dev/stdout a link to a regular file."""
    script = "from pathlib import Path\nfrom alexnet_model.files import write_text_atomically\n"
    script += "write_text_atomically(Path('/proc/self/fd/1'), 'text')"
    with (tmp_path / "out.txt").open("w") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "out.txt").read_text() == "text"


def test_an_error_names_the_target_and_not_the_temporary_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="folder") as caught:
        write_text_atomically(folder, "text")  # a folder is not replaced by a file
    assert caught.value.filename == str(folder)
