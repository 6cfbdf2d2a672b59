"""`alexnet serve --rebuild-if-needed`: engines for this machine, from the ONNX files in the repository."""

from __future__ import annotations

import tempfile
from pathlib import Path

from alexnet_model.errors import EngineRefused
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.passport import Passport
from alexnet_model.progress import Progress
from alexnet_model.records import Precision


def refusal_of(repository: Path, image: str) -> EngineRefused | None:
    """Why a repository's engines do not load on this machine; None if they do, or if it holds none.

    Raises:
        ManifestError: the record is missing or broken.
        ServerError: the driver is too old, for which no engine is to blame.
        DockerError: the image is not the pinned one, and not here to be asked.
    """
    from alexnet_serving import check_engines, targets_of_image

    try:
        check_engines(manifest_from_folder(repository), repository, targets_of_image(image))
    except EngineRefused as refusal:
        return refusal
    return None


def rebuild(repository: Path, image: str, *, progress: Progress) -> Manifest:
    """Build the engines of a repository anew, each as it was built, for the GPUs here.

    The old ones stay until the new ones have passed the gate: a repository is replaced as a whole.

    Raises:
        PrecisionRefused: a new engine is not the same model; the repository is as it was.
        RepositoryError: the repository was not written by this version, or cannot be replaced.
        DockerError, EngineError: the engines cannot be built.
    """
    from alexnet_export import EngineOptions, build_engines
    from alexnet_export.engine_export import builders_from, raise_if_engine_refused
    from alexnet_serving import (
        options_of_repository,
        targets_of_image,
        unpack_repository,
        write_repository,
    )

    options = options_of_repository(repository)
    repository = repository.resolve()
    with tempfile.TemporaryDirectory(dir=repository.parent, prefix=f".{repository.name}.") as name:
        folder = Path(name) / "export"
        unpack_repository(repository, folder)
        manifest = manifest_from_folder(folder)
        for precision, passport in _served_engines(repository).items():
            building = EngineOptions(
                runtime="tensorrt",
                build="docker",
                image=image,
                profile=passport.profile,
                hardware_compatibility=passport.hardware_compatibility,
                version_compatible=passport.version_compatible,
            )
            builders = builders_from(building)
            manifest = build_engines(
                folder, building, precisions=(precision,), builders=builders, progress=progress
            )
            raise_if_engine_refused(manifest, builders)
        write_repository(manifest, folder, repository, options, targets=targets_of_image(image))
    return manifest


def _served_engines(repository: Path) -> dict[Precision, Passport]:
    """An engine's passport for each precision that the repository serves, by its record."""
    return {
        artifact.precision: engine.passport
        for artifact in manifest_from_folder(repository).artifacts
        for engine in artifact.engines
        if engine.accepted and engine.passport.runtime == "tensorrt"
    }
