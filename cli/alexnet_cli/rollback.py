"""`alexnet rollback`: serve an older version of an export again."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from .options import DEFAULT_REPOSITORY, RepositoryOption


def rollback_command(
    name: Annotated[str, typer.Argument(help="Name of the export, such as flowers.")],
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    to: Annotated[
        int | None,
        typer.Option("--to", help="Version to serve.", metavar="N", show_default="the next lower version"),
    ] = None,
) -> None:
    """Serve the version of an export before the one that is served now.

    No version is removed. Configurations and labels change to those of the
    version that is served. A running server has to be started again.

    Example: alexnet rollback flowers --repository model_repository
    """
    from alexnet_serving import rollback

    from .screen import note, say

    before, now = rollback(repository, name, to=to)
    say(f"{name}: version {before} -> version {now}")
    note(f"Next: alexnet serve --repository {shlex.quote(str(repository))}")
