"""The processes in which Triton runs our backends, one a model.

Triton 2.51 does not replace one that died: it answers every request to that model with an error and still
calls itself ready. So whoever wants to know that a server lives has to look at these too.
"""

from __future__ import annotations

from pathlib import Path

STUB = "triton_python_backend_stub"


def stubs_of(process_group: int) -> dict[int, str]:
    """The living stubs of a server, as process id to model name."""
    return {
        pid: model
        for path in Path("/proc").glob("[0-9]*")
        if is_alive(pid := int(path.name), process_group) and (model := _model_of(path))
    }


def is_alive(pid: int, process_group: int) -> bool:
    """Whether the process runs in that group; one that ended and was not reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    state, _, group = stat.rpartition(")")[2].split()[:3]  # the name before it may hold anything
    return state not in ("Z", "X") and int(group) == process_group


def _model_of(process: Path) -> str | None:
    """From `.../triton_python_backend_stub REPOSITORY/MODEL/VERSION/FILE ...`."""
    try:
        arguments = (process / "cmdline").read_text().split("\0")
    except OSError:
        return None
    return Path(arguments[1]).parent.parent.name if arguments[0].endswith(STUB) else None
