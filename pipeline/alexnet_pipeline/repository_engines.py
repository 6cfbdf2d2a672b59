"""The export inside a repository, and new engines for a repository that exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from alexnet_model import docker
from alexnet_model.errors import EngineRefused, ManifestError
from alexnet_model.files import folder_beside
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.passport import Passport
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision
from alexnet_model.triton_image import TRITON_IMAGE
from alexnet_serving import (
    PackedExport,
    check_engines,
    models_of_repository,
    packed_exports,
    targets_of_image,
    unpack_repository,
    write_repository,
)


@contextmanager
def unpacked_export(
    repository: Path,
    name: str | None = None,
    *,
    left_out: Callable[[ManifestError], None] = lambda _: None,
) -> Iterator[Path]:
    """Unpack an export that a repository serves into a temporary folder beside the repository.

    The temporary folder is on the same disk, so that large files are linked and not copied.

    Args:
        repository: The model repository.
        name: The name of the export. None: the only one of the repository.
        left_out: Called with the error of each engine that is broken and so is not unpacked.

    Yields:
        The folder of the export. It is removed on leaving the `with`.

    Raises:
        UsageError: the repository holds no export of that name, or several and `name` is None.
        RepositoryError: the repository is missing or holds no model, or there is no space for the export.
        ManifestError: its record is missing or broken, or an ONNX file or the reference was altered.
        OSError: nothing can be written beside the repository.
    """
    models_of_repository(repository)  # raises if there is no model
    with folder_beside(repository) as beside:
        folder = beside / "export"
        unpack_repository(repository, folder, name=name, left_out=left_out)
        yield folder


def engine_refusal(repository: Path, image: str = TRITON_IMAGE) -> EngineRefused | None:
    """Return why a repository's engines do not load on this machine; None if they do or if it has none.

    Args:
        repository: The model repository.
        image: The Triton image that would serve it.

    Raises:
        ManifestError: a record is missing or broken.
        ServerError: the driver is too old; new engines would not change that.
    """
    try:
        check_engines(repository, targets_of_image(image))
    except EngineRefused as refusal:
        return refusal
    return None


def rebuild_engines(
    repository: Path, image: str = TRITON_IMAGE, *, progress: Progress = silent
) -> tuple[Manifest, ...]:
    """Build a repository's engines for this machine's GPUs, with the options each was built with before.

    They are built in the image and checked by the gate. Each export is written to the repository, which is
    replaced as a whole, when all of its engines have passed.

    Args:
        repository: The model repository.
        image: The Triton image that will serve it.
        progress: Called with the progress of each stage.

    Returns:
        The records of the exports whose engines were built.

    Raises:
        PrecisionRefused: the gate refused a new engine; its export is unchanged.
        ManifestError: the repository was not written by this version, or a record is broken.
        RepositoryError: the repository cannot be replaced.
        DockerError, EngineError: the engines cannot be built.
    """
    served = [packed for packed in packed_exports(repository) if packed.options.serves_engines]
    return tuple(_rebuilt(packed, repository, image, progress) for packed in served)


def _rebuilt(packed: PackedExport, repository: Path, image: str, progress: Progress) -> Manifest:
    """Build the engines of one export, write it to the repository, and return its record."""
    from alexnet_export import (
        EngineOptions,
        build_engines,
        builders_from,
        engine_file_name,
        raise_if_refused,
        refusals_of,
    )

    with unpacked_export(repository, packed.manifest.model.name) as folder:
        manifest = manifest_from_folder(folder)
        for precision, passport in _served_engines(packed).items():
            engine_options = EngineOptions(
                runtime=passport.runtime,
                build="docker",
                image=image,
                profile=passport.profile,
                hardware_compatibility=passport.hardware_compatibility,
                version_compatible=passport.version_compatible,
            )
            builders = builders_from(engine_options)
            manifest = build_engines(
                folder, engine_options, precisions=(precision,), builders=builders, progress=progress
            )
            built = [engine_file_name(a, builder) for a in manifest.artifacts for builder in builders]
            raise_if_refused(refusals_of(manifest, built), (precision,))
        targets = targets_of_image(image)
        options = packed.options
        if image != TRITON_IMAGE:
            options = replace(options, triton_release=docker.release_of_image(image))
        write_repository(manifest, folder, repository, options, targets=targets, replace="version")
    return manifest


def _served_engines(packed: PackedExport) -> dict[Precision, Passport]:
    """Return one engine's passport for each precision that an export serves as an engine."""
    return {
        artifact.precision: engine.passport
        for artifact in packed.manifest.artifacts
        for engine in artifact.engines
        if engine.accepted and engine.passport.runtime == "tensorrt"
    }
