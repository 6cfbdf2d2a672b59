"""Restore the export that a repository was packed from, so that its engines can be built again.

A repository holds everything that this needs: the ONNX files, PyTorch's outputs and the record. So engines
can be built on a machine with another GPU that has the repository and not the checkpoint.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from alexnet_model.errors import ManifestError, RepositoryError, os_errors_as
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

from .layout import (
    CONFIG_FILE,
    MODEL_FILE,
    VERSION,
    RepositoryOptions,
    engine_runtimes,
    model_name,
    packable_engines,
    plan_names,
)
from .writing import models_of_repository


def unpack_repository(
    repository: Path, folder: Path, *, left_out: Callable[[ManifestError], None] = lambda _: None
) -> Manifest:
    """Fill a folder with the export that a repository was packed from, and return its manifest.

    Refused precisions and engines that the repository does not hold are not in that manifest. The files are
    hard links: do not edit them in place.

    Args:
        repository: The repository.
        folder: A new or empty folder.
        left_out: Called with the error of each engine that is missing or altered; it can be built again.

    Raises:
        RepositoryError: the repository has no model, the folder is not empty or cannot be written, or the
            record names a file outside it.
        ManifestError: the record is missing or broken, or an ONNX file or the reference is altered.
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
    with os_errors_as(RepositoryError, folder, expected="a folder with space for an export"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RepositoryError(str(folder), got="files in it", expected="a new or empty folder")
        artifacts = tuple(_unpacked(artifact, repository, folder, left_out) for artifact in held)
        manifest = manifest.model_copy(update={"artifacts": artifacts})
        if manifest.reference_sha256 is not None:
            link_or_copy(verify_reference(manifest, repository), folder / REFERENCE_NAME)
        write_manifest(manifest, folder)
    return manifest


def options_of_repository(repository: Path) -> RepositoryOptions:
    """Return the options that a repository was written with, as its first model records them.

    Raises:
        RepositoryError: there is no model, or its configuration does not record the options.
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
            next_step=f"See what differs: {shlex.join(['alexnet', 'lint', str(repository)])}",
        ) from error


def _onnx_in(repository: Path, artifact: Artifact) -> Path:
    return repository / model_name(artifact.precision) / VERSION / MODEL_FILE


def _unpacked(
    artifact: Artifact, repository: Path, folder: Path, left_out: Callable[[ManifestError], None]
) -> Artifact:
    """Link an artifact's files, and return it with the engines that are unaltered."""
    source = _onnx_in(repository, artifact)
    packed = artifact.model_copy(update={"file": str(source.relative_to(repository))})
    link_or_copy(verify_artifact(packed, repository), _target(folder, artifact.file))
    engines: list[Engine] = []
    for runtime in engine_runtimes():
        for name, engine in plan_names(packable_engines(artifact, runtime)).items():
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
    """Return where a recorded file goes: inside `folder`, or raise an error."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise RepositoryError(
            f"file {file!r} of the record", got="a path outside the export", expected="a path inside it"
        )
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
