"""A fake `docker` command, first on PATH: it records its calls and simulates a working or failing engine."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE

from . import docker_program
from .programs import hide, install

TENSORRT = "11.1.0.106"  # what the images declare
Failure = tuple[str, int]  # what it prints to standard error, and exits with

# Docker's own messages, with other names and numbers. `docker run` adds a line of help to each.
HELP = "\n\nRun 'docker run --help' for more information"
NO_ENGINE: Failure = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
    1,
)
NO_PERMISSION: Failure = (
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: "
    'Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.48/version": dial unix /var/run/docker.sock: connect: '
    "permission denied",
    1,
)
NO_GPU_RUNTIME: Failure = (
    'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]' + HELP,
    125,
)
NO_GPU_VENDOR: Failure = (
    "docker: Error response from daemon: failed to discover GPU vendor from CDI: no known GPU vendor found"
    + HELP,
    125,
)
STARTING = (
    "\n=============================\n== Triton Inference Server ==\n=============================\n",
    "+----------+---------+--------+",
    "| Model    | Version | Status |",
    'I1123 12:00:00.000000 1 grpc_server.cc:2560] "Started GRPCInferenceService at 0.0.0.0:8001"',
    'I1123 12:00:00.000000 1 http_server.cc:4727] "Started HTTPService at 0.0.0.0:8000"',
    'I1123 12:00:00.000000 1 http_server.cc:358] "Started Metrics Service at 0.0.0.0:8002"',
)


def port_is_allocated(port: int) -> Failure:
    said = (
        "docker: Error response from daemon: failed to set up container networking: driver failed "
        f"programming external connectivity on endpoint alexnet ({'3' * 64}): Bind for 127.0.0.1:{port} "
        "failed: port is already allocated"
    )
    return said + HELP, 125


def image_is_missing(image: str) -> Failure:
    return f"docker: Error response from daemon: No such image: {image}{HELP}", 125


@dataclass(frozen=True)
class FakeDocker:
    folder: Path

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every call, oldest first."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def runs(self) -> list[list[str]]:
        return [call for call in self.calls if call[0] == "run"]

    @property
    def removed(self) -> list[str]:
        """The containers that `docker rm --force` removed."""
        return [call[2] for call in self.calls if call[:2] == ["rm", "--force"]]

    @property
    def containers(self) -> dict[str, int]:
        """The running containers by name, each with the ID of the process that simulates it."""
        found = {}
        for path in (self.folder / "containers").iterdir():
            with suppress(FileNotFoundError, ValueError):  # just removed, or not written yet
                found[path.name] = int(path.read_text())
        return found


def fake_docker(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    engine: str = "29.1.3",
    images: Sequence[str] = (TRITON_IMAGE, CPU_IMAGE),
    tensorrt: str = TENSORRT,
    release: str = "",
    fails: Failure | None = None,
    run_fails: Failure | None = None,
    says: Sequence[str] = STARTING,
    exits: int | None = None,
    ready: bool = True,
    deaf: bool = False,
) -> FakeDocker:
    """Install the command; a second call replaces the first engine.

    Args:
        engine: the engine's version.
        images: the images that it has.
        tensorrt: the TensorRT version that its images declare.
        release: the Triton release that its images declare.
        fails: how every command fails.
        run_fails: how `docker run` fails.
        says: what a container prints at its start.
        exits: the exit code with which a container ends at once. None: it runs until SIGTERM.
        ready: what a running container replies to a request for readiness on its published HTTP port.
        deaf: a running container ignores SIGTERM.
    """
    folder = tmp_path / "docker"
    (folder / "containers").mkdir(parents=True, exist_ok=True)
    (folder / "calls.jsonl").unlink(missing_ok=True)
    script = {
        "engine": engine,
        "images": list(images),
        "tensorrt": tensorrt,
        "release": release,
        "fails": fails,
        "run_fails": run_fails,
        "says": list(says),
        "exits": exits,
        "ready": ready,
        "deaf": deaf,
    }
    (folder / "script.json").write_text(json.dumps(script))
    command = shlex.join([sys.executable, "-IS", docker_program.__file__, str(folder)])
    install(monkeypatch, tmp_path, "docker", f'exec {command} "$@"')
    return FakeDocker(folder)


def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove Docker from PATH, on a machine that has it too."""
    hide(monkeypatch, tmp_path, "docker")


def lives(process: int) -> bool:
    """Whether the process that simulates a container still runs; a zombie does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")
