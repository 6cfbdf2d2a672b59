"""What is left to do when a server is gone, however it went: processes, shared memory, files, a container.

Run as a script it is the watcher that does this for a parent that was killed: it waits for the end of its
standard input, which the parent holds open and no one else. Standard library only, so that it starts in
milliseconds: `python -I -S cleanup_watchdog.py PROCESS_GROUP SHM_PREFIX FOLDER CONTAINER`. An argument is
empty where the server has no such resource.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where POSIX shared memory lies, no temporary file of ours)
DEADLINE_S = 1.0
REMOVING_S = 30.0  # for a container, which the engine first has to kill
ALL_IS_WELL = b"."


def clean_up(process_group: int, *, shm_prefix: str = "", folder: str = "", container: str = "") -> None:
    """Kill what is left of the process group, then remove its shared memory, folder and container."""
    deadline = time.monotonic() + DEADLINE_S
    while _killed(process_group) and time.monotonic() < deadline:
        time.sleep(0.01)
    if shm_prefix:  # an empty one would be everybody's
        for region in SHARED_MEMORY.glob(f"{shm_prefix}*"):
            region.unlink(missing_ok=True)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    if container:
        remove_container(container)


def remove_container(name: str) -> None:
    """Kill and remove a container, if the engine still has it: killing its client does not end it."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["docker", "rm", "--force", name],  # noqa: S607 (found on PATH, as it was started)
            check=False,
            timeout=REMOVING_S,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _killed(process_group: int) -> bool:
    """Whether there was anything to kill; the killed count until someone, in the end `init`, reaps them."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_group, signal.SIGKILL)
        return True
    return False


def main(process_group: str, shm_prefix: str, folder: str, container: str) -> None:
    # Ctrl-C in the terminal is for the parent, which may take its time to stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read(1) != ALL_IS_WELL:
        clean_up(int(process_group), shm_prefix=shm_prefix, folder=folder, container=container)


if __name__ == "__main__":
    main(*sys.argv[1:])
