"""`alexnet bench engine`: time every engine of an export that this machine can run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import UsageError

from ..options import precisions_from
from .reporting import (
    JsonFlag,
    OutputOption,
    check_output,
    finish,
    print_tables,
    recorded_command,
    whole_numbers,
)

if TYPE_CHECKING:
    from alexnet_bench import Report


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


def engine_command(
    context: typer.Context,
    export: Annotated[Path, typer.Argument(help="Folder of an export, with its export.json.")],
    batch: Annotated[
        str | None,
        typer.Option(
            help="Images per call.", metavar="N,...", show_default="1, 2, 4 ... to the export's largest batch"
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Comma-separated: fp32,fp16,int8.", show_default="all that the gate accepted"),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Runtime names, such as openvino,pytorch.",
            metavar="NAME,...",
            show_default="all that this machine can run",
        ),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(help="Measure only on this device.", show_default="all devices of this machine"),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The export's checkpoint, to measure PyTorch too.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds per repeat of an engine at one batch size.")] = 0.5,
    repeats: Annotated[int, typer.Option(help="Repeats of each engine and batch, in alternating order.")] = 5,
    judge: Annotated[
        bool, typer.Option("--judge/--no-judge", help="Check every engine with the export's accuracy gate.")
    ] = True,
    as_json: JsonFlag = False,
    output: OutputOption = None,
) -> None:
    """Time every engine of an export that this machine can run.

    Each engine runs in its own process, and its speed is compared with the
    shortest call that the device allows. At the end the export's accuracy gate
    checks each engine. Rows of an engine whose outputs are wrong, or that cannot
    be checked, are INVALID. Engines that cannot run here are listed with the
    reason. Ctrl-C ends the run early and keeps the finished rows.

    Example: alexnet bench engine build/export --output build/engine.json
    """
    from alexnet_bench import EngineBenchOptions, EngineFilter, bench_engines

    from ..screen import Bars

    options = EngineBenchOptions(
        engine_filter=EngineFilter(
            precisions=precisions_from(precision),
            runtimes=_runtimes_from(runtime),
            checkpoint=checkpoint,
            device=None if device is None else device.value,
        ),
        batches=None if batch is None else whole_numbers("--batch", batch),
        seconds=seconds,
        repeats=repeats,
        judge=judge,
    )
    check_output(output)
    with Bars() as bars:
        report = bench_engines(export, options, command=recorded_command(context), progress=bars)
    finish(report, as_json=as_json, output=output, measured=bool(report.engines), show=print_engines)


def print_engines(report: Report) -> None:
    """Print a comparison and the costs of each device's engines, then all rows and the verdict."""
    from ..screen import out, say
    from .engine_tables import LIMITS_IN_WORDS, costs_table, side_by_side_table

    for device in dict.fromkeys(row.engine.device for row in report.engines):
        rows = [row for row in report.engines if row.engine.device == device]
        out.rule(f"Engines on {device}", align="left")
        say("Images per second by batch:")
        out.print(side_by_side_table(rows))
        say("Costs of each engine:")
        out.print(costs_table(rows))
    if report.engines:
        out.print(LIMITS_IN_WORDS, markup=False)
    print_tables(report)


def _runtimes_from(text: str | None) -> tuple[str, ...] | None:
    """Split names; `EngineFilter` refuses unknown ones."""
    if text is None:
        return None
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError("--runtime", got=repr(text), expected="at least one name")
    return tuple(dict.fromkeys(words))
