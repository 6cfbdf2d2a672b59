"""From a repository back to the export that it was packed from, so that its engines can be built anew.

A repository holds all that this takes: the ONNX files, PyTorch's answers, and the record. It can be copied to
a machine with another GPU, where nobody has the checkpoint, and be given engines there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from alexnet_model.errors import ManifestError, RepositoryError, os_error_reason
from alexnet_model.files import link_or_copy
from alexnet_model.manifest import (
    REFERENCE_NAME,
    Artifact,
    Engine,
    Manifest,
    manifest_from_folder,
    verify_artifact,
    verify_engine,
    verify_reference,
    write_manifest,
)
from alexnet_model.passport import passport_path

from .layout import CONFIG_FILE, MODEL_FILE, VERSION, RepositoryOptions, model_name
from .model_entries import packable_engines, plan_names
from .writing import models_of_repository


def unpack_repository(
    repository: Path, folder: Path, *, left_out: Callable[[ManifestError], None] = lambda _: None
) -> Manifest:
    """Fill a new or empty folder with the export that `repository` was packed from; return its manifest.

    What the repository does not hold (a refused precision, an engine that was not packed) is not in that
    manifest either, nor an engine that is no longer the recorded one: `left_out` is told of it, since it can
    be built again. The files are hard links, so they are never to be edited in target.

    Raises:
        RepositoryError: the repository holds no model, the folder holds something or cannot be written, or
            the record names a file outside it.
        ManifestError: the record is missing or broken, or an ONNX file or the reference is another.
    """
    manifest = manifest_from_folder(repository)
    held = [artifact for artifact in manifest.artifacts if _onnx_in(repository, artifact).is_file()]
    if not held:
        raise RepositoryError(
            str(repository),
            got=f"no {MODEL_FILE} of a model in its record",
            expected="a model repository that `alexnet export` wrote",
            next_step="Export the checkpoint again.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RepositoryError(str(folder), got="files in it", expected="a new or empty folder")
        artifacts = tuple(_unpacked(artifact, repository, folder, left_out) for artifact in held)
        manifest = manifest.model_copy(update={"artifacts": artifacts})
        if manifest.reference_sha256 is not None:
            link_or_copy(verify_reference(manifest, repository), folder / REFERENCE_NAME)
        write_manifest(manifest, folder)
    except OSError as error:
        raise RepositoryError(
            str(folder),
            got=os_error_reason(error),
            expected="a folder with room for an export",
        ) from error
    return manifest


def options_of_repository(repository: Path) -> RepositoryOptions:
    """The options that its first model was written with, to write it again alike.

    Raises:
        RepositoryError: there is no model, or its configuration does not record them.
    """
    from .model_config import OPTIONS_PARAMETER, config_from_text  # tritonclient is slow to import

    path = repository / models_of_repository(repository)[0] / CONFIG_FILE
    try:
        parameters = config_from_text(path.read_text(encoding="utf-8")).parameters
        return RepositoryOptions.from_json(parameters[OPTIONS_PARAMETER].string_value)
    except (OSError, ValueError) as error:
        raise RepositoryError(
            str(path),
            got=f"{error}",
            expected="the options it was written with",
            next_step=f"See what is wrong: alexnet lint {repository}",
        ) from error


def _onnx_in(repository: Path, artifact: Artifact) -> Path:
    return repository / model_name(artifact.precision) / VERSION / MODEL_FILE


def _unpacked(
    artifact: Artifact, repository: Path, folder: Path, left_out: Callable[[ManifestError], None]
) -> Artifact:
    """Link an artifact's files; return it with the engines that were there."""
    source = _onnx_in(repository, artifact)
    packed = artifact.model_copy(update={"file": str(source.relative_to(repository))})
    link_or_copy(verify_artifact(packed, repository), _target(folder, artifact.file))
    engines: list[Engine] = []
    for name, engine in plan_names(packable_engines(artifact)).items():
        plan = source.with_name(name)
        try:
            verify_engine(engine, plan)
        except ManifestError as error:
            left_out(error)
        else:
            target = _target(folder, engine.file)
            link_or_copy(plan, target)
            link_or_copy(passport_path(plan), passport_path(target))
            engines.append(engine)
    return artifact.model_copy(update={"engines": tuple(engines)})


def _target(folder: Path, file: str) -> Path:
    """Where a recorded file goes; a repository may come from anywhere, its record may not point anywhere."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise RepositoryError(
            f"file {file!r} of the record", got="a path outside the export", expected="a name"
        )
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
