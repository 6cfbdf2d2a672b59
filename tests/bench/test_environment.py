"""Where figures come from, as far as this machine says it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from alexnet_bench.environment import commit_of, cpu_facts, environment_here

CPUINFO = """processor\t: 0
model name\t: AMD EPYC
cpu MHz\t\t: 2599.998
flags\t\t: fpu avx2 avx512f sse2 avx512_vnni

processor\t: 1
cpu MHz\t\t: 3100.000
"""


def test_clock_and_vector_instructions_of_a_cpu_are_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(CPUINFO)
    assert cpu_facts(cpuinfo) == {"CPU clock": "2600 MHz", "CPU vectors": "avx2, avx512f, avx512_vnni"}
    assert cpu_facts(tmp_path / "not there") == {}


def test_the_environment_of_this_machine() -> None:
    found = environment_here()
    assert found.machine.endswith(("core", "cores"))
    assert found.memory_gb > 0
    assert {"python", "numpy"} <= set(found.versions)


def test_a_commit_is_marked_if_files_differ_from_it(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    assert commit_of(tmp_path) == ""
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    clean = commit_of(tmp_path)
    assert len(clean) == 12
    (tmp_path / "file").write_text("two")
    assert commit_of(tmp_path) == f"{clean}+changes"
