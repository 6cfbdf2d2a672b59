"""The log of a run: one JSON object a line, for programs that draw curves or watch a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol


class Log(Protocol):
    """Writes an event of a run with its values."""

    def __call__(self, event: str, **values: Any) -> None: ...


@contextmanager
def log_to(path: Path | None) -> Iterator[Log]:
    """Append events to a file, each at once, so that another program can follow it.

    Each line is an object with `event`, `time` (UTC, ISO 8601) and the event's values.

    Args:
        path: the file; its folder is created. None: nothing is written.

    Raises:
        OSError: the file cannot be written.
    """
    if path is None:
        yield lambda event, **values: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:

        def write(event: str, **values: Any) -> None:
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            file.write(json.dumps({"event": event, "time": time, **values}, allow_nan=False) + "\n")
            file.flush()

        yield write
