"""`setup.sh`, which makes .venv: which Python and PyTorch it chooses. The programs it calls are stubs."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SETUP = Path(__file__).parent.parent / "setup.sh"
HERE = {"PATH": f"{os.environ['PATH']}"}
# Makes .venv/bin/python, which writes down what it is called with.
STUB = """#!/bin/sh
case "$*" in
    -c*version_info*) exit {fits} ;;
    "-m venv .venv" | *"--seed .venv")
        echo "$(basename "$0") $*" >> calls
        mkdir -p .venv/bin
        printf '#!/bin/sh\\ncase "$1" in -c) shift; exec {python} -c "$@" ;; esac\\necho "$*" >> calls\\n' \\
            > .venv/bin/python
        chmod +x .venv/bin/python ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose path has a space, with the programs that a minimal machine has."""
    folder = tmp_path / "a clone"
    (folder / "bin").mkdir(parents=True)
    for program in ("sh", "timeout", "mkdir", "chmod", "basename", "cat"):
        (folder / "bin" / program).symlink_to(
            next(Path(path, program) for path in HERE["PATH"].split(":") if Path(path, program).exists())
        )
    return folder


def add(folder: Path, program: str, *, fits: bool = True) -> None:
    import sys

    path = folder / "bin" / program
    path.write_text(STUB.format(fits=int(not fits), python=sys.executable))
    path.chmod(0o755)


def run(folder: Path, index: str = "http://127.0.0.1:9", **variables: str) -> tuple[int, list[str], str]:
    """Return the exit code, what was called, and what was printed to standard error."""
    done = subprocess.run(
        ["sh", str(SETUP)],
        cwd=folder,
        env={"PATH": str(folder / "bin"), "TORCH_CPU_INDEX": index, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    calls = folder / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stderr


@pytest.fixture
def index() -> Iterator[str]:
    """A package index that answers."""
    handler = http.server.SimpleHTTPRequestHandler
    handler.log_message = lambda *_: None  # type: ignore[method-assign]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_first_python_that_fits_is_used(folder: Path) -> None:
    add(folder, "python3.11", fits=False)
    add(folder, "python3.12")
    code, calls, _ = run(folder)
    assert code == 0
    assert calls[0] == "python3.12 -m venv .venv"
    assert calls[-1] == "-m pip install --constraint constraints.txt --editable .[dev]"


def test_uv_makes_the_environment_where_no_python_fits(folder: Path) -> None:
    add(folder, "python3", fits=False)
    add(folder, "uv")
    code, calls, printed = run(folder)
    assert code == 0
    assert calls[0] == "uv venv --python 3.12 --seed .venv"
    assert "uv makes .venv with 3.12" in printed


@pytest.mark.parametrize("variables", [{}, {"PYTHON": "python3"}])
def test_without_python_and_uv_the_error_says_what_to_install(
    folder: Path, variables: dict[str, str]
) -> None:
    add(folder, "python3", fits=False)
    if variables:
        add(folder, "uv")  # a Python that was requested is not replaced
    code, calls, printed = run(folder, **variables)
    assert (code, calls) == (1, [])
    assert "Install python3.12 and python3.12-venv, or uv" in printed


def test_an_index_that_does_not_answer_is_no_failure(folder: Path) -> None:
    """A port that accepts connections and never replies takes the longest."""
    import socket
    import time

    add(folder, "python3.11")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        code, calls, printed = run(folder, f"http://127.0.0.1:{silent.getsockname()[1]}", TORCH="cpu")
        assert time.monotonic() - started < 30, "it waits 3 s; a busy machine takes longer"
    assert code == 0
    assert "does not answer" in printed
    assert not any("--extra-index-url" in call for call in calls)


@pytest.mark.parametrize("torch", ["auto", "cpu", "default"])
def test_an_index_that_answers_is_used_unless_the_default_is_requested(
    folder: Path, index: str, torch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    monkeypatch.chdir(tmp_path)  # what the index serves
    add(folder, "python3.11")
    code, calls, _ = run(folder, index, TORCH=torch)
    assert code == 0
    assert (f"--extra-index-url {index}" in calls[-1]) == (
        torch == "cpu" or (torch == "auto" and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))))
    )


def test_an_unknown_choice_is_refused(folder: Path) -> None:
    code, calls, printed = run(folder, TORCH="gpu")
    assert (code, calls) == (1, [])
    assert "TORCH: got 'gpu', expected auto, cpu or default" in printed
