"""`alexnet classify --out DIR`: many images to Parquet shards, by `alexnet_pipeline.classify_in_bulk`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from alexnet_model.errors import UsageError

from .connecting import Connection
from .options import DEFAULT_REPOSITORY, model_chooser, precisions_from

if TYPE_CHECKING:
    from alexnet_pipeline import BulkModel


REQUEST_IMAGES = 64  # of a request, if the model takes as many


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """The options of `classify` that apply only with --out.

    Args:
        out: the folder of the shards.
        shards: how many files; None: one for each 10,000 images.
        in_process: compute in this process, and not on a server.
        export: the folder of an export, or a repository, for `in_process`.
        workers: processes that decode, or with `ray` actors; None: by the number of cores, or machines.
        ray: the address of a Ray cluster.
    """

    out: Path | None
    shards: int | None
    in_process: bool
    export: Path | None
    workers: int | None
    ray: str | None

    def check(self) -> None:
        """Check that the options fit together.

        Raises:
            UsageError: one of them is given without the option that it needs.
        """
        given = {"--shards": self.shards, "--in-process": self.in_process, "--workers": self.workers}
        for option, value in {**given, "--ray": self.ray}.items():
            if self.out is None and value not in (None, False):
                raise UsageError(
                    option,
                    got="no --out",
                    expected=f"{option} only with --out DIR",
                    next_step="Add --out DIR for Parquet files, or leave the option out.",
                )
        if self.export is not None and not self.in_process:
            raise UsageError(
                "--export",
                got="no --in-process",
                expected="--export only with --in-process",
                next_step="Add --in-process, or leave --export out to use a server.",
            )


def classify_to_shards(
    images: list[str],
    bulk: Bulk,
    *,
    connection: Connection,
    model: str | None,
    precision: str | None,
    name: str | None,
    top: int,
    recursive: bool,
    concurrency: int | None,
) -> None:
    """Run `alexnet classify --out DIR`.

    Args:
        images: files, folders, patterns, samples, lists (.txt) and URLs of object stores.
        bulk: the options of a bulk run.
        connection: the server.
        model: a model on the server.
        precision: instead of `model`.
        name: instead of `model`: of the export.
        top: classes of each image.
        recursive: also search subfolders.
        concurrency: requests in flight; None: 2.

    Raises:
        UsageError: options that do not fit together.
        typer.Exit: an image could not be read.
    """
    from alexnet_pipeline import bulk_model_from_export, classify_in_bulk

    from .screen import Bars, escaped, note, say

    assert bulk.out is not None
    if bulk.in_process:
        if model is not None:
            raise UsageError(
                "--model and --in-process",
                got="both",
                expected="--model only for a server",
                next_step="Choose the model of an export by --precision and --name.",
            )
        precisions = precisions_from(precision) or (None,)
        if len(precisions) > 1:
            raise UsageError(
                "--precision",
                got=repr(precision),
                expected="one precision",
                next_step="Run the command once for each precision, with different --out folders.",
            )
        folder = (bulk.export or DEFAULT_REPOSITORY).absolute()  # actors of Ray have another working folder
        opened = partial(bulk_model_from_export, folder, precision=precisions[0], name=name)
    else:
        model_chooser(model, precision, name)  # checks the options
        opened = partial(
            served_model, connection, model=model, precision=precision, name=name, in_flight=concurrency or 2
        )
    names = names_from_arguments(images, recursive=recursive)
    with Bars() as bars:
        result = classify_in_bulk(
            names,
            opened,
            bulk.out.absolute(),
            top=top,
            shards=bulk.shards,
            workers=bulk.workers,
            ray=bulk.ray,
            progress=bars,
        )
    if result.repeated:
        note(f"{result.repeated:,} images were named more than once, and classified once.")
    kept = f" ({result.kept:,} from an earlier run)" if result.kept else ""
    failed = f"; {result.errors:,} could not be read" if result.errors else ""
    say(escaped(f"{bulk.out}: {result.inputs:,} images in {result.shards:,} shards{kept}{failed}"))
    if result.errors:
        raise typer.Exit(1)


def names_from_arguments(arguments: list[str], *, recursive: bool) -> list[str]:
    """Return the names of all images that arguments name.

    Args:
        arguments: files, folders, patterns, `sample:NAME`, lists (.txt) and URLs of object stores.
        recursive: also search subfolders.

    Raises:
        UsageError: standard input, or a URL that fsspec does not know.
        DatasetError: a folder or list without an image, or a pattern without a match.
    """
    from alexnet_clients import name_from_source, sources_from_arguments
    from alexnet_pipeline import names_at_url, names_in_list
    from alexnet_pipeline.bulk_inputs import is_list, is_url

    names: list[str] = []
    for argument in arguments:
        if argument == "-":
            raise UsageError(
                "-",
                got="standard input",
                expected="files, lists or URLs with --out",
                next_step="Write the names to a file that ends in .txt, and name that file.",
            )
        if is_list(argument):
            names += names_in_list(argument)
        elif is_url(argument):
            names += names_at_url(argument, recursive=recursive)
        else:
            sources = sources_from_arguments([argument], recursive=recursive, stdin=None)
            names += map(name_from_source, sources)
    return names


@contextmanager
def served_model(
    connection: Connection, *, model: str | None, precision: str | None, name: str | None, in_flight: int
) -> Iterator[BulkModel]:
    """Connect to a server and choose its model.

    Args:
        connection: the server.
        model: the name of the model; None: by the other two.
        precision: of the model; None: the default.
        name: of the export; None: the only one.
        in_flight: how many requests are open at once.

    Raises:
        UsageError: the model decodes images itself.
        ClientError: the server or the model cannot be used.
    """
    from alexnet_pipeline import BulkModel

    with connection.client() as client:
        served = model_chooser(model, precision, name)(client)
        if served.decodes:
            raise UsageError(
                f"model {served.name}",
                got="a model that decodes images itself",
                expected="with --out one that takes pixels, such as alexnet_int8",
                next_step="Choose one by --precision or --model.",
            )
        yield BulkModel(
            name=served.name,
            contract=served.contract,
            class_names=served.labels,
            probabilities=partial(client.probabilities, model=served.name),
            batch=min(served.max_batch, REQUEST_IMAGES),
            in_flight=in_flight,
        )
