"""Benchmarks: how fast engines and servers are, with a verdict on whether the figures can be believed.

Names are imported on first use, because most of them need the [bench] or [export] extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calibration_workload import calibration_rate
    from .client_figures import ClientBenchOptions, measure_clients, write_client_images
    from .cold_start import bench_cold_start
    from .engine_vs_server import ComparisonOptions, compare_with_server
    from .engines.benchmark import EngineBenchOptions, bench_engines
    from .engines.selection import EngineFilter
    from .environment import Environment, environment_here
    from .figures.intervals import Figure, figure_from_repeats
    from .figures.percentiles import LatencyHistogram
    from .figures.verdicts import Reason, Verdict, verdict_from
    from .latency_breakdown import BreakdownOptions, bench_latency_breakdown
    from .loads.generators import InProcessGenerator, LoadGenerator, MultiProcessGenerator
    from .loads.plans import ClosedLoop, Load, OpenLoop, Timing
    from .loads.rate_search import RateSearch, SearchOptions, search_rate
    from .loads.results import LoadResult, ModelUnderTest
    from .loads.run import LoadPlan, bench_load
    from .loads.server_bench import MeasuredLoad, ReferenceSource, ServerBench, open_server_bench
    from .loads.traffic import ReferenceOutputs, RequestSet
    from .reference_predictions import ExportPredictions
    from .reports.comparing import Comparison, compare_reports, comparison_table
    from .reports.files import check_one_page, report_from_file, write_report
    from .reports.markdown import document_from_reports, html_from_reports, write_document
    from .reports.tables import renderables_from_report, renderables_from_table
    from .runs import Log, report_of_run
    from .schema import (
        ColdStart,
        EngineLabel,
        EngineRow,
        FigureRow,
        HeldRate,
        LatencyStep,
        LeftOut,
        LoadRow,
        Report,
        Tuning,
    )
    from .synthetic_images import synthetic_jpegs
    from .tuning import Candidate, TuningOptions, bench_tuning, winner_of, write_winner

_MODULES = {
    ".calibration_workload": ("calibration_rate",),
    ".client_figures": ("ClientBenchOptions", "measure_clients", "write_client_images"),
    ".cold_start": ("bench_cold_start",),
    ".engine_vs_server": ("ComparisonOptions", "compare_with_server"),
    ".engines.benchmark": ("EngineBenchOptions", "bench_engines"),
    ".engines.selection": ("EngineFilter",),
    ".environment": ("Environment", "environment_here"),
    ".figures.intervals": ("Figure", "figure_from_repeats"),
    ".figures.percentiles": ("LatencyHistogram",),
    ".figures.verdicts": ("Reason", "Verdict", "verdict_from"),
    ".latency_breakdown": ("BreakdownOptions", "bench_latency_breakdown"),
    ".loads.generators": ("InProcessGenerator", "LoadGenerator", "MultiProcessGenerator"),
    ".loads.plans": ("ClosedLoop", "Load", "OpenLoop", "Timing"),
    ".loads.rate_search": ("RateSearch", "SearchOptions", "search_rate"),
    ".loads.results": ("LoadResult", "ModelUnderTest"),
    ".loads.run": ("LoadPlan", "bench_load"),
    ".loads.server_bench": ("MeasuredLoad", "ReferenceSource", "ServerBench", "open_server_bench"),
    ".loads.traffic": ("ReferenceOutputs", "RequestSet"),
    ".reference_predictions": ("ExportPredictions",),
    ".reports.comparing": ("Comparison", "compare_reports", "comparison_table"),
    ".reports.files": ("check_one_page", "report_from_file", "write_report"),
    ".reports.markdown": ("document_from_reports", "html_from_reports", "write_document"),
    ".reports.tables": ("renderables_from_report", "renderables_from_table"),
    ".runs": ("Log", "report_of_run"),
    ".schema": (
        "ColdStart",
        "EngineLabel",
        "EngineRow",
        "FigureRow",
        "HeldRate",
        "LatencyStep",
        "LeftOut",
        "LoadRow",
        "Report",
        "Tuning",
    ),
    ".synthetic_images": ("synthetic_jpegs",),
    ".tuning": ("Candidate", "TuningOptions", "bench_tuning", "winner_of", "write_winner"),
}

__all__ = [
    "BreakdownOptions",
    "Candidate",
    "ClientBenchOptions",
    "ClosedLoop",
    "ColdStart",
    "Comparison",
    "ComparisonOptions",
    "EngineBenchOptions",
    "EngineFilter",
    "EngineLabel",
    "EngineRow",
    "Environment",
    "ExportPredictions",
    "Figure",
    "FigureRow",
    "HeldRate",
    "InProcessGenerator",
    "LatencyHistogram",
    "LatencyStep",
    "LeftOut",
    "Load",
    "LoadGenerator",
    "LoadPlan",
    "LoadResult",
    "LoadRow",
    "Log",
    "MeasuredLoad",
    "ModelUnderTest",
    "MultiProcessGenerator",
    "OpenLoop",
    "RateSearch",
    "Reason",
    "ReferenceOutputs",
    "ReferenceSource",
    "Report",
    "RequestSet",
    "SearchOptions",
    "ServerBench",
    "Timing",
    "Tuning",
    "TuningOptions",
    "Verdict",
    "bench_cold_start",
    "bench_engines",
    "bench_latency_breakdown",
    "bench_load",
    "bench_tuning",
    "calibration_rate",
    "check_one_page",
    "compare_reports",
    "compare_with_server",
    "comparison_table",
    "document_from_reports",
    "environment_here",
    "figure_from_repeats",
    "html_from_reports",
    "measure_clients",
    "open_server_bench",
    "renderables_from_report",
    "renderables_from_table",
    "report_from_file",
    "report_of_run",
    "search_rate",
    "synthetic_jpegs",
    "verdict_from",
    "winner_of",
    "write_client_images",
    "write_document",
    "write_report",
    "write_winner",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
