"""`alexnet bench loader`: how fast training images are loaded."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..contract_options import ContractFileOption
from ..options import JsonFlag


def loader_command(
    data: Annotated[
        str, typer.Argument(help="A folder of images, a folder of tar shards, or a list of shards.")
    ],
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode images.", show_default="one for each core")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 128,
    recipe: Annotated[
        str,
        typer.Option(help="The recipe, which may read images with a margin for crops.", metavar="NAME"),
    ] = "paper-2012",
    contract: ContractFileOption = None,
    seconds: Annotated[float, typer.Option(help="About the seconds of one measurement.")] = 5.0,
    repeats: Annotated[int, typer.Option(help="Measurements, in alternating order with decoding alone.")] = 5,
    as_json: JsonFlag = False,
) -> None:
    """Measure how fast training images are loaded, against decoding alone.

    Decoding alone is as many processes that prepare the same images with nothing
    around it. The difference is what it costs to bring batches to the training
    loop. The images are in the machine's file cache, so a slow disk is not
    measured.

    Example: alexnet bench loader imagenet --workers 2
    """
    from alexnet_bench.loader import bench_loader
    from alexnet_model.contract_sources import contract_from_file
    from alexnet_training.recipes import recipe_named

    from ..screen import Bars, say

    keep_margin = recipe_named(recipe).keeps_margin
    with Bars() as bars:
        report = bench_loader(
            data,
            contract=None if contract is None else contract_from_file(contract),
            keep_margin=keep_margin,
            workers=workers,
            batch_size=batch_size,
            seconds=seconds,
            repeats=repeats,
            progress=bars,
        )
    if as_json:
        figures = {
            "share_of_decode_alone": round(report.share, 4),
            "loader_images_per_worker_per_s": round(report.loader_per_worker_per_s, 1),
            "decode_images_per_worker_per_s": round(report.decode_per_worker_per_s, 1),
        }
        typer.echo(json.dumps(figures | asdict(report), indent=2))
        return
    say(
        f"{report.images:,} training images in {report.data}, prepared at {report.size} pixels in batches of "
        f"{report.batch_size}"
    )
    processes = f"{report.workers} process{'es' if report.workers > 1 else ''}"
    say(f"Loader:       {report.loader_per_worker_per_s:,.1f} images/s per worker, {processes}")
    say(f"Decode alone: {report.decode_per_worker_per_s:,.1f} images/s per process, {processes}")
    say(f"The loader reaches {report.share:.2f} of decoding alone (median of {len(report.loader_per_s)}).")
    if report.unreadable:
        say(f"{report.unreadable} images cannot be read.")
    say(f"Machine: {report.machine}")
