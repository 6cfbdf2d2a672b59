"""`alexnet lint`: whether a repository is still as it was exported."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag


def lint_command(
    repository: Annotated[Path, typer.Argument(help="The Triton model repository.")] = Path(
        "model_repository"
    ),
    hashes: Annotated[
        bool, typer.Option("--hashes/--no-hashes", help="Also check the hashes of the large files.")
    ] = True,
    image: Annotated[
        str | None,
        typer.Option(help="Docker image that will serve the repository.", show_default="the pinned one"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare every file of a model repository with its export record.

    Exits with 1 if a file differs.

    Example: alexnet lint model_repository
    """
    from alexnet_model.docker import known_release_of_image
    from alexnet_model.triton_image import TRITON_IMAGE
    from alexnet_serving import lint, raise_if_findings

    from .screen import Bars, in_megabytes, say

    release = known_release_of_image(image) if image else None
    with Bars() as bars:
        findings = lint(repository, hashes=hashes, triton_release=release, progress=in_megabytes(bars))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            say(str(finding))
    raise_if_findings(repository, findings, shown=True, image=image or TRITON_IMAGE)
    if not as_json:
        models = len(list(repository.glob("*/config.pbtxt")))
        say(f"{repository}: {models} model{'' if models == 1 else 's'}, no findings")
