"""Serve an older version of an export again, from the files that its repository has kept."""

from __future__ import annotations

from pathlib import Path

from alexnet_model.errors import ManifestError, RepositoryError
from alexnet_model.files import folder_beside

from .records import index_of, name_in, packed_export
from .unpacking import unpack_repository
from .writing import write_repository


def rollback(repository: Path, name: str, *, to: int | None = None) -> tuple[int, int]:
    """Serve another version of an export: the one before, or a given one.

    The version that was served is kept, so that `to` can return to it. Configurations and labels are written
    as they were for the version that is served from now on. Restart the server.

    Args:
        repository: The repository, which is replaced as a whole at the end.
        name: The name of the export.
        to: The version. None: the highest below the one that is served.

    Returns:
        The version that was served, and the one that is served now.

    Raises:
        UsageError: the repository holds no export of that name, or not that version.
        RepositoryError: there is no version before, the version is served already, or the repository cannot
            be written.
        ManifestError: the index, a record, or a file of the version is missing or altered.
    """
    index = index_of(repository)
    export = index.exports[name_in(index, repository, name)]
    before = [version for version in export.versions if version < export.served]
    if to is None and not before:
        raise RepositoryError(
            f"{repository}: {name}",
            got=f"version {export.served}, and none before it",
            expected="an older version to return to",
            next_step=f"`alexnet export CHECKPOINT --model-version {export.served + 1}` would keep this one.",
        )
    version = max(before) if to is None else to
    packed = packed_export(repository, name, version)
    if packed.is_served:
        raise RepositoryError(
            f"{repository}: {name}",
            got=f"version {version}, which is served already",
            expected=f"another of its versions: {', '.join(map(str, sorted(export.versions)))}",
        )
    # Beside the repository, so that large files are linked and not copied.
    with folder_beside(repository) as beside:
        folder = beside / "export"
        unpack_repository(repository, folder, name=name, version=version, left_out=_raise)
        write_repository(packed.manifest, folder, repository, packed.options, replace="version")
    return export.served, version


def _raise(error: ManifestError) -> None:
    raise error
