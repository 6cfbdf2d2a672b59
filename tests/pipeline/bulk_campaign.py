"""Faults of bulk classification at random moments, 20 times each: `make campaign`.

The test suite has a short form of each. Pytest does not collect this file by itself.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

from alexnet_pipeline import ExportResult

from .bulk_runs import contents, images_in, interrupt, kill_until_complete, linked_images

TIMES = 20


def test_a_run_that_is_killed_completes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = images_in(tmp_path / "images")
    kill_until_complete(tmp_path / "out", names, kills=TIMES)


def test_ctrl_c_ends_at_any_moment(result: ExportResult, tmp_path: Path) -> None:
    moments = random.Random(0)
    (tmp_path / "images").mkdir()
    linked_images(tmp_path / "images", 20_000)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "alexnet_cli", "classify", str(tmp_path / "images"), "--out", str(out)]
    command += ["--in-process", "--export", str(result.folder), "--shards", "2000"]
    kept: dict[str, tuple[int, bytes]] = {}
    for number in range(TIMES):
        if number % 2 == 0:  # from the start, when processes are started
            shutil.rmtree(out, ignore_errors=True)
            kept = {}
        code, errors = interrupt(command, out, moments.uniform(0, 2))
        assert code == 130, errors
        assert "Traceback" not in errors
        files = contents(out)
        assert kept.items() <= files.items()
        assert all(name.endswith((".parquet", ".json")) for name in files)
        kept = files
