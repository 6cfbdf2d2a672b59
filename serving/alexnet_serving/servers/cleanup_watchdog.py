"""Clean up after a server: kill its processes, remove its shared memory, folder and container.

Run as a script, this module is a watchdog for a parent process that may be killed. It reads its standard
input, and cleans up when the parent ends without having written `PARENT_CLEANED_UP`. Children that the parent
forked may hold that input open for longer, so it also watches the parent itself. It uses the standard library
only, so that it starts in milliseconds:

    python -I -S cleanup_watchdog.py PARENT PROCESS_GROUP SHM_PREFIX FOLDER CONTAINER

An argument is empty if the server has no such resource.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where POSIX shared memory is, not a temporary file)
TEMPORARY = Path("/tmp")  # noqa: S108 (where Triton's Python backend makes folders, whatever TMPDIR is)
SERVER_PROGRAM = "tritonserver"
KILL_DEADLINE_S = 1.0
REMOVE_DEADLINE_S = 30.0  # for a container, which the Docker engine kills first
PARENT_CLEANED_UP = b"."


def clean_up(process_group: int, *, shm_prefix: str = "", folder: str = "", container: str = "") -> None:
    """Kill what is left of a process group, then remove its shared memory, folders and container.

    Args:
        process_group: The id of the group, which is the id of the server's process.
        shm_prefix: The start of the names of its regions in /dev/shm; empty removes none.
        folder: The folder it was started from; empty removes none.
        container: The name of its container; empty removes none.
    """
    deadline = time.monotonic() + KILL_DEADLINE_S
    while _killed(process_group) and time.monotonic() < deadline:
        time.sleep(0.01)
    if shm_prefix:  # an empty prefix would match the regions of every process
        for region in SHARED_MEMORY.glob(f"{shm_prefix}*"):
            region.unlink(missing_ok=True)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    if container:
        remove_container(container)
    sweep_python_environments(TEMPORARY)


def sweep_python_environments(folder: Path) -> None:
    """Remove the empty `python_env_*` folders that killed servers of this user left behind.

    Triton makes them without the server's name. One may be of a running server only if that server started
    before the folder was made.

    Args:
        folder: The folder of temporary files.
    """
    environments = list(folder.glob("python_env_*"))
    oldest_start_s = min(_start_times_of_servers(), default=time.time())
    for environment in environments:
        with contextlib.suppress(OSError):  # not empty, or removed by another process
            status = environment.lstat()
            if status.st_uid == os.getuid() and status.st_mtime < oldest_start_s:
                environment.rmdir()


def _start_times_of_servers() -> Iterator[float]:
    """Yield when each running Triton server started, in seconds since 1970."""
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (process / "stat").read_text()
            if f"({SERVER_PROGRAM})" in stat:
                ticks = int(stat.rpartition(")")[2].split()[19])
                yield time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK")


def remove_container(name: str) -> None:
    """Kill and remove a container if it still exists: the end of the `docker run` client does not end it."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["docker", "rm", "--force", name],  # noqa: S607 (found on PATH, like the client that started it)
            check=False,
            timeout=REMOVE_DEADLINE_S,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _killed(process_group: int) -> bool:
    """Return whether there was a process to kill; killed ones count until their parent or init reaps them."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_group, signal.SIGKILL)
        return True
    return False


def _cleaned_up(parent: int) -> bool:
    """Wait until the parent has ended or written to standard input; return whether it has cleaned up."""
    watched: list[int] = [sys.stdin.fileno()]
    with contextlib.suppress(OSError):  # an old kernel, or the parent has just ended
        watched.append(os.pidfd_open(parent))
    if os.getppid() == parent:
        select.select(watched, [], [])
    readable, _, _ = select.select(watched[:1], [], [], 0)
    return bool(readable) and os.read(watched[0], 1) == PARENT_CLEANED_UP


def main(parent: str, process_group: str, shm_prefix: str, folder: str, container: str) -> None:
    # Ctrl-C in the terminal is meant for the parent, which may need time to stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not _cleaned_up(int(parent)):
        clean_up(int(process_group), shm_prefix=shm_prefix, folder=folder, container=container)


if __name__ == "__main__":
    main(*sys.argv[1:])
