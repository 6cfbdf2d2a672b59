"""Unpack the export that a model repository was written from, to measure its files in process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_serving import models_of_repository, unpack_repository


@contextmanager
def unpacked_export(repository: Path) -> Iterator[Path]:
    """Unpack a repository's export into a temporary folder, which is removed afterwards.

    Args:
        repository: The model repository.

    Returns:
        A context manager that gives the export's folder.

    Raises:
        RepositoryError: the repository is missing, holds no model, or there is no space for the export.
        ManifestError: its record is missing or broken, or an ONNX file or the reference differs from it.
        OSError: the folder beside the repository cannot be written.
    """
    models_of_repository(repository)  # raises if it is missing or holds no model
    repository = repository.resolve()
    # Beside the repository, on the same disk, so that large files are linked instead of copied.
    with tempfile.TemporaryDirectory(dir=repository.parent, prefix=f".{repository.name}.") as name:
        folder = Path(name) / "export"
        unpack_repository(repository, folder)
        yield folder
