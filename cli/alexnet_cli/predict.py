"""`alexnet predict`: classify images in this process, without a server."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import ImageError, UsageError

from .options import (
    DEFAULT_REPOSITORY,
    ArchOption,
    ArchOptionOption,
    CsvFlag,
    ImagesArgument,
    JsonLinesFlag,
    NameOption,
    RecursiveOption,
    StateDictKeyOption,
    TopOption,
    architecture_options_from,
    check_one_format,
    precisions_from,
)

if TYPE_CHECKING:
    from alexnet_clients import ImageSource, Prediction
    from alexnet_model.contract import Uint8Array
    from alexnet_pipeline import LocalModel

BATCH = 16  # images that are computed at once, and so are in memory at once


def predict_command(
    images: ImagesArgument,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A checkpoint, or weights of any PyTorch program (see export).", metavar="FILE"),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="The folder of an export, or a model repository.",
            metavar="FOLDER",
            show_default=f"{DEFAULT_REPOSITORY} without --checkpoint",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="With --export: fp32, fp16 or int8.", metavar="PRECISION", show_default="the most precise"
        ),
    ] = None,
    name: NameOption = None,
    arch: ArchOption = None,
    arch_option: ArchOptionOption = None,
    key: StateDictKeyOption = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="With --checkpoint: a file of class names, or 'imagenet'.", show_default="the checkpoint's"
        ),
    ] = None,
    top: TopOption = 5,
    recursive: RecursiveOption = False,
    as_json: JsonLinesFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """Classify images without a server: with a checkpoint in PyTorch, or an export in its runtime.

    Exits with 1 if an image failed; the other images are still classified.

    Example: alexnet predict sample:digit_3 --checkpoint checkpoint.safetensors
    """
    from alexnet_clients import LineFormat, sources_from_arguments

    from .prediction_output import print_prediction
    from .screen import Rate, out

    check_one_format(as_json, as_csv)
    if checkpoint is None and export is None and DEFAULT_REPOSITORY.exists():
        export = DEFAULT_REPOSITORY
    wrong: dict[str, object] = {"--precision": precision, "--name": name} if export is None else {}
    if export is not None:
        wrong = {"--arch": arch, "--arch-option": arch_option, "--key": key, "--classes": classes}
    for option, value in wrong.items():
        if value:
            needed = "--export" if export is None else "--checkpoint"
            raise UsageError(option, got=f"no {needed}", expected=f"{option} only with {needed}")
    stdin = getattr(sys.stdin, "buffer", None)  # sys.stdin is None if it was closed
    find = partial(sources_from_arguments, images, recursive=recursive, stdin=stdin, command="predict")
    total = sum(1 for _ in find())
    failed = False
    with (
        _opened_model(
            checkpoint,
            export,
            precision=precision,
            name=name,
            arch=arch,
            arch_option=arch_option,
            key=key,
            classes=classes,
        ) as model,
        Rate("classifying", total, hidden=out.is_terminal) as rate,  # there, the results show the progress
    ):
        lines = LineFormat("csv" if as_csv else "json", min(top, len(model.class_names)))
        if as_json or as_csv:
            typer.echo(lines.header, nl=False)
        for prediction in predictions_of(model, find(), top=lines.top):
            if as_json or as_csv:
                typer.echo(lines.line(prediction, model.name), nl=False)
            else:
                print_prediction(prediction)
            failed = failed or prediction.error is not None
            rate.advance()
    if failed:
        raise typer.Exit(1)


def _opened_model(
    checkpoint: Path | None,
    export: Path | None,
    *,
    precision: str | None,
    name: str | None,
    arch: str | None,
    arch_option: list[str] | None,
    key: str | None,
    classes: str | None,
) -> AbstractContextManager[LocalModel]:
    """Return the model that the options name; it is loaded in the `with`.

    Raises:
        UsageError: neither or both of --checkpoint and --export are given, or several precisions.
    """
    if (checkpoint is None) == (export is None):
        got = "neither" if checkpoint is None else "both"
        expected = f"one of them, or {DEFAULT_REPOSITORY} in this folder"
        raise UsageError("--checkpoint and --export", got=got, expected=expected)
    precisions = precisions_from(precision) or (None,)
    if len(precisions) > 1:
        raise UsageError("--precision", got=repr(precision), expected="one precision")
    from alexnet_pipeline import model_from_checkpoint, model_from_export

    if export is not None:
        return model_from_export(export, precision=precisions[0], name=name)
    from alexnet_model.pretrained import WeightsOptions

    assert checkpoint is not None
    options = WeightsOptions(
        architecture=arch,
        options=architecture_options_from(arch_option or []),
        key=key,
        classes=classes,
    )
    return model_from_checkpoint(checkpoint, options)


def predictions_of(model: LocalModel, sources: Iterator[ImageSource], *, top: int) -> Iterator[Prediction]:
    """Yield the prediction of each image, in order; an image that cannot be read has its error in it.

    Args:
        model: A loaded model.
        sources: The images.
        top: How many classes a prediction has.
    """
    import numpy as np

    from alexnet_clients import Classification, Prediction, name_from_source
    from alexnet_model.decoding import MAX_ENCODED_BYTES

    while batch := tuple(itertools.islice(sources, BATCH)):
        prepared: list[Uint8Array | ImageError] = []
        for source in batch:
            try:
                image = source if isinstance(source, Path) else source.read(MAX_ENCODED_BYTES + 1)
                prepared.append(model.contract.prepared(image))
            except ImageError as error:
                prepared.append(error)
        readable = [each for each in prepared if not isinstance(each, ImageError)]
        rows = iter(model.runner.infer(np.stack(readable)).probabilities if readable else ())
        for source, each in zip(batch, prepared, strict=True):
            if isinstance(each, ImageError):
                yield Prediction(image=name_from_source(source), error=each)
                continue
            row = next(rows)  # (classes,)
            yield Prediction(
                image=name_from_source(source),
                classes=tuple(
                    Classification(model.class_names[index], int(index), float(row[index]))
                    for index in np.argsort(-row, kind="stable")[:top]
                ),
            )
