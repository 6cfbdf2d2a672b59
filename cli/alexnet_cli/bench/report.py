"""`alexnet bench report`: show reports as tables, or write them as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_model.errors import UsageError


def report_command(
    reports: Annotated[
        list[Path],
        typer.Argument(help="Reports that --output wrote, all of one machine.", metavar="REPORT.json..."),
    ],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one HTML page to this file; it opens offline."),
    ] = None,
) -> None:
    """Show reports of `alexnet bench` as tables, or write them as one HTML page with plots.

    Example: alexnet bench report build/engine.json build/server.json --html build/report.html
    """
    from alexnet_bench import check_one_page, html_from_reports, renderables_from_report, report_from_file

    from ..screen import note, out

    if html is not None and html.resolve() in [path.resolve() for path in reports]:
        raise UsageError(f"--html {html}", got="one of the reports", expected="another file for the page")
    read = [report_from_file(path) for path in reports]
    check_one_page(read)
    if html is not None:
        from alexnet_model.files import write_text_atomically

        write_text_atomically(html, html_from_reports(read))
        note(f"Wrote {html}.")
        return
    for report in read:
        out.rule(report.title, align="left")
        for part in renderables_from_report(report):
            out.print(part)
