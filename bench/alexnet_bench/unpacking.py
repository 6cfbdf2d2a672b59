"""A repository holds the export that it was packed from: for what is measured on its files in process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_serving import models_of_repository, unpack_repository


@contextmanager
def unpacked_export(repository: Path) -> Iterator[Path]:
    """The export's folder, which is there for a while, in a hidden one that holds nothing else.

    Raises:
        RepositoryError: the repository is missing or holds no model, or there is no room for the export.
        ManifestError: its record is missing or broken, or an ONNX file or the reference is another.
        OSError: nothing can be written beside the repository.
    """
    models_of_repository(repository)  # says it if there is none
    repository = repository.resolve()
    # On the same disk, so that large files are linked.
    with tempfile.TemporaryDirectory(dir=repository.parent, prefix=f".{repository.name}.") as name:
        folder = Path(name) / "export"
        unpack_repository(repository, folder)
        yield folder
