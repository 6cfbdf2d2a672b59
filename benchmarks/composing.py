"""The pages of what was measured: every recipe here ends in `compose(results, docs)`.

`results/cpu` and `results/gpu` hold the reports, each of one machine. Of each there is a page in HTML, and of
all of them one in Markdown with its images beside it, to which `results/tools` adds what these tools were
held to.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from tools import section_of

from alexnet_bench.reports.files import report_from_file
from alexnet_bench.reports.markdown import document_from_reports, write_document
from alexnet_bench.reports.page import html_from_reports
from alexnet_bench.schema import Report
from alexnet_cli.screen import note
from alexnet_model.errors import AlexnetError, UsageError
from alexnet_model.files import write_text_atomically

PARTS = ("engine", "server", "rates", "breakdown", "tune", "cold-start")  # the order in which they are read
PAGES = {"cpu": "report.html", "gpu": "report-gpu.html"}


def compose(results: Path, docs: Path) -> None:
    """Write the page of each machine, and `docs` with its images, from the reports that are there.

    Ends the program where there are none, or where they do not fit on their page.
    """
    try:
        pages = written(results, docs)
    except AlexnetError as error:
        sys.exit(f"Error: {error}")
    note(f"Wrote {', '.join(map(str, (docs, *pages)))}.")


def written(results: Path, docs: Path) -> list[Path]:
    measured = {name: reports for name in PAGES if (reports := reports_in(results / name))}
    if not measured:
        expected = " or ".join(f"{name}/*.json" for name in PAGES)
        raise UsageError(str(results), got="no reports", expected=expected, next_step="Measure: make bench.")
    for name, reports in measured.items():
        write_text_atomically(results / PAGES[name], html_from_reports(reports))
    pages = [results / PAGES[name] for name in measured]
    of_all = [report for reports in measured.values() for report in reports]
    document = document_from_reports(of_all, introduction=introduction(pages, docs), folder=docs.stem)
    if held_to := section_of(results / "tools"):
        document = replace(document, text=f"{document.text}\n## The tools themselves\n\n{held_to}")
    write_document(document, docs)
    return pages


def reports_in(folder: Path) -> list[Report]:
    """The parts in their order, then whatever else was measured."""
    order = {part: index for index, part in enumerate(PARTS)}
    files = sorted(folder.glob("*.json"), key=lambda path: (order.get(path.stem, len(PARTS)), path.stem))
    return [report_from_file(file) for file in files]


def introduction(pages: list[Path], docs: Path) -> str:
    results = os.path.relpath(pages[0].parent, docs.parent)
    links = " and ".join(f"[{page.name}]({results}/{page.name})" for page in pages)
    return f"""# Performance

Made by `make bench` and `make bench-gpu`, and by nothing else: each run with its verdict, its date and its
command. With every column and row, the same is in {links}
(to be downloaded, and opened in a browser), and as JSON in [{Path(results).name}/]({results}/)."""
