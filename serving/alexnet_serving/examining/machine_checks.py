"""What the machine itself has: C library, Python's shared library, shared memory, ports, room on the disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

from alexnet_model.errors import AlexnetError, MissingExtra, os_error_reason
from alexnet_model.gpus import version_tuple
from alexnet_model.manifest import PRECISIONS

from ..servers.ports import ports_from_wishes
from ..servers.tritonserver import SHM_BYTES, libpython_of_this_python, wheel_of_this_python
from .checks import EXPORTS, SERVE_EMBEDDED, SERVE_IN_DOCKER, Check, Status

SHM = Path("/dev/shm")  # noqa: S108 (where shared memory is, not a temporary file)
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}  # where `serve` listens unless it is told otherwise
ANY_PORTS = "alexnet serve --http-port 0 --grpc-port 0 --metrics-port 0"
# Three ONNX files of AlexNet and their engines; a new export is written whole beside the old one.
ROOM_BYTES = 2_000_000_000
GLIBC_OF_THE_WHEEL = (2, 35)  # nvidia-pytriton 0.7.0, manylinux_2_35_x86_64


def check_glibc() -> Check:
    """The embedded server is a program for one kind of processor, linked to one C library or a newer one."""
    library, version = platform.libc_ver()
    needed = _glibc_of_the_wheel()
    fitting = library == "glibc" and version_tuple(version) >= needed and platform.machine() == "x86_64"
    found = f"{library or 'no glibc'} {version}".strip() + f" on {platform.machine()}"
    return Check(
        name="glibc",
        status="ok" if fitting else "missing",
        found=found if fitting else f"{found}, needs {'.'.join(map(str, needed))} on x86_64",
        needed_by=(SERVE_EMBEDDED,),
        mend=""
        if fitting
        else "alexnet serve --with docker  # or Ubuntu 22.04, Debian 12 or later on x86-64",
    )


def check_libpython() -> Check:
    """The server starts this Python inside a process of its own, from its shared library."""
    library = libpython_of_this_python()
    here = library.exists()
    return Check(
        name="libpython",
        status="ok" if here else "missing",
        found=str(library) if here else f"no {library}",
        needed_by=(SERVE_EMBEDDED,),
        mend="" if here else _mend_of_libpython(library),
    )


def check_embedded_triton() -> Check:
    """The server's program, and the stub that joins it to this version of Python."""
    status: Status = "ok"
    found, mend = f"its server, with a stub for Python {sys.version_info.major}.{sys.version_info.minor}", ""
    try:
        wheel_of_this_python()
    except MissingExtra:
        status, found = "warning", "not asked: [embedded] is not installed"
    except AlexnetError as error:
        if error.subject == str(libpython_of_this_python()):
            status, found = "warning", "not asked: libpython is missing"
        else:
            status, found = "missing", f"no {error.subject}"
            mend = "pip install --force-reinstall 'alexnet-serving[embedded]'"
    return Check(
        name="Triton for this Python", status=status, found=found, needed_by=(SERVE_EMBEDDED,), mend=mend
    )


def check_shared_memory() -> Check:
    """The embedded server hands images to its models through it.

    A model takes SHM_BYTES to start and as much again once requests are large; with less, the server does not
    start, or refuses large batches with `Failed to increase the shared memory pool size`.
    """
    to_start, to_serve = len(PRECISIONS) * SHM_BYTES, 2 * len(PRECISIONS) * SHM_BYTES
    try:
        free = shutil.disk_usage(SHM).free
    except OSError:
        free = 0
    enough = free >= to_serve
    return Check(
        name=str(SHM),
        status="ok" if enough else "warning" if free >= to_start else "missing",
        found=f"{_in_words(free)} free" + ("" if enough else f", needs {_in_words(to_serve)}"),
        needed_by=(SERVE_EMBEDDED,),
        mend=""
        if enough
        else "sudo mount -o remount,size=1g /dev/shm  # in a container: run it with --shm-size=1g",
    )


def check_ports() -> Check:
    """A taken port is a warning: perhaps a server of ours is on it, and any other port serves as well."""
    taken: list[str] = []
    for name, port in PORTS.items():
        try:
            ports_from_wishes({name: "127.0.0.1"}, {name: port})
        except AlexnetError:
            taken.append(f"{port} ({name})")
    return Check(
        name=f"ports {min(PORTS.values())}-{max(PORTS.values())}",
        status="warning" if taken else "ok",
        found=f"taken: {', '.join(taken)}" if taken else "free",
        needed_by=(SERVE_EMBEDDED, SERVE_IN_DOCKER),
        mend=ANY_PORTS if taken else "",
    )


def check_room(option: str, folder: Path) -> Check:
    """Whether what an option names can be written, and the disk under it has room for an export."""
    free, space = 0, ""
    try:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            problem = f"{existing} is a file"
        elif not os.access(existing, os.W_OK | os.X_OK):
            problem = f"{existing} may not be written"
        else:
            free = shutil.disk_usage(existing).free
            problem = f"{_in_words(free)} free, needs {_in_words(ROOM_BYTES)}" if free < ROOM_BYTES else ""
            space = "Free some space, or name another folder: "
    except OSError as error:
        problem = f"{folder}: {os_error_reason(error)}"
    return Check(
        name=f"room for {option}",
        status="missing" if problem else "ok",
        found=problem or f"{_in_words(free)} free for {folder}",
        needed_by=EXPORTS,
        mend=f"{space or 'Name another folder: '}{option} DIR" if problem else "",
    )


def _glibc_of_the_wheel() -> tuple[int, ...]:
    try:
        tags = metadata.distribution("nvidia-pytriton").read_text("WHEEL") or ""
    except metadata.PackageNotFoundError:
        tags = ""
    found = re.search(r"manylinux_(\d+)_(\d+)", tags)
    return (int(found[1]), int(found[2])) if found else GLIBC_OF_THE_WHEEL


def _mend_of_libpython(library: Path) -> str:
    if ".pyenv" in library.parts:
        return f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {platform.python_version()}"
    if library.is_relative_to("/usr/lib"):
        return f"sudo apt-get install {library.name.partition('.so')[0]}"
    return "Use a Python that was built with --enable-shared, such as Debian's or Ubuntu's."


def _in_words(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.0f} MB"
