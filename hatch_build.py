"""Record the commit in what is built, for `alexnet --version`: a distribution has no git history."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "commit.txt"  # at the root of an sdist, and in the package alexnet_model of a wheel


class CommitHook(BuildHookInterface):  # type: ignore[misc, type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the commit of the source tree, or that which the sdist has."""
        if version == "editable":
            return  # `--version` reads the commit from git
        source = Path(self.root) / FILE
        if not source.is_file():
            commit = self._commit()
            if not commit:
                return
            source = Path(self.directory) / FILE
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(f"{commit}\n", encoding="utf-8")
        target = f"alexnet_model/{FILE}" if self.target_name == "wheel" else FILE
        build_data["force_include"][str(source)] = target

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the file from the folder of the distributions."""
        (Path(self.directory) / FILE).unlink(missing_ok=True)

    def _commit(self) -> str:
        """Return the abbreviated commit, with a + after it if files differ from it; empty without git."""
        if not (Path(self.root) / ".git").exists():
            return ""
        command = ["git", "-C", self.root, "describe", "--always", "--exclude=*", "--dirty=+"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        return done.stdout.strip()
