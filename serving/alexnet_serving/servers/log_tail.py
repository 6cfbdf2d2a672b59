"""The last lines of a process's output, kept in memory: nothing on the terminal, no file that grows."""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import IO

KEPT_LINES = 400
# Triton says it in three ways: no version, a broken configuration, or a backend that refused.
FAILED_TO_LOAD = re.compile(
    r"(?:failed to load(?: model)?|Poll failed for model directory) '(?P<model>[^']+)'"
    r"(?: version \d+)?: (?P<reason>.*)"
)


class LogTail:
    """Reads a pipe to its end in a thread of its own, so that the writer never blocks."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, name="server log", daemon=True)
        self._thread.start()

    def last(self, count: int) -> str:
        """The last lines, one string, without Triton's tables of its own settings."""
        lines = [line for line in list(self._lines) if line and not line.startswith(("|", "+-"))]
        return "\n".join(lines[-count:])

    def failed_model(self) -> tuple[str, str] | None:
        """The first model that Triton could not load, and its reason."""
        lines = list(self._lines)
        for index, line in enumerate(lines):
            match = FAILED_TO_LOAD.search(line.replace("\\'", "'"))
            if match:
                reason = match["reason"].rstrip('" ') or " ".join(lines[index + 1 : index + 4])
                return match["model"], reason
        return None

    def finish(self, timeout_s: float) -> None:
        """Wait for the writers to have ended, and read what they left."""
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._pipe.close()

    def _read(self) -> None:
        for line in self._pipe:
            self._lines.append(line.decode(errors="replace").rstrip())
