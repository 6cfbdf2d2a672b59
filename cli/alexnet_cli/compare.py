"""`alexnet compare`: two reports against each other, with an exit code for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonFlag

if TYPE_CHECKING:
    from alexnet_bench.reports.comparing import Comparison


def compare_command(
    before: Annotated[Path, typer.Argument(help="The report to hold against.", metavar="BEFORE.json")],
    after: Annotated[Path, typer.Argument(help="The report that is judged.", metavar="AFTER.json")],
    tolerance: Annotated[
        float, typer.Option(help="A change of up to this share is none: runs differ by more than repeats.")
    ] = 0.1,
    across_devices: Annotated[
        bool, typer.Option("--across-devices", help="Compare figures of different machines all the same.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say what got slower or faster between two reports, and what else is not the same.

    Exits 0 where nothing got slower, 1 where something did by more than the tolerance and its 95% interval,
    2 where nothing could be judged. INVALID rows are shown and count neither way.

    Example: alexnet compare main.json mine.json --tolerance 0.05
    """
    from alexnet_bench.reports.comparing import comparison_of
    from alexnet_bench.reports.files import report_from_file

    comparison = comparison_of(
        report_from_file(before),
        report_from_file(after),
        tolerance=tolerance,
        across_devices=across_devices,
    )
    if as_json:
        typer.echo(comparison.model_dump_json(indent=2))
    else:
        _print(comparison)
    raise typer.Exit(comparison.exit_code)


def _print(comparison: Comparison) -> None:
    """What differs around the figures, the figures, and the verdict last."""
    from alexnet_bench.reports.comparison_sheet import comparison_sheet
    from alexnet_bench.reports.tables import renderables_from_sheet

    from .screen import out, say

    say(f"before: {comparison.before}")
    say(f"after:  {comparison.after}")
    for fact in comparison.environment:
        say(f"  {fact.name}: {fact.before} -> {fact.after}")
    if comparison.control_ratio is not None:
        say(f"  control work: {comparison.control_ratio:.3f} times as fast")
    for reason in comparison.against:
        say(reason)
    if comparison.rows:
        for part in renderables_from_sheet(comparison_sheet(comparison)):
            out.print(part)
    for when, names in (("before", comparison.only_before), ("after", comparison.only_after)):
        for name in names:
            say(f"only {when}: {name}")
    say(f"Verdict: {comparison.verdict}")
