"""`alexnet train`: train or fine-tune a network on images and write its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .contract_options import ContractFileOption
from .options import (
    ArchOption,
    ArchOptionOption,
    JsonFlag,
    StateDictKeyOption,
    architecture_options_from,
    names_from,
)


def train_command(
    data: Annotated[
        str,
        typer.Option(
            help="'digits', or a folder with one subfolder per class, or with these in train/ and val/."
        ),
    ] = "digits",
    weights: Annotated[
        str | None,
        typer.Option(
            help="Fine-tune these weights: a checkpoint, weights of any PyTorch program, or 'imagenet' "
            "(downloads weights). The last layer is replaced by one for the classes of the data.",
            show_default="random weights",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep the weights of a module as they are, such as features. Comma-separated or repeated.",
            metavar="MODULE",
        ),
    ] = None,
    arch: ArchOption = None,
    arch_option: ArchOptionOption = None,
    width: Annotated[
        float | None,
        typer.Option(
            help="Scale the size of every hidden layer by this, 0.01 to 4.",
            show_default="the checkpoint's, or 1",
        ),
    ] = None,
    key: StateDictKeyOption = None,
    contract: ContractFileOption = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the training images.", show_default="4, or 10 with --weights"),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of Adam; with --weights, that of the new layer.",
            show_default="by architecture and width",
        ),
    ] = None,
    body_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of the layers that start from --weights.",
            show_default="a tenth of --learning-rate",
        ),
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
    """Train a classifier, or fine-tune one, and write its checkpoint.

    If the run is stopped, the same command continues after the last finished epoch.

    Example: alexnet train --weights imagenet --data flowers --freeze features
    """
    from alexnet_model.contract_sources import contract_from_file
    from alexnet_training import TrainingOptions, train

    from .screen import Bars, escaped, note
    from .tables import print_training

    options = TrainingOptions(
        data=data,
        architecture=arch,
        architecture_options=architecture_options_from(arch_option or []),
        width=width,
        weights=weights,
        key=key,
        contract=None if contract is None else contract_from_file(contract),
        freeze=names_from(freeze or []),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        body_learning_rate=body_learning_rate,
        seed=seed,
    )
    with Bars() as bars:
        report = train(options, out, resume=resume, progress=bars)
    for sentence in report.notes:
        note(escaped(sentence))
    if as_json:
        typer.echo(json.dumps(report.checkpoint.training, indent=2))
        return
    print_training(report)
    architecture = report.checkpoint.architecture
    note(f"Next: alexnet export {out}" + (f" --arch {architecture}" if ":" in architecture else ""))
