"""Benchmarks with a verdict: engines in process, servers under load, latency, tuning, cold start, clients.

Names are imported on first use, because most of them need the [bench] or [export] extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client_figures import ClientBenchOptions, measure_clients, write_client_images
    from .cold_start import bench_cold_start
    from .engine_vs_server import ComparisonOptions, compare_with_server
    from .engines.benchmark import EngineBenchOptions, bench_engines
    from .engines.selection import EngineFilter
    from .latency_breakdown import BreakdownOptions, bench_latency_breakdown
    from .loads.generators import InProcessGenerator, LoadGenerator, MultiProcessGenerator
    from .loads.plans import ClosedLoop, Load, OpenLoop, Timing
    from .loads.rate_search import RateSearch, SearchOptions, search_rate
    from .loads.results import LoadResult, ModelUnderTest
    from .loads.run import LoadPlan, bench_load
    from .loads.server_bench import MeasuredLoad, ReferenceSource, ServerBench
    from .loads.traffic import ReferenceOutputs, RequestSet
    from .reference_predictions import ExportPredictions
    from .synthetic_images import synthetic_jpegs
    from .tuning import Candidate, TuningOptions, bench_tuning, winner_of, write_winner
    from .unpacking import unpacked_export

_MODULES = {
    ".client_figures": ("ClientBenchOptions", "measure_clients", "write_client_images"),
    ".cold_start": ("bench_cold_start",),
    ".engine_vs_server": ("ComparisonOptions", "compare_with_server"),
    ".engines.benchmark": ("EngineBenchOptions", "bench_engines"),
    ".engines.selection": ("EngineFilter",),
    ".latency_breakdown": ("BreakdownOptions", "bench_latency_breakdown"),
    ".loads.generators": ("InProcessGenerator", "LoadGenerator", "MultiProcessGenerator"),
    ".loads.plans": ("ClosedLoop", "Load", "OpenLoop", "Timing"),
    ".loads.rate_search": ("RateSearch", "SearchOptions", "search_rate"),
    ".loads.results": ("LoadResult", "ModelUnderTest"),
    ".loads.run": ("LoadPlan", "bench_load"),
    ".loads.server_bench": ("MeasuredLoad", "ReferenceSource", "ServerBench"),
    ".loads.traffic": ("ReferenceOutputs", "RequestSet"),
    ".reference_predictions": ("ExportPredictions",),
    ".synthetic_images": ("synthetic_jpegs",),
    ".tuning": ("Candidate", "TuningOptions", "bench_tuning", "winner_of", "write_winner"),
    ".unpacking": ("unpacked_export",),
}

__all__ = [
    "BreakdownOptions",
    "Candidate",
    "ClientBenchOptions",
    "ClosedLoop",
    "ComparisonOptions",
    "EngineBenchOptions",
    "EngineFilter",
    "ExportPredictions",
    "InProcessGenerator",
    "Load",
    "LoadGenerator",
    "LoadPlan",
    "LoadResult",
    "MeasuredLoad",
    "ModelUnderTest",
    "MultiProcessGenerator",
    "OpenLoop",
    "RateSearch",
    "ReferenceOutputs",
    "ReferenceSource",
    "RequestSet",
    "SearchOptions",
    "ServerBench",
    "Timing",
    "TuningOptions",
    "bench_cold_start",
    "bench_engines",
    "bench_latency_breakdown",
    "bench_load",
    "bench_tuning",
    "compare_with_server",
    "measure_clients",
    "search_rate",
    "synthetic_jpegs",
    "unpacked_export",
    "winner_of",
    "write_client_images",
    "write_winner",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
