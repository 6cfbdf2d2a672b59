"""Benchmarks with a verdict: engines in process, servers under load, and the two compared.

Names are imported on first use, because most of them need the [export] extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine_vs_server import ComparisonOptions, compare_with_server
    from .engines.benchmark import EngineBenchOptions, bench_engines
    from .engines.selection import EngineFilter
    from .latency_breakdown import BreakdownOptions, bench_latency_breakdown
    from .reference_predictions import ExportPredictions
    from .unpacking import unpacked_export

_MODULES = {
    ".engine_vs_server": ("ComparisonOptions", "compare_with_server"),
    ".engines.benchmark": ("EngineBenchOptions", "bench_engines"),
    ".engines.selection": ("EngineFilter",),
    ".latency_breakdown": ("BreakdownOptions", "bench_latency_breakdown"),
    ".reference_predictions": ("ExportPredictions",),
    ".unpacking": ("unpacked_export",),
}

__all__ = [
    "BreakdownOptions",
    "ComparisonOptions",
    "EngineBenchOptions",
    "EngineFilter",
    "ExportPredictions",
    "bench_engines",
    "bench_latency_breakdown",
    "compare_with_server",
    "unpacked_export",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
