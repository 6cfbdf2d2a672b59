"""`export_model`: everything that `alexnet export` does, as one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from alexnet_export import (
    EngineBuilder,
    OnnxOptions,
    Refusal,
    Tolerances,
    build_engines,
    builders_from,
    data_trained_on,
    engine_file_name,
    export_onnx,
    refusals_of,
    refuse_foreign_export,
    refuse_unbuildable,
)
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.datasets import refuse_missing
from alexnet_model.docker import known_release_of_image
from alexnet_model.errors import ExportError, ManifestError, RepositoryError, UsageError, os_errors_as
from alexnet_model.files import atomic_directory, check_writable, restore_interrupted
from alexnet_model.manifest import MANIFEST_NAME, Manifest, manifest_from_folder
from alexnet_model.model_names import default_name
from alexnet_model.pretrained import checkpoint_from
from alexnet_model.progress import Progress, silent
from alexnet_model.records import PRECISIONS, Precision
from alexnet_serving import (
    EngineTarget,
    Replaced,
    index_of,
    is_repository,
    names_of_records,
    packed_export,
    refuse_foreign_repository,
    targets_for,
    unpack_repository,
    write_repository,
)

from .export_options import DEFAULT_RUNTIME, ExportOptions
from .gpu_runtime import (
    AOTI,
    ONNXRUNTIME,
    device_of_onnxruntime,
    runtimes_to_measure,
    with_fastest_runtime,
)
from .repository_engines import unpacked_export

if TYPE_CHECKING:
    from torch import nn

DEFAULT_FOLDER = Path("build/export")
_BYTES_PER_WEIGHT: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class ExportResult:
    """What `export_model` made.

    Attributes:
        manifest: The record of the export.
        folder: The folder with the ONNX files and engines; None if it was temporary.
        repository: The model repository that was written.
        models: The names of all models in it.
        refused: What the gate refused. It is not in the repository.
        notes: Sentences about what was chosen or converted in the weights.
        left_out: Why engines of the repository that was exported from were not taken along.
        next_command: The command that serves the repository.
    """

    manifest: Manifest
    folder: Path | None
    repository: Path
    models: tuple[str, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    next_command: str


def export_model(
    source: str | Path | Checkpoint | nn.Module,
    options: ExportOptions | None = None,
    *,
    progress: Progress = silent,
    on_checked: Callable[[Manifest], None] = lambda _: None,
) -> ExportResult:
    """Export a network to ONNX files, check them by the gate, build engines, and write a model repository.

    Invalid options, folders with other files or without space, and a missing GPU or image are found before
    any slow work starts. The repository and the export folder are replaced as a whole.

    On a machine with a GPU but neither Docker nor TensorRT, a checkpoint that is exported without naming a
    runtime is compiled with AOTInductor and measured, and the fastest runtime serves (`gpu_runtime.py`).

        result = export_model("checkpoint.safetensors", ExportOptions(calibration="digits"))
        print(result.models)
        export_model(module, ExportOptions(classes=("cat", "dog"), calibration="images"))

    Args:
        source: A network, a file of weights or a checkpoint (`alexnet_model.checkpoint_from` lists the
            formats), `imagenet` (downloads weights), or the folder of an earlier export or of a repository,
            whose ONNX files are used again. Of a repository with several exports, `options.name` says which.
        options: How to export. None: the defaults.
        progress: Called with the progress of each stage.
        on_checked: Called with the record when the gate has decided, before the repository is written.

    Raises:
        UsageError: options are invalid, or do not go with this source.
        CheckpointError, DatasetError, CalibrationError: weights or images cannot be used.
        ExportError: a conversion failed, or `out` holds files that no export wrote or cannot be written.
        EngineError, DockerError, MissingExtra: engines cannot be built here.
        ManifestError: files of the earlier export are missing or altered.
        RepositoryError: the gate accepted nothing, or the repository cannot be written.
        EngineRefused: the server on this machine would not load an engine.
        OSError: a folder cannot be written.
    """
    options = options or ExportOptions()
    notes: list[str] = []
    left_out: list[str] = []

    def leave_out(error: ManifestError) -> None:
        left_out.append(str(error))

    with ExitStack() as opened:
        if isinstance(source, str | Path):
            restore_interrupted(Path(source))
        earlier = Path(source) if isinstance(source, str | Path) and Path(source).is_dir() else None
        unpacked = earlier is not None and is_repository(earlier)
        recorded = None if earlier is None else _recorded_export(earlier, options)
        folder = options.out if unpacked else earlier or options.out or DEFAULT_FOLDER
        if folder is not None:
            _check_apart(folder, options.repository)
        _check_folders(folder, options.repository)
        if folder is not None and folder != earlier:
            refuse_foreign_export(folder)
        refuse_foreign_repository(options.repository)
        engine_options = options.engine_options
        if engine_options:
            max_batch = recorded.max_batch if recorded else options.max_batch_or_default
            engine_options.profile_to(max_batch)
        builders = builders_from(engine_options) if engine_options else ()
        refuse_unbuildable(builders, options.precisions or ())
        triton_release = known_release_of_image(options.image) if options.image else None
        to_measure, device = None, None
        if recorded is None:
            to_measure, sentences = runtimes_to_measure(options)
            notes += sentences
            if to_measure and to_measure.has_onnxruntime:
                options, device = replace(options, runtime=ONNXRUNTIME), to_measure.device
            elif options.runtime == ONNXRUNTIME:
                device, sentence = device_of_onnxruntime()
                notes += [sentence] if sentence else []

        if recorded is None:
            assert folder is not None
            for images in filter(None, (options.calibration, options.evaluation)):
                refuse_missing(images)  # before weights are read or downloaded
            checkpoint = checkpoint_from(source, options.weights_options, note=notes.append)
            name = options.name or default_name(checkpoint.architecture)
            replaced = _replaced_by(name, options.model_version_or_default, options)
            _check_folders(folder, options.repository, needed_bytes=_size_of_export(checkpoint, options))
            onnx_options = _onnx_options(checkpoint, options)
            manifest = export_onnx(checkpoint, folder, onnx_options, device=device, progress=progress)
        else:
            version = options.model_version or recorded.model_version
            replaced = _replaced_by(recorded.model.name, version, options, is_earlier=True)
            manifest = recorded
        if unpacked and earlier is not None:
            if folder is None:
                folder = opened.enter_context(unpacked_export(earlier, options.name, left_out=leave_out))
            else:
                with atomic_directory(folder, record=MANIFEST_NAME) as staged:
                    unpack_repository(earlier, staged, name=options.name, left_out=leave_out)
        assert folder is not None
        if engine_options:
            manifest = build_engines(
                folder, engine_options, precisions=options.precisions, builders=builders, progress=progress
            )
        elif earlier is not None:
            manifest = manifest_from_folder(folder)
        if to_measure:
            manifest, sentences = with_fastest_runtime(
                manifest, folder, to_measure, options, progress=progress
            )
            notes += sentences
            if manifest.runtime_choice and manifest.runtime_choice.runtime == AOTI:
                options, builders = replace(options, runtime=AOTI), to_measure.builders
        if options.model_version is not None:
            manifest = manifest.model_copy(update={"model_version": options.model_version})
        on_checked(manifest)
        notes += _notes_on_evaluation(manifest)
        for precision, reason in _not_built(manifest, builders, options).items():
            notes.append(f"No engine in {precision.upper()}: {reason}.")

        targets = (
            targets_for(options.engine_runtime, options.image_or_default) if options.serves_engines else ()
        )
        if any(isinstance(target, EngineTarget) and target.tensorrt_version is None for target in targets):
            notes.append(
                "The TensorRT version of the engines was not compared with that of "
                f"{options.image_or_default}, which is not on this machine. `alexnet serve` compares them "
                "before it starts."
            )
        notes += _notes_on_replaced(manifest.model.name, options.repository, replaced)
        models = write_repository(
            manifest,
            folder,
            options.repository,
            replace(options.repository_options, triton_release=triton_release),
            targets=targets,
            replace=replaced,
        )
        built = {engine_file_name(a, builder) for a in manifest.artifacts for builder in builders}
        return ExportResult(
            manifest=manifest,
            folder=None if unpacked and options.out is None else folder,
            repository=options.repository,
            models=models,
            refused=refusals_of(manifest, built),
            notes=tuple(notes),
            left_out=tuple(left_out),
            next_command=f"alexnet serve --repository {quote(str(options.repository))}",
        )


def _not_built(
    manifest: Manifest, builders: Sequence[EngineBuilder], options: ExportOptions
) -> dict[Precision, str]:
    """Return why accepted precisions have no engine."""
    return {
        artifact.precision: builder.not_built[artifact.precision]
        for artifact in manifest.accepted
        for builder in builders
        if artifact.precision in builder.not_built
        and artifact.precision in (options.precisions or PRECISIONS)
    }


def _onnx_options(checkpoint: Checkpoint, options: ExportOptions) -> OnnxOptions:
    """The ONNX files of an engine are measured and recorded on the default runtime."""
    engines = options.engine_runtime is not None
    return OnnxOptions(
        precisions=options.precisions,
        calibration=options.calibration or data_trained_on(checkpoint),
        evaluation=options.evaluation,
        max_batch=options.max_batch_or_default,
        runtime=DEFAULT_RUNTIME if engines or options.runtime is None else options.runtime,
        tolerances=options.tolerances or Tolerances(),
        name=options.name,
        model_version=options.model_version_or_default,
    )


def _replaced_by(name: str, version: int, options: ExportOptions, *, is_earlier: bool = False) -> Replaced:
    """Return what an export takes the place of in the repository that it is written to.

    Args:
        name: The name of the export.
        version: The version that is written.
        options: Its options.
        is_earlier: Whether an earlier export or repository is packed again; it replaces its own version only.

    Raises:
        UsageError: `add` with a name that the repository holds, a version that is not above the older ones,
            or several other exports that would be lost.
        ManifestError: the index of the repository is needed and broken, or it is of an older version and so
            has none.
    """
    repository = options.repository
    needs_index = options.add or options.model_version is not None
    if not is_repository(repository) and not (needs_index and (repository / MANIFEST_NAME).is_file()):
        return "repository"
    try:
        exports = index_of(repository).exports
    except ManifestError:
        if needs_index or len(names_of_records(repository)) > 1:
            raise
        return "repository"  # nothing else can be lost
    if name in exports:
        versions = exports[name].versions
        newest = max(versions)
        if options.add:
            raise UsageError(
                "add",
                got=f"{name}, which {repository} holds already",
                expected="a new name",
                next_step="Leave --add out to replace it. "
                f"To keep it as an older version, pass --model-version {newest + 1} instead.",
            )
        if options.model_version is not None and version <= newest:
            raise UsageError(
                "model version",
                got=str(version),
                expected=f"{newest + 1} or more: {repository} holds {name} version {newest}",
                next_step=f"Use --model-version {newest + 1}, or leave it out to replace every version.",
            )
        is_kept = options.model_version is not None or (is_earlier and version in versions)
        return "version" if is_kept else "export"
    if options.add:
        return "version"
    if options.model_version is not None or len(exports) > 1:
        raise UsageError(
            "name",
            got=f"{name}, and {repository} holds {', '.join(sorted(exports))}",
            expected="one of them",
            next_step="Add --add to keep them beside this one, or --name to choose one.",
        )
    return "repository"


def _notes_on_replaced(name: str, repository: Path, replaced: Replaced) -> list[str]:
    """Say that an export of another name is about to be removed from the repository."""
    if replaced != "repository" or not is_repository(repository):
        return []
    try:
        others = sorted(set(index_of(repository).exports) - {name})
    except ManifestError:  # a repository of an older version, without an index
        return []
    return [f"Replaced {other}, which {repository} held; --add would have kept it." for other in others]


def _notes_on_evaluation(manifest: Manifest) -> list[str]:
    """Say that one test image is more of the accuracy than the fall that the gate refuses by default."""
    count = manifest.evaluation.images
    if manifest.evaluation.pytorch_top1 is None or count * Tolerances.top1_drop >= 1:
        return []
    return [
        f"Only {count} test images: one of them is {100 / count:.1f} percentage points of the accuracy. "
        "--evaluation takes a folder with more."
    ]


def _recorded_export(folder: Path, options: ExportOptions) -> Manifest:
    """Return the record of an earlier export, after refusing options that do not go with it.

    Args:
        folder: The folder of an export or of a repository.
        options: The options.

    Raises:
        UsageError: an option is for checkpoints only, the export has another name or is for another runtime,
            or engines that Triton does not serve have no folder to stay in.
        ManifestError: the folder holds no export.
    """
    for_checkpoints = {
        "architecture": options.architecture,
        "architecture options": options.architecture_options or None,
        "key": options.key,
        "classes": options.classes,
        "contract": options.contract,
        "calibration": options.calibration,
        "evaluation": options.evaluation,
        "max batch": options.max_batch,
        "max top-1 drop": options.tolerances,
    }
    for name, value in for_checkpoints.items():
        if value is not None:
            raise UsageError(
                name,
                got=f"the folder {folder}, which is exported already",
                expected="a checkpoint to export",
                next_step="Leave this option out, or pass the checkpoint.",
            )
    if is_repository(folder):
        manifest = packed_export(folder, options.name).manifest
    else:
        manifest = manifest_from_folder(folder)
    if options.name not in (None, manifest.model.name):
        raise UsageError(
            "name",
            got=f"{options.name}, with the folder {folder}",
            expected=f"{manifest.model.name}, as it was exported",
            next_step="Leave --name out, or pass the checkpoint to export it under another name.",
        )
    exported_for = {artifact.served_by.name for artifact in manifest.artifacts}
    engines = options.engine_runtime
    if engines is None and options.runtime is not None and exported_for != {options.runtime}:
        raise UsageError(
            f"runtime {options.runtime}",
            got=f"an export for {', '.join(sorted(exported_for))}",
            expected=f"one that the gate checked on {options.runtime}",
            next_step=f"Pass the checkpoint, to export for {options.runtime}.",
        )
    if engines is not None and not engines.served and options.out is None and is_repository(folder):
        raise UsageError(
            "out",
            got=f"none, with the repository {folder}",
            expected="a folder for the engines, which Triton does not serve",
            next_step=f"Add --out {DEFAULT_FOLDER}.",
        )
    return manifest


def _check_folders(out: Path | None, repository: Path, *, needed_bytes: int = 0) -> None:
    """Check that both folders can be written, and undo what a killed export has left of them.

    Args:
        out: The folder of the ONNX files; None if it is temporary.
        repository: The repository, whose files are links to those in `out` if both are on one disk.
        needed_bytes: The size of the export's files.

    Raises:
        ExportError, RepositoryError: a folder cannot be written, or the free space does not suffice.
    """
    for folder, kind in ((out, ExportError), (repository, RepositoryError)):
        if folder is not None:
            with os_errors_as(
                kind,
                folder,
                expected="a folder that can be written, with space for the models",
                next_step="Nothing was changed. Choose another folder, or free some space.",
            ):
                check_writable(folder, needed_bytes=needed_bytes)


def _size_of_export(checkpoint: Checkpoint, options: ExportOptions) -> int:
    """Return the least that the ONNX files of some weights take, in bytes."""
    parameters = sum(tensor.numel() for tensor in checkpoint.weights.values())
    precisions: tuple[Precision, ...] = options.precisions or ("fp32", "fp16")
    return sum(parameters * _BYTES_PER_WEIGHT[precision] for precision in precisions)


def _check_apart(out: Path, repository: Path) -> None:
    one, other = out.resolve(), repository.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(
            "out and repository",
            got=f"{out} and {repository}",
            expected="two folders, neither inside the other",
        )
