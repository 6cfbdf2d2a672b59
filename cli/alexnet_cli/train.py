"""`alexnet train`: train a network on images and write its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag


def train_command(
    data: Annotated[
        str,
        typer.Option(
            help="'digits', or a folder with one subfolder per class, or with these in train/ and val/."
        ),
    ] = "digits",
    arch: Annotated[str, typer.Option(help="alexnet, alexnet-lecture, alexnet-2012 or lenet.")] = "alexnet",
    width: Annotated[
        float, typer.Option(help="Scale the size of every hidden layer by this, 0.01 to 4.")
    ] = 1.0,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak learning rate of Adam.", show_default="by architecture and width"),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed of initialisation, order and augmentation. Equal seeds give equal weights."),
    ] = 0,
    out: Annotated[Path, typer.Option(help="Write the checkpoint to this file.")] = Path(
        "checkpoint.safetensors"
    ),
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue a stopped run with the same options.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Train a classifier and write its checkpoint.

    If the run is stopped, the same command continues after the last finished epoch.

    Example: alexnet train --data digits --out checkpoint.safetensors
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
