"""How a folder is replaced: on every kind of file system, with processes killed at every step."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from alexnet_model import files
from alexnet_model.files import (
    atomic_directory,
    atomic_file,
    check_writable,
    folder_beside,
    restore_interrupted,
)

RECORD = "export.json"
OLD = {RECORD: "old", "both/file": "old", "old/file": "old"}
NEW = {RECORD: "new", "both/file": "new", "new/file": "new"}
HOW = ["exchange", "two renames", "mount point", "mount point found late", "layer of an image"]


@pytest.fixture(autouse=True)
def do_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_fsync", lambda _: None)


class FailingRename:
    """Renames as the operating system does, except for one call."""

    def __init__(self, failing_call: int, fault: type[BaseException]) -> None:
        self.failing_call, self.fault, self.calls = failing_call, fault, 0
        self._rename = Path.rename

    def __call__(self, source: Path, target: Path) -> Path:
        self.calls += 1
        if self.calls == self.failing_call + 1:
            raise self.fault(errno.ENOSPC, "no space")
        return self._rename(source, target)


class Killed(BaseException):
    """Stands for SIGKILL: nothing is cleaned up."""


def write(folder: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replace(path: Path) -> None:
    with atomic_directory(path, record=RECORD) as staged:
        write(staged, NEW)


def fail(number: int) -> Callable[..., Any]:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


def use_file_system(monkeypatch: pytest.MonkeyPatch, how: str, path: Path) -> None:
    """Let the operating system behave as one on which a folder is replaced in this way."""
    rename = Path.rename
    if how != "exchange":
        monkeypatch.setattr(files, "_exchange", fail(errno.EINVAL))
    if how == "mount point":
        monkeypatch.setattr(Path, "is_mount", lambda self: self == path)
    elif how == "mount point found late":

        def renamed_in_mount(self: Path, target: Path) -> Path:
            if path in (self, target):
                fail(errno.EBUSY)()
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", renamed_in_mount)
    elif how == "layer of an image":
        lower = [path, *(entry for entry in path.iterdir() if entry.is_dir())]

        def renamed_in_layer(self: Path, target: Path) -> Path:
            if self in lower:
                fail(errno.EXDEV)()
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", renamed_in_layer)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[list[str]]:
    """Kill the process before a step: a rename, or the removal of what is no longer needed."""
    steps: list[str] = []
    with monkeypatch.context() as patch:

        def stepping(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any, **options: Any) -> Any:
                steps.append(name)
                if len(steps) > step:
                    raise Killed
                return function(*arguments, **options)

            return counted

        patch.setattr(Path, "rename", stepping("rename", Path.rename))
        patch.setattr(files, "_exchange", stepping("exchange", files._exchange))
        patch.setattr(shutil, "rmtree", stepping("remove", shutil.rmtree))
        try:
            yield steps
        except Killed:
            steps.append("killed")


@pytest.mark.parametrize("how", HOW)
def test_a_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = tmp_path / "folder"
    write(path, OLD)
    use_file_system(monkeypatch, how, path)
    replace(path)
    assert tree(tmp_path) == {f"folder/{name}": text for name, text in NEW.items()}


@pytest.mark.parametrize("how", HOW)
def test_a_killed_process_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Before the next process restores it, a reader finds all of it, or no record."""
    seen: list[dict[str, str]] = []
    for step in range(100):
        path = tmp_path / str(step) / "folder"
        write(path, OLD)
        with monkeypatch.context() as patch:
            use_file_system(patch, how, path)
            with killed_at(patch, step) as steps:
                replace(path)
            left = {name: text for name, text in tree(path).items() if not name.startswith(".alexnet-")}
            assert RECORD not in left or left in (OLD, NEW)
            assert how != "exchange" or left in (OLD, NEW)
            restore_interrupted(path)
        seen.append({name: text for name, text in tree(path).items() if not name.startswith(".alexnet-")})
        assert seen[-1] in (OLD, NEW), steps
        assert [entry.name for entry in path.parent.iterdir() if entry.name.endswith(".part")] == []
        if steps[-1] != "killed":
            break
    assert len(seen) > 2
    assert seen == sorted(seen, key=lambda contents: contents == NEW)  # first the old one, then the new one


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_an_error_at_any_rename_keeps_the_old_folder_or_completes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, fault: type[BaseException]
) -> None:
    for step in range(100):
        path = tmp_path / str(step) / "folder"
        write(path, OLD)
        with monkeypatch.context() as patch:
            use_file_system(patch, how, path)
            failing = FailingRename(step, fault)
            patch.setattr(Path, "rename", lambda self, target, failing=failing: failing(self, target))
            with suppress(fault):
                replace(path)
            assert tree(path) == (OLD if failing.calls > step else NEW)
            assert [entry.name for entry in path.parent.iterdir()] == ["folder"]
        if failing.calls <= step:
            break
    assert step >= 1 or how == "exchange"  # which renames nothing


