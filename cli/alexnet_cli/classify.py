"""`alexnet classify`: images in, class names out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import Unreachable, UnreadableImage, UsageError

from .bulk import Bulk, classify_to_shards
from .connecting import (
    DEFAULT_URL,
    CaOption,
    CertOption,
    Connection,
    HeaderOption,
    KeyOption,
    TimeoutOption,
    UrlsOption,
)
from .options import (
    CsvFlag,
    JsonLinesFlag,
    RecursiveOption,
    TopOption,
    check_one_format,
    model_chooser,
)

if TYPE_CHECKING:
    from alexnet_clients import ImageSource, Prediction

_BULK = "Many images"


def classify_command(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, patterns ('images/**/*.jpg'), - for standard input, or sample:NAME for an "
            "image of this package: digit_3, digit_5, digit_8, china or flower. With --out also lists "
            "(.txt) with one path or URL a line, and URLs such as s3://bucket/images.",
            metavar="IMAGE...",
        ),
    ],
    url: UrlsOption = DEFAULT_URL,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model on the server, such as alexnet_int8; or alexnet, which decodes images there.",
            show_default="the export that is served, in its default precision",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Instead of --model: fp32, fp16 or int8.", metavar="PRECISION")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Instead of --model: name of the export.", metavar="NAME", show_default="the only one"
        ),
    ] = None,
    top: TopOption = 5,
    recursive: RecursiveOption = False,
    as_json: JsonLinesFlag = False,
    as_csv: CsvFlag = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file: JSON lines, or CSV with --csv."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the --output file; skip images that it has results for."),
    ] = False,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Requests in flight at a time.", show_default="2 batches"),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write Parquet files to this folder, for many images; the same command continues a run "
            "that did not finish.",
            metavar="FOLDER",
            rich_help_panel=_BULK,
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=99_999,
            help="How many files.",
            show_default="one for each 10,000 images",
            rich_help_panel=_BULK,
        ),
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process", help="Compute in this process, without a server.", rich_help_panel=_BULK
        ),
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="With --in-process: the folder of an export, or a model repository.",
            metavar="FOLDER",
            show_default="model_repository",
            rich_help_panel=_BULK,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            help="Processes that decode images, 0 for threads. With --ray: actors, each with its own model.",
            show_default="one for each core, but threads on up to 4; with --ray one for each machine",
            rich_help_panel=_BULK,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Use a Ray cluster: its address, auto, or local to start one here.",
            metavar="ADDRESS",
            rich_help_panel=_BULK,
        ),
    ] = None,
    timeout_s: TimeoutOption = 30,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    header: HeaderOption = None,
) -> None:
    """Classify images on a running server.

    Exits with 1 if an image failed; the other images are still classified.

    Example: alexnet classify sample:digit_3 images/ -r --output results.jsonl
    """
    bulk = Bulk(out=out_folder, shards=shards, in_process=in_process, export=export, workers=workers, ray=ray)
    bulk.check()
    connection = Connection(url=url, timeout_s=timeout_s, ca=ca, cert=cert, key=key, headers=header)
    if bulk.out is not None:
        for option, value in {
            "--json": as_json,
            "--csv": as_csv,
            "--output": output,
            "--resume": resume,
        }.items():
            if value:
                next_step = (
                    "It is the default." if option == "--resume" else "The Parquet files have all results."
                )
                raise UsageError(
                    f"{option} and --out", got="both", expected="one of them", next_step=next_step
                )
        classify_to_shards(
            images,
            bulk,
            connection=connection,
            model=model,
            precision=precision,
            name=name,
            top=top,
            recursive=recursive,
            concurrency=concurrency,
        )
        return
    from alexnet_clients import LineFormat, ResultFile, sources_from_arguments

    from .prediction_output import print_prediction
    from .screen import Rate, escaped, note, out

    check_one_format(as_json, as_csv)
    if resume and output is None:
        raise UsageError("--resume", got="no --output to continue", expected="--output FILE too")
    choose = model_chooser(model, precision, name)
    stdin = getattr(sys.stdin, "buffer", None)  # sys.stdin is None if it was closed
    find = partial(sources_from_arguments, images, recursive=recursive, stdin=stdin)
    sources = find()  # checks the arguments before connecting
    with ExitStack() as opened:
        made = connection.client()
        opened.callback(made.close)
        if output is None and not (as_json or as_csv):
            _check_any_image(images)
        client = opened.enter_context(made)
        chosen = choose(client)
        served = chosen.name
        if model is None:
            note(f"Model: {served}")
        lines = LineFormat("csv" if as_csv else "json", min(top, chosen.classes))
        done: Counter[str] = Counter()
        failed = 0
        show: Callable[[Prediction], object]
        file = ResultFile(output, lines, served, resume) if output is not None else None
        if file is not None:
            done, failed, show = file.done, file.failed, file.write
        elif as_json or as_csv:
            show = lambda prediction: typer.echo(lines.line(prediction, served), nl=False)  # noqa: E731
        else:
            show = print_prediction
        total = sum(1 for _ in _not_done(find(), done))
        if file is not None:
            opened.enter_context(file)  # only after the images were found
            if done:
                note(escaped(f"{output} has {done.total()} results; continuing."))
        elif as_json or as_csv:
            typer.echo(lines.header, nl=False)
        rate = opened.enter_context(Rate("classifying", total, hidden=file is None and out.is_terminal))
        pending = _not_done(sources, done)
        for prediction in client.classify_each(pending, model=served, top=top, in_flight=concurrency):
            if isinstance(prediction.error, Unreachable):
                raise prediction.error  # the other images would fail too
            show(prediction)
            failed += prediction.error is not None
            rate.advance()
    if failed:
        raise typer.Exit(1)


def _check_any_image(arguments: list[str]) -> None:
    """Report a missing file before a server that cannot be reached.

    Raises:
        UnreadableImage: no argument names anything that exists.
    """
    from alexnet_clients import may_name_images

    if not any(map(may_name_images, arguments)):
        raise UnreadableImage(
            arguments[0], got="no such file", expected="an image file", next_step="Check the path."
        )


def _not_done(sources: Iterable[ImageSource], done: Counter[str]) -> Iterator[ImageSource]:
    """Leave out images with results. An image that is named twice needs two results."""
    from alexnet_clients import name_from_source

    left = done.copy()
    for source in sources:
        name = name_from_source(source)
        if left[name]:
            left[name] -= 1
        else:
            yield source
