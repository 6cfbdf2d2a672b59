"""`alexnet doctor`: what each command needs, whether it is here, and the command that fixes it if not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DEFAULT_REPOSITORY, JsonFlag, RepositoryOption


def doctor_command(
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    out: Annotated[Path, typer.Option(help="Folder of the ONNX files and engines.")] = Path("build/export"),
    as_json: JsonFlag = False,
) -> None:
    """Check what each command needs on this machine, and print the fixes.

    Exits with 1 unless export, serve and classify can run.

    Example: alexnet doctor --json
    """
    from alexnet_serving import diagnose

    from .doctor_output import main_job_text, print_report
    from .screen import err, note

    with err.status("Checking packages, GPUs, Docker and engines ..."):
        report = diagnose(repository, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        print_report(report)
    if not report.main_job.runs:
        note(f"{main_job_text(report)}: does not run here yet. First fix: {report.main_job.first_fix}")
        raise typer.Exit(1)
