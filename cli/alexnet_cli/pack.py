"""`alexnet pack`: a model repository as an OCI image."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def pack_command(
    repository: Annotated[Path, typer.Argument(help="The Triton model repository.")] = Path(
        "model_repository"
    ),
    context: Annotated[
        Path, typer.Option("--image-context", help="Folder to write, for docker build.", metavar="DIR")
    ] = Path("image"),
) -> None:
    """Write what `docker build` needs for an image with the models of a repository.

    A cluster distributes models as such an image (docs/scale.md). The
    repository is compared with its record first.

    Example: alexnet pack model_repository --image-context image
    """
    from alexnet_serving import lint, raise_if_findings, write_image_context

    from .screen import Bars, in_megabytes, note, say

    with Bars() as bars:
        raise_if_findings(repository, lint(repository, progress=in_megabytes(bars)))
    models = write_image_context(repository, context)
    say(f"{context}: {', '.join(models)}")
    note(f"Next: docker build --tag registry.example/alexnet-models:1 {shlex.quote(str(context))}")
