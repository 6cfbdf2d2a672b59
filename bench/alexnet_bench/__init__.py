"""Benchmarks: how fast engines and servers are, with a verdict on whether the figures can be believed.

Names are imported on first use, because most of them need the [bench] or [export] extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calibration_workload import calibration_rate as calibration_rate
    from .client_figures import ClientBenchOptions as ClientBenchOptions
    from .client_figures import measure_clients as measure_clients
    from .client_figures import write_client_images as write_client_images
    from .cold_start import bench_cold_start as bench_cold_start
    from .engine_vs_server import ComparisonOptions as ComparisonOptions
    from .engine_vs_server import compare_with_server as compare_with_server
    from .engines.benchmark import EngineBenchOptions as EngineBenchOptions
    from .engines.benchmark import bench_engines as bench_engines
    from .engines.selection import EngineFilter as EngineFilter
    from .environment import Environment as Environment
    from .environment import environment_here as environment_here
    from .figures.intervals import Figure as Figure
    from .figures.intervals import figure_from_repeats as figure_from_repeats
    from .figures.percentiles import LatencyHistogram as LatencyHistogram
    from .figures.verdicts import Reason as Reason
    from .figures.verdicts import Verdict as Verdict
    from .figures.verdicts import verdict_from as verdict_from
    from .latency_breakdown import BreakdownOptions as BreakdownOptions
    from .latency_breakdown import bench_latency_breakdown as bench_latency_breakdown
    from .loads.generators import InProcessGenerator as InProcessGenerator
    from .loads.generators import LoadGenerator as LoadGenerator
    from .loads.generators import MultiProcessGenerator as MultiProcessGenerator
    from .loads.plans import ClosedLoop as ClosedLoop
    from .loads.plans import Load as Load
    from .loads.plans import OpenLoop as OpenLoop
    from .loads.plans import Timing as Timing
    from .loads.rate_search import RateSearch as RateSearch
    from .loads.rate_search import SearchOptions as SearchOptions
    from .loads.rate_search import search_rate as search_rate
    from .loads.results import LoadResult as LoadResult
    from .loads.results import ModelUnderTest as ModelUnderTest
    from .loads.run import LoadPlan as LoadPlan
    from .loads.run import bench_load as bench_load
    from .loads.server_bench import MeasuredLoad as MeasuredLoad
    from .loads.server_bench import ReferenceSource as ReferenceSource
    from .loads.server_bench import ServerBench as ServerBench
    from .loads.server_bench import open_server_bench as open_server_bench
    from .loads.traffic import ReferenceOutputs as ReferenceOutputs
    from .loads.traffic import RequestSet as RequestSet
    from .reference_predictions import ExportPredictions as ExportPredictions
    from .reports.comparing import Comparison as Comparison
    from .reports.comparing import compare_reports as compare_reports
    from .reports.comparing import comparison_table as comparison_table
    from .reports.files import check_one_page as check_one_page
    from .reports.files import report_from_file as report_from_file
    from .reports.files import write_report as write_report
    from .reports.markdown import document_from_reports as document_from_reports
    from .reports.markdown import write_document as write_document
    from .reports.page import html_from_reports as html_from_reports
    from .reports.tables import renderables_from_report as renderables_from_report
    from .reports.tables import renderables_from_table as renderables_from_table
    from .runs import Log as Log
    from .runs import report_of_run as report_of_run
    from .schema import ColdStart as ColdStart
    from .schema import EngineLabel as EngineLabel
    from .schema import EngineRow as EngineRow
    from .schema import FigureRow as FigureRow
    from .schema import HeldRate as HeldRate
    from .schema import LatencyStep as LatencyStep
    from .schema import LeftOut as LeftOut
    from .schema import LoadRow as LoadRow
    from .schema import Report as Report
    from .schema import Tuning as Tuning
    from .synthetic_images import synthetic_jpegs as synthetic_jpegs
    from .tuning import Candidate as Candidate
    from .tuning import TuningOptions as TuningOptions
    from .tuning import bench_tuning as bench_tuning
    from .tuning import winner_of as winner_of
    from .tuning import write_winner as write_winner

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
    ".reports.markdown": ("document_from_reports", "write_document"),
    ".reports.page": ("html_from_reports",),
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

__all__ = sorted(name for names in _MODULES.values() for name in names)


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
