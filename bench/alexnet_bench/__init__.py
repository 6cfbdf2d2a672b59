"""How fast a model answers, in process and through a server, measured side by side.

`measure` and `MeasureOptions` need the [export] extra and come on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .measuring import MeasureOptions, measure
    from .records import Case, Measurements, Ratio, Throughput
    from .side_by_side import Plan

_HOME = {
    "Case": ".records",
    "MeasureOptions": ".measuring",
    "Measurements": ".records",
    "Plan": ".side_by_side",
    "Ratio": ".records",
    "Throughput": ".records",
    "measure": ".measuring",
}

__all__ = ["Case", "MeasureOptions", "Measurements", "Plan", "Ratio", "Throughput", "measure"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
