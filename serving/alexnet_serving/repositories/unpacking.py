"""Restore the export that a repository was packed from, so that its engines can be built again.

A repository holds everything that this needs: the ONNX files, PyTorch's outputs and the record. So engines
can be built on a machine with another GPU that has the repository and not the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alexnet_model.errors import ManifestError, RepositoryError, os_errors_as
from alexnet_model.files import link_or_copy
from alexnet_model.manifest import (
    REFERENCE_NAME,
    Artifact,
    Engine,
    Manifest,
    verify_artifact,
    verify_engine,
    verify_reference,
    write_manifest,
)
from alexnet_model.passport import passport_path

from .layout import MODEL_FILE, ModelEntry, plain_name
from .records import packed_export, reference_file


def unpack_repository(
    repository: Path,
    folder: Path,
    *,
    name: str | None = None,
    version: int | None = None,
    left_out: Callable[[ManifestError], None] = lambda _: None,
) -> Manifest:
    """Fill a folder with an export that a repository was packed from, and return its manifest.

    Refused precisions and engines that the repository does not hold are not in that manifest. The files are
    hard links: do not edit them in place.

    Args:
        repository: The repository.
        folder: A new or empty folder.
        name: The name of the export. None: the only one of the repository.
        version: Its version. None: the one that is served.
        left_out: Called with the error of each engine that is missing or altered; it can be built again.

    Raises:
        RepositoryError: the repository has no model, the folder is not empty or cannot be written, or the
            record names a file outside it.
        UsageError: the repository does not hold that export or version, or holds several and `name` is None.
        ManifestError: the record is missing or broken, or an ONNX file or the reference is altered.
    """
    packed = packed_export(repository, name, version)
    manifest = packed.manifest
    held = [entry for entry in packed.entries if (repository / entry.onnx_file).is_file()]
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
        artifacts = tuple(_unpacked(entry, repository, folder, left_out) for entry in held)
        manifest = manifest.model_copy(update={"artifacts": artifacts})
        if manifest.reference_sha256 is not None:
            kept = reference_file(manifest.model.name, manifest.model_version)
            link_or_copy(verify_reference(manifest, repository, kept), folder / REFERENCE_NAME)
        write_manifest(manifest, folder)
    return manifest


def _unpacked(
    entry: ModelEntry, repository: Path, folder: Path, left_out: Callable[[ManifestError], None]
) -> Artifact:
    """Link an artifact's files, and return it with the engines that are unaltered."""
    artifact = entry.artifact
    link_or_copy(verify_artifact(artifact, repository, entry.onnx_file), folder / plain_name(artifact.file))
    engines: list[Engine] = []
    for plan, engine in entry.engines.items():
        source = repository / entry.engine_file(plan)
        try:
            verify_engine(engine, source)
        except ManifestError as error:
            left_out(error)
        else:
            target = folder / plain_name(engine.file)
            link_or_copy(source, target)
            link_or_copy(passport_path(source), passport_path(target))
            engines.append(engine)
    return artifact.model_copy(update={"engines": tuple(engines)})
