"""The version of this project and the commit that it was built from."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

DISTRIBUTION = "alexnet-serving"
_PACKAGE = Path(__file__).parent


def version_with_commit() -> str:
    """Return the version, and the commit in parentheses if it is known: `0.2.0 (1a2b3c4)`.

    A distribution has a file with its commit (`hatch_build.py`). In a source tree git knows it; a `+` after
    it says that files differ from the commit.
    """
    commit = _recorded_commit() or _commit_of_source_tree()
    return f"{version(DISTRIBUTION)} ({commit})" if commit else version(DISTRIBUTION)


def _recorded_commit() -> str:
    try:
        return (_PACKAGE / "commit.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _commit_of_source_tree() -> str:
    root = _PACKAGE.parent.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
