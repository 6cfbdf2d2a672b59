"""The logs of a run: JSON lines for programs that watch it, and curves for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from alexnet_model.extras import needs


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


@contextmanager
def curves_to(folder: Path | None) -> Iterator[Log]:
    """Write the curves of a run for TensorBoard: `step` and `epoch` events, by the step of the whole run.

    Args:
        folder: is created. None: nothing is written.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """
    if folder is None:
        yield lambda event, **values: None
        return
    with needs("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    with ExitStack() as stack:
        writer: SummaryWriter
        steps_per_epoch = 1

        def write(event: str, **values: Any) -> None:
            nonlocal writer, steps_per_epoch
            if event in ("start", "resume"):
                steps_per_epoch = values["steps_per_epoch"]
                finished = (values["epoch"] - 1) * steps_per_epoch + values["step"]
                # Curves of a stopped run may go beyond its saved state; TensorBoard leaves that part out.
                writer = stack.enter_context(SummaryWriter(str(folder), purge_step=finished + 1))
            elif event == "step":
                step = (values["epoch"] - 1) * steps_per_epoch + values["step"]
                for name in ("loss", "accuracy"):
                    writer.add_scalar(f"{name}/training", values[name], step)
                for name in ("learning_rate", "images_per_s"):
                    writer.add_scalar(name, values[name], step)
            elif event == "epoch":
                found = values["validation"]
                share = found["correct"] / found["images"]
                writer.add_scalar("accuracy/validation", share, values["epoch"] * steps_per_epoch)

        yield write
