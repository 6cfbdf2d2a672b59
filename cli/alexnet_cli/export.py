"""`alexnet export`: a checkpoint to proved ONNX files and a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonFlag, RepositoryOption, precisions_from


def export_command(
    checkpoint: Annotated[
        str, typer.Argument(help="A .safetensors checkpoint, a torchvision .pth, or 'imagenet' (downloads).")
    ],
    precision: Annotated[
        str | None,
        typer.Option(help="Some of fp32,fp16,int8.", show_default="all; int8 only with pictures"),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="'digits' or a folder: pictures that choose the INT8 scales.",
            show_default="the data the checkpoint was trained on",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            help="'digits' or a folder: held-out pictures.", show_default="the held-out part of --calibration"
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Largest batch to prove and to serve.")] = 64,
    max_top1_drop: Annotated[
        float, typer.Option(help="Points of top-1 accuracy that a precision may lose.")
    ] = 1.0,
    queue_size: Annotated[
        int, typer.Option(help="Requests that may wait for a model; 0 is no limit (docs/decisions/queue.md).")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX files and export.json.")] = Path(
        "build/export"
    ),
    repository: RepositoryOption = Path("model_repository"),
    as_json: JsonFlag = False,
) -> None:
    """Convert a checkpoint to ONNX in FP32, FP16 and INT8, prove each the same model, pack for Triton.

    Example: alexnet export checkpoint.safetensors --precision fp32,int8 --calibration digits
    """
    from alexnet_export.datasets import data_trained_on
    from alexnet_export.gate import Tolerances
    from alexnet_export.pipeline import ExportOptions, export, raise_if_refused
    from alexnet_model.errors import UsageError
    from alexnet_model.pretrained import checkpoint_from
    from alexnet_serving import RepositoryOptions, refuse_foreign_repository, write_repository

    from .screen import Bars, note
    from .tables import print_export

    if not 0 <= max_top1_drop <= 100:
        raise UsageError("--max-top1-drop", got=f"{max_top1_drop:g}", expected="0 to 100 points")
    if out.resolve().is_relative_to(repository.resolve()) or repository.resolve().is_relative_to(
        out.resolve()
    ):
        raise UsageError(
            "--out and --repository",
            got=f"{out} and {repository}",
            expected="two folders, neither inside the other",
        )
    precisions = precisions_from(precision)
    packing = RepositoryOptions(queue_size=queue_size)
    refuse_foreign_repository(repository)
    loaded = checkpoint_from(checkpoint)
    options = ExportOptions(
        precisions=precisions,
        calibration=calibration or data_trained_on(loaded),
        evaluation=evaluation,
        max_batch=max_batch,
        tolerances=Tolerances(top1_drop=max_top1_drop / 100),
    )
    with Bars() as bars:
        manifest = export(loaded, out, options, progress=bars)
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
    else:
        print_export(manifest)
    models = write_repository(manifest, out, repository, packing)
    if not as_json:
        note(f"Wrote {out} and {repository} ({', '.join(models)}).")
        note(f"Next: alexnet serve --repository {repository}")
    raise_if_refused(manifest, precisions or ())
