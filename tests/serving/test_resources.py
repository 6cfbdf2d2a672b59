"""The command that measures what a pod should request."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "resources.py"


@pytest.mark.slow
def test_memory_and_cores_of_each_load_are_printed(repository: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(repository), "--seconds", "0.5", "--threads", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded, *loads, _, largest = done.stdout.splitlines()
    rows = [re.fullmatch(r"(.*?) +([\d,]+) MiB +([\d.]+) cores busy", line) for line in loads]
    assert [row and row[1] for row in rows] == [
        "alexnet, JPEG",
        *(f"alexnet_{precision}, batch {batch}" for precision in ("fp32", "int8") for batch in (1, 8)),
    ]
    memory = [int(row[2].replace(",", "")) for row in rows if row]
    assert min(memory) >= int(re.findall(r"([\d,]+) MiB", loaded)[0].replace(",", "")) > 50
    assert largest.startswith(f"largest: {max(memory):,} MiB")
    assert all(float(row[3]) > 0 for row in rows if row)
