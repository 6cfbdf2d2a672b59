"""`alexnet doctor`: what each command needs, whether it is here, and the command that mends it if not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, RepositoryOption


def doctor_command(
    repository: RepositoryOption = Path("model_repository"),
    out: Annotated[Path, typer.Option(help="Folder of the ONNX files and engines.")] = Path("build/export"),
    as_json: JsonFlag = False,
) -> None:
    """Check this machine: what each command needs, and what mends it. Exits 1 unless export to classify runs.

    Example: alexnet doctor --json
    """
    from alexnet_serving import examine

    from .examination import main_job_in_words, print_examination
    from .screen import err, note

    with err.status("Looking at packages, GPUs, Docker and engines ..."):
        found = examine(repository, out)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_examination(found)
    if not found.main_job.runs:
        note(f"{main_job_in_words(found)}: does not run here yet. First: {found.main_job.first_mend}")
        raise typer.Exit(1)
