"""`alexnet export`: a checkpoint to proved ONNX files, engines, and a model repository."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import UsageError

from .earlier import EngineChoice, folder_of_earlier, manifest_of_earlier
from .options import JsonFlag, RepositoryOption, precisions_from

if TYPE_CHECKING:
    from alexnet_export import EngineOptions


class Compatibility(StrEnum):
    """Which other GPUs an engine must load on."""

    NONE = "none"
    SAME_COMPUTE_CAPABILITY = "same-compute-capability"
    AMPERE_PLUS = "ampere-plus"


DEFAULT_MAX_BATCH = 64
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
        typer.Option(help="Some of fp32,fp16,int8.", show_default="all; int8 only with images"),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="'digits' or a folder: images that choose the INT8 scales.",
            show_default="the data the checkpoint was trained on",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            help="'digits' or a folder: held-out images.", show_default="the held-out part of --calibration"
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
        EngineChoice | None,
        typer.Option(
            help="What runs the models: the ONNX files on a CPU (openvino) or GPU (onnx); engines built here "
            "(tensorrt) or by the image that serves them (docker); tensorrt-rtx needs no GPU, and Triton "
            "does not serve it.",
            show_default="openvino",
        ),
    ] = None,
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
            show_default="four times --max-batch for engines, else 0",
        ),
    ] = None,
    encoded: Annotated[
        bool | None,
        typer.Option(
            "--encoded/--no-encoded",
            help="Pack `alexnet` too, which takes encoded images; in Docker it needs our own image.",
            show_default="where OpenVINO, in that image too, serves",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the ONNX files, engines and export.json.", show_default="build/export"),
    ] = None,
    repository: RepositoryOption = Path("model_repository"),
    as_json: JsonFlag = False,
) -> None:
    """Convert a checkpoint to ONNX in FP32, FP16 and INT8, prove each the same model, pack for Triton.

    Example: alexnet export checkpoint.safetensors --precision fp32,int8 --calibration digits
    """
    from alexnet_export import OnnxOptions, Tolerances, build_engines, data_trained_on, export_onnx
    from alexnet_export.engine_export import builders_from, raise_if_engine_refused
    from alexnet_export.onnx_export import raise_if_refused
    from alexnet_model.pretrained import checkpoint_from
    from alexnet_serving import (
        RepositoryOptions,
        refuse_foreign_repository,
        targets_of_image,
        write_repository,
    )

    from .screen import Bars, note
    from .tables import print_engines, print_export

    if max_top1_drop is not None and not 0 <= max_top1_drop <= 100:
        raise UsageError("--max-top1-drop", got=f"{max_top1_drop:g}", expected="0 to 100 points")
    precisions = precisions_from(precision)
    packing = RepositoryOptions(
        backend="tensorrt" if engine in PLANS else "onnx",
        queue_size=queue_size,
        queue_timeout_s=0.0 if queue_size == 0 else None,  # no limit is none in time either
        encoded=encoded,
    )
    building = _engine_options(engine, target, profile, hardware_compatibility, version_compatible)

    with ExitStack() as done:
        earlier = Path(checkpoint) if Path(checkpoint).is_dir() else None
        if earlier is not None:
            only_for_checkpoints = {
                "--calibration": calibration,
                "--evaluation": evaluation,
                "--max-batch": max_batch,
                "--max-top1-drop": max_top1_drop,
            }
            folder = done.enter_context(folder_of_earlier(earlier, out, engine, only_for_checkpoints))
        else:
            folder = out or Path("build/export")
        _check_apart(folder, repository)
        refuse_foreign_repository(repository)
        # What would fail after minutes fails now: no GPU, no Docker, an image that loads no such engine.
        if building and earlier is None:
            building.profile_to(DEFAULT_MAX_BATCH if max_batch is None else max_batch)
        builders = builders_from(building) if building else ()

        bars = done.enter_context(Bars())
        if earlier is not None:
            manifest = manifest_of_earlier(earlier, folder)
        else:
            loaded = checkpoint_from(checkpoint)
            options = OnnxOptions(
                precisions=precisions,
                calibration=calibration or data_trained_on(loaded),
                evaluation=evaluation,
                max_batch=DEFAULT_MAX_BATCH if max_batch is None else max_batch,
                runtime="onnxruntime" if engine is EngineChoice.ONNX else "openvino",
                tolerances=Tolerances(top1_drop=0.01 if max_top1_drop is None else max_top1_drop / 100),
            )
            manifest = export_onnx(loaded, folder, options, progress=bars)
        if building:
            manifest = build_engines(
                folder, building, precisions=precisions, builders=builders, progress=bars
            )
        bars.stop()
        if as_json:
            typer.echo(manifest.model_dump_json(indent=2))
        else:
            print_export(manifest)
            print_engines(manifest)
        targets = targets_of_image() if engine in PLANS else ()
        models = write_repository(manifest, folder, repository, packing, targets=targets)
        if not as_json:
            kept = "" if earlier and folder != earlier and out is None else f"{folder} and "
            note(f"Wrote {kept}{repository} ({', '.join(models)}).")
            if engine is EngineChoice.TENSORRT_RTX:
                note(f"The engines are in {folder}; {repository} has the ONNX files, which Triton loads.")
            note(f"Next: alexnet serve --repository {repository}")
        raise_if_refused(manifest, precisions or ())
        if precisions:
            raise_if_engine_refused(manifest, builders)


def _engine_options(
    engine: EngineChoice | None,
    target: str | None,
    profile: str | None,
    hardware_compatibility: Compatibility,
    version_compatible: bool,
) -> EngineOptions | None:
    """None where no engine is to be built.

    Raises:
        UsageError: options that cannot be, or that are for engines alone.
    """
    from alexnet_export import EngineOptions
    from alexnet_export.engines.options import profile_from, targets_from

    if engine in (*PLANS, EngineChoice.TENSORRT_RTX):
        return EngineOptions(
            runtime="tensorrt-rtx" if engine is EngineChoice.TENSORRT_RTX else "tensorrt",
            build="docker" if engine is EngineChoice.DOCKER else "here",
            profile=profile_from(profile) if profile else None,
            targets=targets_from(target),
            hardware_compatibility=hardware_compatibility.value,
            version_compatible=version_compatible,
        )
    only_for_engines = {
        "--target": target,
        "--profile": profile,
        "--hardware-compatibility": hardware_compatibility is not Compatibility.NONE,
        "--version-compatible": version_compatible,
    }
    for name, value in only_for_engines.items():
        if value:
            raise UsageError(
                name,
                got=f"it with --engine {(engine or EngineChoice.OPENVINO).value}",
                expected="an engine to build",
                next_step="Add --engine tensorrt, docker or tensorrt-rtx.",
            )
    return None


def _check_apart(out: Path, repository: Path) -> None:
    one, other = out.resolve(), repository.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(
            "--out and --repository",
            got=f"{out} and {repository}",
            expected="two folders, neither inside the other",
        )
