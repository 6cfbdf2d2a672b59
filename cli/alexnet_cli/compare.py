"""`alexnet compare`: two reports against each other, with an exit code for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

    Engines and closed loops are judged by throughput, open loops by their
    median, loads by their p99 too, both with twice the tolerance; breakdowns and
    cold starts by their times; a searched rate beyond the step of a search.
    A row is slower where its whole 95% interval is beyond the tolerance, and
    perhaps slower where only its ratio is.

    Exit code 0: no row is slower.
    Exit code 1: a row is slower; or one that was VALID is gone or INVALID
    now.
    Exit code 2: nothing could be judged; or rows got slower on a machine
    that itself ran at another speed; or the files or options are wrong.

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
    from alexnet_bench.reports.comparison_table import comparison_sheet
    from alexnet_bench.reports.tables import renderables_from_sheet

    from .screen import out, say

    shown = type(comparison).model_validate(_harmless(comparison.model_dump()))
    say(f"before: {shown.before}")
    say(f"after:  {shown.after}")
    for fact in shown.environment:
        say(f"  {fact.name}: {fact.before} -> {fact.after}")
    if shown.calibration_ratio is not None:
        say(f"  calibration workload: {shown.calibration_ratio:.3f} times as fast")
    for reason in shown.against:
        say(reason)
    if shown.rows:
        for part in renderables_from_sheet(comparison_sheet(shown)):
            out.print(part)
    for when, names in (("before", shown.only_before), ("after", shown.only_after)):
        for name in names:
            say(f"only {when}: {name}")
    say(f"Verdict: {shown.verdict}")


def _harmless(value: Any) -> Any:
    """Every text in it: a report is a file that others may have written."""
    from .screen import harmless

    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, dict):
        return {name: _harmless(part) for name, part in value.items()}
    return tuple(map(_harmless, value)) if isinstance(value, tuple) else value
