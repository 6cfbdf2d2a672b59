"""`alexnet export FOLDER`: go on from an earlier export, or from a repository that holds one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from alexnet_model.errors import UsageError
from alexnet_model.manifest import Manifest, manifest_from_folder

from .screen import note


class EngineChoice(StrEnum):
    """What runs the models: two runtimes for the ONNX files, and three ways to an engine."""

    OPENVINO = "openvino"
    ONNX = "onnx"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    DOCKER = "docker"


@contextmanager
def folder_of_earlier(
    folder: Path, out: Path | None, engine: EngineChoice | None, only_for_checkpoints: Mapping[str, object]
) -> Iterator[Path]:
    """Where engines are added: an export gets them itself; a repository is unpacked to `out` or for a while.

    Raises:
        UsageError: an option that only a checkpoint takes, or RTX engines with nowhere to stay.
        ManifestError: the folder holds no export.
    """
    from alexnet_serving import is_repository

    for name, value in only_for_checkpoints.items():
        if value is not None:
            raise UsageError(
                name,
                got=f"it with the folder {folder}",
                expected="a checkpoint to export anew",
                next_step=f"Leave {name} out, or name the checkpoint.",
            )
    _check_runtime(folder, engine)
    if not is_repository(folder):
        yield folder
    elif out is not None:
        yield out
    elif engine is EngineChoice.TENSORRT_RTX:
        raise UsageError(
            "--out",
            got=f"none, with the repository {folder}",
            expected="a folder for the engines, which Triton does not serve",
            next_step="Add --out build/export.",
        )
    else:
        parent = folder.resolve().parent  # on the same disk, so that large files are linked
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}.") as name:
            yield Path(name) / "export"


def manifest_of_earlier(folder: Path, out: Path) -> Manifest:
    """The record of the export in `out`, after a repository was unpacked there.

    Raises:
        ManifestError: the folder holds no export, or a file of it is missing or altered.
        RepositoryError: the repository holds nothing to build from.
        ExportError: `out` holds something else.
        OSError: `out` cannot be written.
    """
    if folder != out:
        from alexnet_export.onnx_export import refuse_foreign
        from alexnet_model.files import atomic_directory
        from alexnet_serving import unpack_repository

        refuse_foreign(out)
        with atomic_directory(out) as staged:
            unpack_repository(folder, staged, left_out=lambda error: note(f"Left out {error}"))
    return manifest_from_folder(out)


def _check_runtime(folder: Path, engine: EngineChoice | None) -> None:
    """Which runtime serves the ONNX files was decided, and judged, at export."""
    wanted = {"openvino": "openvino", "onnx": "onnxruntime"}.get(engine or "")
    exported = {artifact.served_by.name for artifact in manifest_from_folder(folder).artifacts}
    if wanted and exported != {wanted}:
        raise UsageError(
            f"--engine {engine}",
            got=f"an export for {', '.join(sorted(exported))}",
            expected=f"one that {wanted} was judged on",
            next_step=f"Name the checkpoint, to export anew for {wanted}.",
        )
