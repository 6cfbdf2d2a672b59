"""Benchmarks: engines in process, servers under load, latency, tuning and cold start.

Every public name is imported when it is first used, as most need the [bench] or [export] extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client_figures import ClientBenchOptions, measure_clients, write_client_images
    from .cold_start import bench_cold_start
    from .loads.generators import InProcessGenerator, LoadGenerator, MultiProcessGenerator
    from .loads.plans import ClosedLoop, Load, OpenLoop, Timing
    from .loads.rate_search import RateSearch, SearchOptions, search_rate
    from .loads.results import LoadResult, ModelUnderTest
    from .loads.run import LoadPlan, bench_load
    from .loads.server_bench import MeasuredLoad, ReferenceSource, ServerBench
    from .loads.traffic import ReferenceOutputs, RequestSet
    from .measuring import MeasureOptions, measure
    from .records import Case, Measurements, Ratio, Throughput
    from .side_by_side import Plan
    from .synthetic_images import synthetic_jpegs
    from .tuning import Candidate, TuningOptions, bench_tuning, winner_of, write_winner

_NAMES = {
    ".client_figures": ("ClientBenchOptions", "measure_clients", "write_client_images"),
    ".cold_start": ("bench_cold_start",),
    ".loads.generators": ("InProcessGenerator", "LoadGenerator", "MultiProcessGenerator"),
    ".loads.plans": ("ClosedLoop", "Load", "OpenLoop", "Timing"),
    ".loads.rate_search": ("RateSearch", "SearchOptions", "search_rate"),
    ".loads.results": ("LoadResult", "ModelUnderTest"),
    ".loads.run": ("LoadPlan", "bench_load"),
    ".loads.server_bench": ("MeasuredLoad", "ReferenceSource", "ServerBench"),
    ".loads.traffic": ("ReferenceOutputs", "RequestSet"),
    ".measuring": ("MeasureOptions", "measure"),
    ".records": ("Case", "Measurements", "Ratio", "Throughput"),
    ".side_by_side": ("Plan",),
    ".synthetic_images": ("synthetic_jpegs",),
    ".tuning": ("Candidate", "TuningOptions", "bench_tuning", "winner_of", "write_winner"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Candidate",
    "Case",
    "ClientBenchOptions",
    "ClosedLoop",
    "InProcessGenerator",
    "Load",
    "LoadGenerator",
    "LoadPlan",
    "LoadResult",
    "MeasureOptions",
    "MeasuredLoad",
    "Measurements",
    "ModelUnderTest",
    "MultiProcessGenerator",
    "OpenLoop",
    "Plan",
    "RateSearch",
    "Ratio",
    "ReferenceOutputs",
    "ReferenceSource",
    "RequestSet",
    "SearchOptions",
    "ServerBench",
    "Throughput",
    "Timing",
    "TuningOptions",
    "bench_cold_start",
    "bench_load",
    "bench_tuning",
    "measure",
    "measure_clients",
    "search_rate",
    "synthetic_jpegs",
    "winner_of",
    "write_client_images",
    "write_winner",
]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
