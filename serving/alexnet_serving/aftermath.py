"""What remains to be done when a server is gone, however it went: processes, shared memory, files.

Run as a script it is the watcher that does this for a parent that was killed: it waits for the end of its
standard input, which the parent holds open and no one else. Standard library only, so that it starts in
milliseconds: `python -I -S aftermath.py PROCESS_GROUP SHM_PREFIX FOLDER`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where POSIX shared memory lies, no temporary file of ours)
DEADLINE_S = 1.0
ALL_IS_WELL = b"."


def clean_up(process_group: int, shm_prefix: str, folder: Path) -> None:
    """Kill what is left of the process group, then remove its shared memory and folder."""
    deadline = time.monotonic() + DEADLINE_S
    while _killed(process_group) and time.monotonic() < deadline:
        time.sleep(0.01)
    for region in SHARED_MEMORY.glob(f"{shm_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _killed(process_group: int) -> bool:
    """Whether there was anything to kill; the killed count until someone, in the end `init`, reaps them."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_group, signal.SIGKILL)
        return True
    return False


def main(process_group: str, shm_prefix: str, folder: str) -> None:
    # Ctrl-C in the terminal is for the parent, which may take its time to stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read(1) != ALL_IS_WELL:
        clean_up(int(process_group), shm_prefix, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
