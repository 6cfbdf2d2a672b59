"""Reports on disk: written atomically, and read only if their schema version is the current one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from alexnet_model.errors import ReportError, UsageError, os_error_reason
from alexnet_model.files import write_text_atomically
from alexnet_model.reading import text_of_file, value_from_json

from ..schema import SCHEMA_VERSION, Report
from .parts import PARTS

_MAKE = "Measure again: alexnet bench ... --output FILE."


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON; on an error the file keeps its content.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    write_text_atomically(path, report.model_dump_json(indent=1) + "\n")


def report_from_file(path: Path) -> Report:
    """Read a report.

    Raises:
        ReportError: the file is missing, no JSON, or of another schema; the field and the versions are named.
    """
    try:
        content = value_from_json(text_of_file(path))
    except OSError as error:
        raise _unreadable(path, os_error_reason(error)) from error
    except ValueError as error:
        raise _unreadable(path, f"no JSON ({error})") from error
    if not isinstance(content, dict):
        raise _unreadable(f"{path}: root", type(content).__name__)
    if "artifacts" in content:
        raise _unreadable(path, "the record of an export")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ReportError(
            f"{path}: schema_version",
            got="none" if version is None else json.dumps(version)[:40],
            expected=str(SCHEMA_VERSION),
            next_step="A newer version of alexnet-serving wrote it: read it with that version."
            if isinstance(version, int) and version > SCHEMA_VERSION
            else _MAKE,
        )
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        of_version = f" of schema version {SCHEMA_VERSION}"
        raise _unreadable(f"{path}: {where or 'root'}", first["msg"].lower(), of_version) from error


def _unreadable(what: Path | str, got: str, of_version: str = "") -> ReportError:
    expected = f"a report of alexnet bench{of_version}"
    return ReportError(str(what), got=got, expected=expected, next_step=_MAKE)


def check_one_page(reports: Sequence[Report]) -> None:
    """Check that reports are of one machine and have no row in common.

    Raises:
        UsageError: there is none, they are of different machines, or a figure is in two of them.
    """
    if not reports:
        raise UsageError("reports", got="none", expected="at least one")
    machines = list(dict.fromkeys(" + ".join(report.environment.devices) for report in reports))
    if len(machines) > 1:
        raise UsageError(
            "reports of one page",
            got=f"{len(machines)} machines: {'; '.join(machines)}",
            expected="one, since figures of different devices are not compared",
            next_step="Write one page for each machine, or run: alexnet compare A B --across-devices.",
        )
    seen: dict[str, str] = {}
    for report in reports:
        names = {part.row_name(row) for part in PARTS if part.row_name for row in part.rows(report)}
        for name in sorted(names):
            if name in seen:
                raise UsageError(
                    "reports of one page",
                    got=f"{name} in both {seen[name]!r} and {report.title!r}",
                    expected="each figure in one of them",
                    next_step="To compare two runs: alexnet compare A B.",
                )
            seen[name] = report.title
