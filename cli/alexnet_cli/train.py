"""`alexnet train`: images to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag


def train_command(
    data: Annotated[
        str, typer.Option(help="'digits', or a folder: train/ and val/ with a folder a class, or just those.")
    ] = "digits",
    arch: Annotated[str, typer.Option(help="alexnet, alexnet-lecture, alexnet-2012 or lenet.")] = "alexnet",
    width: Annotated[float, typer.Option(help="Scales every hidden layer.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam, at its highest.", show_default="by width")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")] = Path("checkpoint.safetensors"),
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where a stopped run of the same options was.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Train a classifier; a run that was stopped goes on from its last epoch when it is repeated.

    Example: alexnet train --data digits --arch alexnet --epochs 4 --out checkpoint.safetensors
    """
    from alexnet_training import TrainingOptions, train

    from .screen import Bars, note
    from .tables import print_training

    options = TrainingOptions(
        data=data,
        architecture=arch,
        width=width,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    with Bars() as bars:
        report = train(options, out, resume=resume, progress=bars)
    if as_json:
        typer.echo(json.dumps(report.checkpoint.training, indent=2))
        return
    print_training(report)
    note(f"Next: alexnet export {out}")
