"""Checks of the distributions in dist/ before a release: `make release-check`.

Each is installed into a new environment together with its dependencies, which needs a package index.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from . import distributions

DIST = distributions.ROOT / "dist"


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_a_clean_installation_runs_its_commands(pattern: str, tmp_path: Path) -> None:
    (distribution,) = DIST.glob(pattern)
    commands = distributions.new_environment(tmp_path / "venv", distribution, with_packages_here=False)
    for words, code, expected in (
        (["--help"], 0, "Classify images:"),
        (["--version"], 0, "alexnet-serving "),
        (["doctor"], 1, "[export]"),  # the base installation is the client
        (["classify", "sample:digit_3", "--url", "grpc://127.0.0.1:1"], 1, "Error: grpc://127.0.0.1:1"),
        (["export", "checkpoint.safetensors"], 1, "[export]"),
    ):
        done = distributions.run(commands, *words, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert expected in done.stdout + done.stderr
