"""Put fake programs first on PATH, or hide real ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, script: str) -> Path:
    """Put an executable of this name, with this shell script, first on PATH."""
    folder = tmp_path / f"{name}-on-path"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    if os.environ["PATH"].split(os.pathsep)[0] != str(folder):
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return path


def hide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Remove one program from PATH: its folder is replaced by a folder with links to all others."""
    folders = []
    for number, folder in enumerate(os.environ["PATH"].split(os.pathsep)):
        if (Path(folder) / name).exists():
            shadow = tmp_path / f"without-{name}-{number}"
            shadow.mkdir()
            for program in Path(folder).iterdir():
                if program.name != name:
                    (shadow / program.name).symlink_to(program)
            folder = str(shadow)
        folders.append(folder)
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
