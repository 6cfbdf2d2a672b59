"""Ctrl-C at any moment: it is never lost, and leaves neither temporary folders nor another error."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from alexnet_model import files
from alexnet_model.files import atomic_file, folder_beside, restore_interrupted, temporary_folder
from alexnet_model.interrupts import SIGNALS, deferred_interrupts

# The code that creates and removes temporary folders.
TRACED = ("/files.py", "/interrupts.py", "/shutil.py", "/contextlib.py")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.signal(number, signal.default_int_handler) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        assert signal.getsignal(number) is signal.default_int_handler, "as it was before the block"
        signal.signal(number, handler)


def interrupted_at(line: int, work: Callable[[], None]) -> bool:
    """Press Ctrl-C before the N-th line that runs of the traced code; return whether it has as many."""
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.endswith(TRACED):
            return None
        lines += event == "line"
        if event == "line" and lines == line:
            signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    assert lines < line, "Ctrl-C was lost"
    return False


def test_ctrl_c_before_any_line_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    monkeypatch.setattr(files, "_fsync", lambda path: None)  # slow, hundreds of times

    def write() -> None:
        with atomic_file(path) as part:
            part.write_text("new")

    line = 0
    path.write_text("old")
    while interrupted_at(line := line + 1, write):
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"], line
        assert path.read_text() in ("old", "new")
    assert line > 100


def test_ctrl_c_before_any_line_that_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    line = 0
    left = tmp_path / ".alexnet-abcdefgh.part"

    def sweep() -> None:
        restore_interrupted(tmp_path / "file")

    (left / "new").mkdir(parents=True)
    while interrupted_at(line := line + 1, sweep):
        (left / "new").mkdir(parents=True, exist_ok=True)
    assert line > 50
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("open_folder", [lambda path: folder_beside(path / "file"), temporary_folder])
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_during_the_removal_of_a_temporary_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_folder: Callable[[Any], AbstractContextManager[Path]],
    presses: int,
) -> None:
    remove = shutil.rmtree

    def interrupted(*arguments: Any, **options: Any) -> None:
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
        remove(*arguments, **options)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "rmtree", interrupted)
    prefix: Any = tmp_path if open_folder is not temporary_folder else "alexnet-"
    with pytest.raises(KeyboardInterrupt), open_folder(prefix) as folder:
        (folder / "file").write_text("content")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_the_folder_is_used_ends_it_at_once(tmp_path: Path) -> None:
    def use() -> None:
        with folder_beside(tmp_path / "file") as folder:
            signal.raise_signal(signal.SIGINT)
            pytest.fail(f"{folder} is still used")

    with pytest.raises(KeyboardInterrupt):
        use()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_several_signals_is_delivered_at_the_end() -> None:
    came: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: came.append(number))
    with deferred_interrupts() as interrupts:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.raise_signal(number)
        assert interrupts.came
        assert came == []
    assert came == [signal.SIGTERM]
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)


def test_a_part_that_another_process_takes_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, 0

    def taken(*arguments: Any, **options: Any) -> str:
        nonlocal made
        made += 1
        folder: str = make(*arguments, **options)
        if made == 1:
            files._sweep(tmp_path)  # as another process does that starts to write here
            assert not os.path.exists(folder)  # noqa: PTH110
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with atomic_file(tmp_path / "file") as part:
        part.write_text("content")
    assert made == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