def test_an_old_folder_that_cannot_be_put_back_stays_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    write(path, OLD)
    rename, renames = Path.rename, 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames > 1:  # the first renames the old folder
            fail(errno.EIO)()
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_exchange", fail(errno.ENOSYS))
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output error"):
            replace(path)
    assert not path.exists()
    restore_interrupted(path)
    assert tree(path) == OLD


def test_what_a_killed_process_left_is_removed_by_the_next_one_in_the_same_place(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom alexnet_model import files\n"
        f"with files.atomic_directory(Path({str(tmp_path)!r}) / 'killed', record='x') as staged:\n"
        "    (staged / 'big').write_text('big')\n    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    assert (left / "new" / "big").is_file()
    replace(tmp_path / "another")
    assert [entry.name for entry in tmp_path.iterdir()] == ["another"]


def test_what_a_running_process_writes_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_directory(path, record=RECORD) as staged:
        write(staged, NEW)
        with atomic_file(tmp_path / "file") as part:
            part.write_text("file")
        check_writable(path)
        assert tree(staged) == NEW
    assert tree(tmp_path) == {"file": "file"} | {f"folder/{name}": text for name, text in NEW.items()}


def test_folders_that_only_look_like_parts_are_not_removed(tmp_path: Path) -> None:
    names = [".alexnet-abc.part", ".alexnet.part", ".folder.abcdefgh.part"]
    for name in names:
        write(tmp_path / name, {"file": "text"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".alexnet-abcdefgh.part").symlink_to("elsewhere")
    replace(tmp_path / "folder")
    assert {*names, "elsewhere", ".alexnet-abcdefgh.part", "folder"} == {p.name for p in tmp_path.iterdir()}


def test_hidden_files_and_folders_stay(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    hidden = {".git/HEAD": "ref", ".env": "secret"}
    write(path, OLD | hidden)
    replace(path)
    assert tree(path) == NEW | hidden


def test_the_folder_of_a_volume_that_its_system_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OLD | {"lost+found/file": "#1"})
    use_file_system(monkeypatch, "mount point", tmp_path)
    replace(tmp_path)
    assert tree(tmp_path) == NEW | {"lost+found/file": "#1"}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("how", HOW)
def test_permissions_follow_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, how: str
) -> None:
    path = tmp_path / "folder"
    write(path, OLD)
    use_file_system(monkeypatch, how, path)
    before = os.umask(umask)
    try:
        replace(path)
        with atomic_file(tmp_path / "file") as part:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600))  # as safetensors does
        with folder_beside(path) as beside:
            (beside / "sub").mkdir()
    finally:
        os.umask(before)
    written = [tmp_path / "file", *path.rglob("*"), *([path] if how in HOW[:2] else [])]
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in written}
    wanted = {entry.name: (0o777 if entry.is_dir() else 0o666) & ~umask for entry in written}
    assert modes == wanted


def test_a_folder_without_space_is_an_error_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"MB are free, and at least 1,000,000,000 MB are needed.*/a/b'"):
        check_writable(tmp_path / "a" / "b", needed_bytes=10**15)
    with pytest.raises(OSError, match=r"Permission denied|Read-only|No such file|not permitted"):
        check_writable(Path("/proc/folder"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory: '.*/file/below'"):
        check_writable(tmp_path / "file" / "below")
    check_writable(tmp_path / "a" / "b", needed_bytes=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


ON_MOUNTS = """
import os, subprocess, sys
from pathlib import Path
from alexnet_model.files import atomic_directory
top = Path(sys.argv[1])
def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True)
for name in ("tmpfs", "source", "bind", "layers"):
    (top / name).mkdir()
mount("-t", "tmpfs", "none", top / "tmpfs")
mount("--bind", top / "source", top / "bind")
mount("-t", "tmpfs", "none", top / "layers")
for name in ("lower/repository/model", "upper", "work", "merged"):
    (top / "layers" / name).mkdir(parents=True)
(top / "layers/lower/repository/model/old").write_text("old")
layers = "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work".format(top / "layers")
mount("-t", "overlay", "none", "-o", layers, top / "layers" / "merged")
for path in (top / "tmpfs", top / "bind", top / "layers/merged/repository"):
    for text in ("first", "second"):
        with atomic_directory(path, record="export.json") as staged:
            (staged / "model").mkdir()
            (staged / "model" / text).write_text(text)
            (staged / "export.json").write_text(text)
    found = sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))
    assert found == ["export.json", "model", "model/second"], (path, found)
"""


def test_volumes_and_layers_of_the_kernel(tmp_path: Path) -> None:
    """The same with real mounts, which are gone with the process."""
    words = ["unshare", "--mount", sys.executable, "-c", ON_MOUNTS, str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*words[:2], "true"], check=False).returncode:
        pytest.skip("mounts need privileges that this process does not have")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "mount: " in done.stderr and "permi" in done.stderr:
        pytest.skip("mounts need privileges that this process does not have")
    assert done.returncode == 0, done.stderr
