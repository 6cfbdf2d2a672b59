"""Benchmarks: how fast engines and servers are, with a verdict on whether the figures can be believed.

Names are imported on first use: some need the [export] or [bench] extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calibration_workload import calibration_rate
    from .environment import Environment, environment_here
    from .figures.intervals import Figure, figure_from_repeats
    from .figures.percentiles import LatencyHistogram
    from .figures.verdicts import Reason, Verdict, verdict_from
    from .measuring import MeasureOptions, measure
    from .records import Case, Measurements, Ratio, Throughput
    from .reports.comparing import Comparison, compare_reports, comparison_table
    from .reports.files import check_one_page, report_from_file, write_report
    from .reports.markdown import document_from_reports, write_document
    from .reports.page import html_from_reports
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
    from .side_by_side import Plan

_MODULES = {
    "Case": ".records",
    "ColdStart": ".schema",
    "Comparison": ".reports.comparing",
    "EngineLabel": ".schema",
    "EngineRow": ".schema",
    "Environment": ".environment",
    "Figure": ".figures.intervals",
    "FigureRow": ".schema",
    "HeldRate": ".schema",
    "LatencyHistogram": ".figures.percentiles",
    "LatencyStep": ".schema",
    "LeftOut": ".schema",
    "LoadRow": ".schema",
    "Log": ".runs",
    "MeasureOptions": ".measuring",
    "Measurements": ".records",
    "Plan": ".side_by_side",
    "Ratio": ".records",
    "Reason": ".figures.verdicts",
    "Report": ".schema",
    "Throughput": ".records",
    "Tuning": ".schema",
    "Verdict": ".figures.verdicts",
    "calibration_rate": ".calibration_workload",
    "check_one_page": ".reports.files",
    "compare_reports": ".reports.comparing",
    "comparison_table": ".reports.comparing",
    "document_from_reports": ".reports.markdown",
    "environment_here": ".environment",
    "figure_from_repeats": ".figures.intervals",
    "html_from_reports": ".reports.page",
    "measure": ".measuring",
    "renderables_from_report": ".reports.tables",
    "renderables_from_table": ".reports.tables",
    "report_from_file": ".reports.files",
    "report_of_run": ".runs",
    "verdict_from": ".figures.verdicts",
    "write_document": ".reports.markdown",
    "write_report": ".reports.files",
}

__all__ = [
    "Case",
    "ColdStart",
    "Comparison",
    "EngineLabel",
    "EngineRow",
    "Environment",
    "Figure",
    "FigureRow",
    "HeldRate",
    "LatencyHistogram",
    "LatencyStep",
    "LeftOut",
    "LoadRow",
    "Log",
    "MeasureOptions",
    "Measurements",
    "Plan",
    "Ratio",
    "Reason",
    "Report",
    "Throughput",
    "Tuning",
    "Verdict",
    "calibration_rate",
    "check_one_page",
    "compare_reports",
    "comparison_table",
    "document_from_reports",
    "environment_here",
    "figure_from_repeats",
    "html_from_reports",
    "measure",
    "renderables_from_report",
    "renderables_from_table",
    "report_from_file",
    "report_of_run",
    "verdict_from",
    "write_document",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
