"""The `docker run` of a server: what the container is shown, what it may use, and what it may not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet_model import docker
from alexnet_model.errors import RepositoryError

MODELS = "/models"
PORTS_INSIDE = {"http": 8000, "grpc": 8001, "metrics": 8002}
TLS = Path("/tls")
# The user `triton-server` of NVIDIA's image, and its group.
USER_OF_IMAGE = (1000, 1000)
OWN_SHM = "--shm-size=1g"
RESOURCES = (
    OWN_SHM,  # Docker's 64 MiB is less than Python-based backends and NVIDIA's libraries ask for
    "--ulimit=memlock=-1",  # pinned memory, from which a GPU copies
    "--ulimit=stack=67108864",
)


def run_command(
    name: str,
    image: str,
    repository: Path,
    *,
    user: tuple[int, int],
    addresses: Mapping[str, str],
    ports: Mapping[str, int],
    gpus: bool,
    tls: Path | None,
    shared_memory: bool,
    options: Sequence[str],
) -> list[str]:
    """Attached: the client's life is the container's, and its output the server's log.

    `tls` is a folder to show as `TLS`. With `shared_memory` the container's is this machine's.

    Raises:
        DockerError: a path cannot be mounted.
    """
    resources = ["--ipc=host", *(r for r in RESOURCES if r != OWN_SHM)] if shared_memory else RESOURCES
    return [
        docker.PROGRAM,
        "run",
        "--rm",
        f"--name={name}",
        "--pull=never",  # gigabytes, without a word until the deadline passes: `docker pull` shows progress
        "--init",  # until the image's start script has become tritonserver, a first process ignores SIGTERM
        *docker.CONFINED,
        f"--user={user[0]}:{user[1]}",
        *resources,
        *(["--gpus=all"] if gpus else []),
        docker.mount(repository, MODELS),
        *([docker.mount(tls, str(TLS))] if tls is not None else []),
        *(f"--publish={addresses[what]}:{port}:{PORTS_INSIDE[what]}" for what, port in sorted(ports.items())),
        image,
        "tritonserver",
        *options,
    ]


def user_for(repository: Path) -> tuple[int, int]:
    """This process's own user, who has just read the repository; for root the image's, who may not be able.

    Nothing in the container needs root, and a root that escapes from it would be the machine's.

    Raises:
        RepositoryError: the image's user could not read it.
    """
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    for path in filter(Path.exists, (repository, *sorted(repository.rglob("*")))):
        needed = 0o005 if path.is_dir() else 0o004
        if path.stat().st_mode & needed != needed:
            raise RepositoryError(
                str(path),
                got=f"mode {path.stat().st_mode & 0o777:o}",
                expected="to be readable by others: the server does not run as root",
                next_step=f"Run: {shlex.join(['chmod', '-R', 'o+rX', str(repository)])}",
            )
    return USER_OF_IMAGE
