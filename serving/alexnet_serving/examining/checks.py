"""What the doctor's checks share: the record that each of them is, and the jobs that need them."""

from __future__ import annotations

from typing import Literal

from alexnet_model.records import Record

TRAIN = "train"
EXPORT = "export"
BUILD_TENSORRT = "export --runtime tensorrt"
BUILD_RTX = "export --runtime tensorrt-rtx"
BUILD_IN_DOCKER = "export --runtime tensorrt --build docker"
SERVE_EMBEDDED = "serve --with embedded"
SERVE_IN_DOCKER = "serve --with docker"
CLASSIFY = "classify"
UI = "ui"
BENCH = "bench"
JOBS = (
    TRAIN,
    EXPORT,
    BUILD_TENSORRT,
    BUILD_RTX,
    BUILD_IN_DOCKER,
    SERVE_EMBEDDED,
    SERVE_IN_DOCKER,
    CLASSIFY,
    UI,
    BENCH,
)
EXPORTS = (EXPORT, BUILD_TENSORRT, BUILD_RTX, BUILD_IN_DOCKER)
DOCKER_JOBS = (BUILD_IN_DOCKER, SERVE_IN_DOCKER)

LEAD_WORDS = 4  # "Build it, in the source tree: ..." is more than a lead
Status = Literal["ok", "missing", "warning"]


class Check(Record):
    """One thing that jobs need: whether it is here, and what mends it if not.

    `missing` stops the jobs in `needed_by`, `warning` does not. What cannot be known before something else is
    mended is a warning too, with nothing to mend yet.
    """

    name: str
    status: Status
    found: str
    needed_by: tuple[str, ...]
    mend: str = ""


def mend_from(next_step: str) -> str:
    """An error's next step without its lead: `Start it: sudo ...` is already under "to mend"."""
    lead, _, command = next_step.partition(": ")
    return command if command and len(lead.split()) <= LEAD_WORDS else next_step
