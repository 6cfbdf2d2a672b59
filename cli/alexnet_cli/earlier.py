"""`alexnet export FOLDER`: go on from an earlier export, or from a repository that holds one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alexnet_model.errors import UsageError
from alexnet_model.manifest import Manifest, manifest_from_folder


def out_of_earlier(folder: Path, out: Path, only_for_checkpoints: Mapping[str, object]) -> Path:
    """Where the engines go: an export gets them itself, a repository is first unpacked to `out`.

    Raises:
        UsageError: an option was given that only a checkpoint takes.
    """
    from alexnet_serving import is_repository

    given = [name for name, value in only_for_checkpoints.items() if value is not None]
    if given:
        raise UsageError(
            given[0],
            got=f"it with the folder {folder}",
            expected="a checkpoint to export anew",
            next_step=f"Leave {given[0]} out, or name the checkpoint.",
        )
    return out if is_repository(folder) else folder


def manifest_of_earlier(folder: Path, out: Path) -> Manifest:
    """The record of the export in `out`, after a repository was unpacked there.

    Raises:
        ManifestError: the folder holds no export, or a file of it is missing or altered.
        RepositoryError: the repository holds nothing to build from.
        ExportError: `out` holds something else.
        OSError: `out` cannot be written.
    """
    if folder != out:
        from alexnet_export.pipeline import refuse_foreign
        from alexnet_model.files import atomic_directory
        from alexnet_serving import unpack_repository

        refuse_foreign(out)
        with atomic_directory(out) as staged:
            unpack_repository(folder, staged)
    return manifest_from_folder(out)
