"""`alexnet compare`: compare two reports, with an exit code for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonFlag

if TYPE_CHECKING:
    from alexnet_bench import Comparison


def compare_command(
    before: Annotated[Path, typer.Argument(help="The report to compare with.", metavar="BEFORE.json")],
    after: Annotated[Path, typer.Argument(help="The report that is judged.", metavar="AFTER.json")],
    tolerance: Annotated[float, typer.Option(help="Ignore relative changes up to this; 0.1 is 10%.")] = 0.1,
    across_devices: Annotated[
        bool, typer.Option("--across-devices", help="Compare figures of different machines too.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what got slower or faster between two reports, and what else differs.

    Engines and closed loops are judged by throughput, open loops by median
    latency, loads also by p99. Latencies get twice the tolerance. Breakdowns
    and cold starts are judged by time, searches by the rate that they found.
    A row is slower if its whole 95% interval is beyond the tolerance. It is
    perhaps slower if only its ratio is, and the interval excludes 1.

    Exit code 0: no row is slower; some may be perhaps slower.
    Exit code 1: a row is slower, or a row that was VALID is gone or INVALID.
    Exit code 2: nothing could be judged; or rows are slower, but the machine
    itself ran at another speed; or the files or options are wrong.

    Example: alexnet compare before.json after.json --tolerance 0.05
    """
    from alexnet_bench import compare_reports, report_from_file

    comparison = compare_reports(
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
    """Print the differences of the environments, then the rows, and the result last."""
    from alexnet_bench import comparison_table, renderables_from_table

    from .screen import out, say

    shown = type(comparison).model_validate(_escaped(comparison.model_dump()))
    say(f"before: {shown.before}")
    say(f"after:  {shown.after}")
    for fact in shown.environment:
        say(f"  {fact.name}: {fact.before} -> {fact.after}")
    if shown.calibration_ratio is not None:
        say(f"  calibration workload: {shown.calibration_ratio:.3f} times as fast")
    for reason in shown.against:
        say(reason)
    if shown.rows:
        for part in renderables_from_table(comparison_table(shown)):
            out.print(part)
    for when, names in (("before", shown.only_before), ("after", shown.only_after)):
        for name in names:
            say(f"only {when}: {name}")
    say(f"Result: {shown.summary}")


def _escaped(value: Any) -> Any:
    """Escape control characters in every text: a report may come from an untrusted source."""
    from .screen import escaped

    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {name: _escaped(part) for name, part in value.items()}
    return tuple(map(_escaped, value)) if isinstance(value, tuple) else value
