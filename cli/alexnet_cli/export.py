"""`alexnet export`: a checkpoint to proved ONNX files, engines, and a model repository."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from alexnet_model.errors import UsageError

from .earlier import manifest_of_earlier, out_of_earlier
from .options import JsonFlag, RepositoryOption, precisions_from


class EngineChoice(StrEnum):
    """What runs the models: two runtimes for the ONNX files, and three ways to an engine."""

    OPENVINO = "openvino"
    ONNX = "onnx"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    DOCKER = "docker"


class Compatibility(StrEnum):
    """Which other GPUs an engine must load on."""

    NONE = "none"
    SAME_COMPUTE_CAPABILITY = "same-compute-capability"
    AMPERE_PLUS = "ampere-plus"


# What Triton loads instead of the ONNX file.
PLANS = (EngineChoice.TENSORRT, EngineChoice.DOCKER)


def export_command(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A .safetensors checkpoint, a torchvision .pth, 'imagenet' (downloads), or the folder of an "
            "earlier export or a repository, to build engines from its ONNX files.",
        ),
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
    max_batch: Annotated[
        int | None, typer.Option(help="Largest batch to prove and to serve.", show_default="64")
    ] = None,
    max_top1_drop: Annotated[
        float | None,
        typer.Option(help="Points of top-1 accuracy that a precision may lose.", show_default="1"),
    ] = None,
    engine: Annotated[
        EngineChoice,
        typer.Option(
            help="What runs the models: the ONNX files on a CPU (openvino) or GPU (onnx); engines built here "
            "(tensorrt) or by the image that serves them (docker); tensorrt-rtx needs no GPU, and Triton "
            "does not serve it.",
        ),
    ] = EngineChoice.OPENVINO,
    target: Annotated[
        str | None,
        typer.Option(
            help="GPUs that tensorrt-rtx builds for, such as sm89,sm120.", show_default="this machine's"
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Batches of the engine: MIN,OPT,MAX; it is tuned for OPT.", show_default="1,8,the largest"
        ),
    ] = None,
    hardware_compatibility: Annotated[
        Compatibility, typer.Option(help="Other GPUs that the engine must load on; costs speed.")
    ] = Compatibility.NONE,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Load in later TensorRT too; costs speed."),
    ] = False,
    queue_size: Annotated[
        int | None,
        typer.Option(
            help="Requests that may wait for a model; 0 is no limit (docs/decisions/queue.md).",
            show_default="four full batches for engines, else 0",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX files, engines and export.json.")] = Path(
        "build/export"
    ),
    repository: RepositoryOption = Path("model_repository"),
    as_json: JsonFlag = False,
) -> None:
    """Convert a checkpoint to ONNX in FP32, FP16 and INT8, prove each the same model, pack for Triton.

    Example: alexnet export checkpoint.safetensors --precision fp32,int8 --calibration digits
    """
    from alexnet_export.compiling import compile_engines
    from alexnet_export.datasets import data_trained_on
    from alexnet_export.engines.options import EngineKind, EngineOptions, profile_from, targets_from
    from alexnet_export.engines.workshops import workshops_from
    from alexnet_export.gate import Tolerances
    from alexnet_export.pipeline import ExportOptions, export, raise_if_refused
    from alexnet_model.pretrained import checkpoint_from
    from alexnet_serving import RepositoryOptions, refuse_foreign_repository, write_repository
    from alexnet_serving.places import places_of_image

    from .screen import Bars, note
    from .tables import print_engines, print_export

    if max_top1_drop is not None and not 0 <= max_top1_drop <= 100:
        raise UsageError("--max-top1-drop", got=f"{max_top1_drop:g}", expected="0 to 100 points")
    earlier = Path(checkpoint) if Path(checkpoint).is_dir() else None
    if earlier is not None:
        only_for_checkpoints = {
            "--calibration": calibration,
            "--evaluation": evaluation,
            "--max-batch": max_batch,
            "--max-top1-drop": max_top1_drop,
            "--engine onnx": True if engine is EngineChoice.ONNX else None,
        }
        out = out_of_earlier(earlier, out, only_for_checkpoints)
    if out.resolve().is_relative_to(repository.resolve()) or repository.resolve().is_relative_to(
        out.resolve()
    ):
        raise UsageError(
            "--out and --repository",
            got=f"{out} and {repository}",
            expected="two folders, neither inside the other",
        )
    precisions = precisions_from(precision)
    packing = RepositoryOptions(backend="tensorrt" if engine in PLANS else "onnx", queue_size=queue_size)
    building = None
    if engine.value in get_args(EngineKind):
        building = EngineOptions(
            kind=cast("EngineKind", engine.value),
            profile=profile_from(profile) if profile else None,
            targets=targets_from(target),
            hardware_compatibility=hardware_compatibility.value,
            version_compatible=version_compatible,
        )
    elif target or profile:
        raise UsageError(
            "--target" if target else "--profile",
            got=f"it with --engine {engine.value}",
            expected="an engine to build",
            next_step="Add --engine tensorrt, docker or tensorrt-rtx.",
        )
    refuse_foreign_repository(repository)
    if building and max_batch is not None:
        building.profile_to(max_batch)
    # What would fail after minutes fails now: no GPU, no Docker, no library, a target unheard of.
    workshops = workshops_from(building) if building else ()

    with Bars() as bars:
        if earlier is not None:
            manifest = manifest_of_earlier(earlier, out)
        else:
            loaded = checkpoint_from(checkpoint)
            options = ExportOptions(
                precisions=precisions,
                calibration=calibration or data_trained_on(loaded),
                evaluation=evaluation,
                max_batch=64 if max_batch is None else max_batch,
                runtime="onnxruntime" if engine is EngineChoice.ONNX else "openvino",
                tolerances=Tolerances(top1_drop=0.01 if max_top1_drop is None else max_top1_drop / 100),
            )
            manifest = export(loaded, out, options, progress=bars)
        if building:
            manifest = compile_engines(
                out, building, precisions=precisions, workshops=workshops, progress=bars
            )
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
    else:
        print_export(manifest)
        print_engines(manifest)
    places = places_of_image() if engine in PLANS else ()
    models = write_repository(manifest, out, repository, packing, places=places)
    if not as_json:
        note(f"Wrote {out} and {repository} ({', '.join(models)}).")
        if engine is EngineChoice.TENSORRT_RTX:
            note(f"The engines are in {out}; Triton loads none of RTX, so {repository} has the ONNX files.")
        note(f"Next: alexnet serve --repository {repository}")
    raise_if_refused(manifest, precisions or ())
