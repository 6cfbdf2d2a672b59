"""The parts of a report: each knows its rows, table, plots, highlights, and how its rows are compared.

A new kind of benchmark is a row type in schema.py, a file here, and an entry in `PARTS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...schema import Report
from .breakdown import BREAKDOWN
from .cold_start import COLD_STARTS
from .engines import CEILINGS, ENGINES, PROOFS
from .figures import FIGURES
from .loads import HELD_RATES, LOADS
from .part import Highlight, Part
from .tuning import TUNING

# In the order in which they are read. Tuning is last: its reason is below its table.
PARTS: tuple[Part[Any], ...] = (
    *(ENGINES, PROOFS, CEILINGS, LOADS, HELD_RATES, BREAKDOWN, COLD_STARTS, FIGURES, TUNING),
)


def device_of(row: Any) -> str:
    """Return the device of a row of any part; CPU if no model computes in it."""
    if hasattr(row, "device"):
        return str(row.device)
    return "CPU" if row.engine is None else str(row.engine.device)


def devices_of(report: Report) -> list[str]:
    """Return the devices of a report's rows, each once, in order of the parts."""
    return list(dict.fromkeys(device_of(row) for part in PARTS for row in part.rows(report)))


def highlights_from_reports(reports: Sequence[Report]) -> tuple[Highlight, ...]:
    """Return the few main figures of one machine's reports; none is from an INVALID row or run."""
    valid = [report for report in reports if report.verdict.is_valid]
    devices = list(dict.fromkeys(device for report in valid for device in devices_of(report)))
    found: list[Highlight] = []
    for part in PARTS:
        for device in devices:
            rows = [
                row
                for report in valid
                for row in part.rows(report)
                if device_of(row) == device and (not hasattr(row, "verdict") or row.verdict.is_valid)
            ]
            found += part.highlights(rows) if rows else ()
    return tuple(found)
