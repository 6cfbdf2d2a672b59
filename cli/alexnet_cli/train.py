"""`alexnet train`: train or fine-tune a network on images and write its checkpoint."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
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
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="'digits', 'cluttered-digits:VIEWS', a folder with one subfolder per class, or with "
            "these in train/ and val/, or tar shards: a folder, one file, or a list of paths and URLs."
        ),
    ] = "digits",
    recipe: Annotated[
        str,
        typer.Option(
            help="How to train: 'digits' (minutes, small datasets), 'paper-2012' or 'modern'.", metavar="NAME"
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
        typer.Option(
            help="Passes over the training images.",
            show_default="the recipe's: for digits 4, or 10 with --weights",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images per step, of all processes together.", show_default="the recipe's: 32 for digits"
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate; with --weights, that of the new layer.",
            show_default="the recipe's, or by architecture and width",
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
        typer.Option(
            help="Seed of initialisation, order and augmentation. On a CPU equal seeds give equal weights."
        ),
    ] = 0,
    device: Annotated[
        str,
        typer.Option(help="auto (the first GPU, or the CPU), cpu, cuda or cuda:N.", metavar="DEVICE"),
    ] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network with torch.compile, for long runs.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Train with so many processes on this machine, one for each GPU. Under torchrun: how many "
            "it must have started.",
            metavar="N",
            show_default="1, or as many as torchrun started",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Decode large splits in so many worker processes, in each of --processes.",
            metavar="N",
            show_default="one for each core",
        ),
    ] = None,
    ten_crop: Annotated[
        bool,
        typer.Option(
            "--ten-crop",
            help="Measure the test accuracy over ten crops of each image too: the corners, the centre, and "
            "their mirror images.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Write the checkpoint to this file.")] = Path(
        "checkpoint.safetensors"
    ),
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue a stopped run with the same options.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint of a finished run.")] = False,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            help="Save the state of the run after so many steps too.",
            metavar="STEPS",
            show_default="after each epoch",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="Append events to this file, one JSON object a line.", metavar="FILE"),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(help="Write curves for TensorBoard to this folder.", metavar="DIR"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a classifier, or fine-tune one, and write its checkpoint.

    If the run is stopped, the same command continues after the last saved state. On SIGTERM the state is
    saved at once, and the exit code is 0. A checkpoint that is finished is replaced only with --force.

    Example: alexnet train --weights imagenet --data flowers --freeze features
    """
    from alexnet_model.contract_sources import contract_from_file
    from alexnet_model.errors import OtherRankFailed, TrainingStopped, UsageError
    from alexnet_training import TrainingOptions, resume_path, train
    from alexnet_training.devices import gpu_number
    from alexnet_training.launch import OTHER_RANK_FAILED, run_ranks
    from alexnet_training.ranks import Ranks, rank_of_environment

    from . import main
    from .screen import Bars, escaped, note
    from .tables import print_training

    options = TrainingOptions(
        data=data,
        recipe=recipe,
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
        device=device,
        compile=compiled,
        processes=processes,
        workers=workers,
        ten_crop=ten_crop,
    )
    if out.is_dir():
        raise UsageError("--out", got=f"the folder {out}", expected="a file to write the checkpoint to")
    if out.suffix != ".safetensors":  # by which `export` recognises the format
        raise UsageError("--out", got=str(out), expected="a file name that ends in .safetensors")
    if out.is_file() and not force and not resume_path(out).exists():
        raise UsageError(
            "--out",
            got=f"{out}, which exists",
            expected="a new file",
            next_step="Choose another one, or replace it with --force.",
        )
    rank = rank_of_environment()
    words = context.obj or []
    if rank is None and processes and processes > 1:
        gpu_number(device, Ranks(count=processes, local_count=processes))  # before they are started
        raise typer.Exit(run_ranks(processes, partial(main.run, words)))
    try:
        with Bars() as bars, _sigterm_noticed(of_rank=rank is not None) as should_stop:
            report = train(
                options,
                out,
                resume=resume,
                checkpoint_every=checkpoint_every,
                log=log,
                tensorboard=tensorboard,
                progress=bars,
                should_stop=should_stop,
            )
    except OtherRankFailed:
        raise typer.Exit(OTHER_RANK_FAILED) from None
    except TrainingStopped as stopped:
        if not rank:
            again = [word for word in words if word not in ("--debug", "--no-resume")]
            note(escaped(f"{stopped}"))
            note(escaped(f"Continue with: {shlex.join(['alexnet', *again])}"))
        return
    if rank:
        return
    for sentence in report.notes:
        note(escaped(sentence))
    if as_json:
        typer.echo(json.dumps(report.checkpoint.training, indent=2))
        return
    print_training(report)
    architecture = report.checkpoint.architecture
    words = ["alexnet", "export", str(out), *(["--arch", architecture] if ":" in architecture else [])]
    note(f"Next: {shlex.join(words)}")


@contextmanager
def _sigterm_noticed(*, of_rank: bool) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM has come.

    A second SIGTERM ends the process. A rank ignores it, because it may get the first one twice: from the
    process that started it, and from what stops all processes. The former ends a rank that does not stop.
    """
    received: list[int] = []

    def notice(number: int, _: FrameType | None) -> None:
        if received and not of_rank:
            raise SystemExit(128 + number)
        received.append(number)

    previous = signal.signal(signal.SIGTERM, notice)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)
