"""`alexnet export`: weights to checked ONNX files, engines, and a model repository."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alexnet_model.errors import UsageError
from alexnet_model.manifest import Manifest
from alexnet_model.runtimes import BUILT_IN

from .contract_options import (
    BackgroundOption,
    ColourOption,
    ContractFileOption,
    ImageSizeOption,
    InterpolationOption,
    MeanOption,
    PresetOption,
    ResizeOption,
    StdOption,
    contract_from_options,
)
from .options import (
    DEFAULT_REPOSITORY,
    NETWORK,
    ArchOption,
    ArchOptionOption,
    JsonFlag,
    RepositoryOption,
    StateDictKeyOption,
    architecture_options_from,
    precisions_from,
)

RUNTIMES = ", ".join(runtime.name for runtime in BUILT_IN if runtime.served or runtime.builder)

# Groups of options in the help.
_CHECKS = "The checks of each precision"
_RUNTIME = "What runs it, and engines"
_PACKING = "The model repository"


class BuildPlace(StrEnum):
    """Where engines are built."""

    HERE = "here"
    DOCKER = "docker"


class Compatibility(StrEnum):
    """Which other GPUs an engine must load on."""

    NONE = "none"
    SAME_COMPUTE_CAPABILITY = "same-compute-capability"
    AMPERE_PLUS = "ampere-plus"


# The values of --engine, which names a runtime and a place at once.
ENGINE_ALIASES = {
    "openvino": ("openvino", BuildPlace.HERE),
    "onnx": ("onnxruntime", BuildPlace.HERE),
    "tensorrt": ("tensorrt", BuildPlace.HERE),
    "docker": ("tensorrt", BuildPlace.DOCKER),
    "tensorrt-rtx": ("tensorrt-rtx", BuildPlace.HERE),
    "aoti": ("aoti", BuildPlace.HERE),
}


def export_command(
    weights: Annotated[
        str,
        typer.Argument(
            help="A checkpoint, weights of any PyTorch program (.pth, .pt, .bin, .ckpt, .tar, .safetensors), "
            "'imagenet' (downloads weights), or the folder of an earlier export or of a repository, to build "
            "engines from its ONNX files.",
        ),
    ],
    arch: ArchOption = None,
    arch_option: ArchOptionOption = None,
    key: StateDictKeyOption = None,
    classes: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=NETWORK,
            help="A file of class names, one a line or JSON; or 'imagenet'.",
            show_default="the checkpoint's, or the class folders of --calibration or --evaluation",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CHECKS,
            help="Comma-separated: fp32,fp16,int8.",
            show_default="all; int8 only with images",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CHECKS,
            help="'digits' or a folder: images to compute the INT8 scales from.",
            show_default="the data the checkpoint was trained on",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CHECKS,
            help="'digits' or a folder: images to measure accuracy on.",
            show_default="the test images of --calibration, or synthetic ones",
        ),
    ] = None,
    contract: ContractFileOption = None,
    preset: PresetOption = None,
    image_size: ImageSizeOption = None,
    resize: ResizeOption = None,
    interpolation: InterpolationOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    colour: ColourOption = None,
    background: BackgroundOption = None,
    max_batch: Annotated[
        int | None,
        typer.Option(rich_help_panel=_CHECKS, help="Largest batch to check and to serve.", show_default="64"),
    ] = None,
    max_top1_drop: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_CHECKS,
            help="Largest drop of top-1 accuracy, in percentage points.",
            show_default="1",
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RUNTIME,
            help=f"Runtime of the models: {RUNTIMES}, or one that another package registers. "
            "tensorrt-rtx builds without a GPU, but Triton cannot serve it. "
            "aoti compiles for this machine, and is served without Docker.",
            show_default="openvino; on a GPU without Docker and TensorRT, the faster of aoti and onnxruntime",
        ),
    ] = None,
    build: Annotated[
        BuildPlace | None,
        typer.Option(
            rich_help_panel=_RUNTIME,
            help="Where to build TensorRT engines: on this machine, or in Triton's Docker image.",
            show_default="here",
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RUNTIME,
            help="Docker image that will serve the models; with --build docker, it builds the engines too.",
            show_default="the pinned one",
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(hidden=True)] = None,
    target: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RUNTIME,
            help="GPUs to build for with tensorrt-rtx, such as sm89,sm120.",
            show_default="this machine's",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_RUNTIME,
            help="Batch sizes of the engine: MIN,OPT,MAX; tuned for OPT.",
            show_default="1,8,the largest",
        ),
    ] = None,
    hardware_compatibility: Annotated[
        Compatibility,
        typer.Option(
            rich_help_panel=_RUNTIME,
            help="Also load on other GPUs, at a cost in speed: none, ampere-plus or same-compute-capability.",
            metavar="MODE",
        ),
    ] = Compatibility.NONE,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            rich_help_panel=_RUNTIME,
            help="Also load in later TensorRT versions; costs speed.",
        ),
    ] = False,
    queue_size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_PACKING,
            help="Requests that may wait for a model; 0 means no limit.",
            show_default="four times --max-batch for engines, else 0",
        ),
    ] = None,
    encoded: Annotated[
        bool | None,
        typer.Option(
            "--encoded/--no-encoded",
            rich_help_panel=_PACKING,
            help="Add model NAME, which takes encoded images. Docker then needs this project's image.",
            show_default="on with OpenVINO, which needs that image too",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the ONNX files, engines and export.json.", show_default="build/export"),
    ] = None,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    name: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PACKING,
            help="Name of the models: flowers becomes flowers_fp32, flowers_int8 and flowers.",
            metavar="NAME",
            show_default="the architecture, or the only export of a repository",
        ),
    ] = None,
    add: Annotated[
        bool,
        typer.Option(
            "--add",
            rich_help_panel=_PACKING,
            help="Add a new name to the repository, beside the exports that it holds.",
        ),
    ] = False,
    model_version: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_PACKING,
            help="Keep the versions that the repository holds of this name, and serve this one.",
            metavar="N",
            show_default="1, which replaces them",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Export a network to ONNX (FP32, FP16, INT8), compare each with PyTorch, and pack them for Triton.

    Example: alexnet export flowers.pth --classes flowers.txt --calibration images
    """
    from alexnet_export import Tolerances, profile_from, raise_if_refused, targets_from
    from alexnet_pipeline import ExportOptions, export_model

    from .screen import Bars, note
    from .tables import print_engines, print_export

    if max_top1_drop is not None and not 0 <= max_top1_drop <= 100:
        raise UsageError("--max-top1-drop", got=f"{max_top1_drop:g}", expected="0 to 100 points")
    runtime, build = _runtime_and_build(runtime, build, engine)
    precisions = precisions_from(precision)
    options = ExportOptions(
        architecture=arch,
        architecture_options=architecture_options_from(arch_option or []),
        key=key,
        classes=classes,
        precisions=precisions,
        calibration=calibration,
        evaluation=evaluation,
        contract=contract_from_options(
            file=contract,
            preset=preset,
            image_size=image_size,
            resize=resize,
            interpolation=interpolation,
            mean=mean,
            std=std,
            colour=colour,
            background=background,
        ),
        max_batch=max_batch,
        tolerances=None if max_top1_drop is None else Tolerances(top1_drop=max_top1_drop / 100),
        runtime=runtime,
        build=build.value,
        image=image,
        targets=targets_from(target),
        profile=profile_from(profile) if profile else None,
        hardware_compatibility=hardware_compatibility.value,
        version_compatible=version_compatible,
        queue_size=queue_size,
        encoded=encoded,
        out=out,
        repository=repository,
        name=name,
        add=add,
        model_version=model_version,
    )
    with Bars() as bars:

        def show(manifest: Manifest) -> None:
            bars.stop()
            if as_json:
                typer.echo(manifest.model_dump_json(indent=2))
            else:
                print_export(manifest)
                print_engines(manifest)

        result = export_model(weights, options, progress=bars, on_checked=show)
    for sentence in result.notes:
        note(sentence)
    for reason in result.left_out:
        note(f"Left out {reason}")
    if not as_json:
        folder = f"{result.folder} and " if result.folder else ""
        note(f"Wrote {folder}{repository} ({', '.join(result.models)}).")
        if options.engine_runtime and not options.engine_runtime.served:
            note(f"The engines are in {result.folder}; {repository} has the ONNX files, which Triton loads.")
        note(f"Next: {result.next_command}")
    raise_if_refused(result.refused, precisions or ())


def _runtime_and_build(
    runtime: str | None, build: BuildPlace | None, engine: str | None
) -> tuple[str | None, BuildPlace]:
    """Return what --runtime and --build say, or their older common spelling --engine.

    Raises:
        UsageError: --engine has an unknown value, or is given beside one of the others.
    """
    if engine is None:
        return runtime, build or BuildPlace.HERE
    if runtime is not None or build is not None:
        raise UsageError("--engine", got="--runtime or --build too", expected="one or the other")
    if engine not in ENGINE_ALIASES:
        raise UsageError("--engine", got=engine, expected=f"one of {', '.join(ENGINE_ALIASES)}")
    return ENGINE_ALIASES[engine]
