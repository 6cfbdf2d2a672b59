"""The context of a Docker build for an image that holds a model repository and nothing else to run.

    DIR/Dockerfile
    DIR/models/         the repository as Triton reads it: the served version of each export

In a cluster, the image is mounted as a volume; KServe reads its folder `models` too.
"""

from __future__ import annotations

import json
from pathlib import Path

from alexnet_model.errors import RepositoryError, os_errors_as
from alexnet_model.files import atomic_directory, link_or_copy
from alexnet_model.folders import is_junk, refuse_foreign_files

from .records import packed_exports
from .writing import models_of_repository

DOCKERFILE = "Dockerfile"
MODELS = "models"
# It has the programs with which KServe mounts the models of an image; its own code is not needed otherwise.
BASE_IMAGE = "busybox:1.37.0"


def write_image_context(repository: Path, folder: Path) -> tuple[str, ...]:
    """Write a folder for `docker build`, and return the names of the models in it.

    Files are linked where the file system allows it. Older versions of an export, records and what operating
    systems write into folders are left out. Run `lint` first: nothing is compared with its record here.

    Args:
        repository: The repository.
        folder: The folder to write. One that this function wrote is replaced.

    Raises:
        RepositoryError: the repository has no model, `folder` is inside it or holds other files, or it cannot
            be written.
        ManifestError: the index or a record of the repository is broken.
    """
    repository, folder = repository.resolve(), folder.resolve()
    models = models_of_repository(repository)
    if folder.is_relative_to(repository):
        raise RepositoryError(str(folder), got="a folder inside the repository", expected="one outside it")
    labels = {
        f"alexnet.{packed.manifest.model.name}": {
            "version": packed.manifest.model_version,
            "contract": packed.manifest.contract_digest,
            "weights": packed.manifest.model.weights_sha256,
        }
        for packed in packed_exports(repository)
        if packed.is_served
    }
    refuse_foreign_files(
        folder,
        lambda name: name in (DOCKERFILE, MODELS),
        what="an image context that this command wrote",
        error=RepositoryError,
        record=DOCKERFILE,
    )
    unwritable = os_errors_as(RepositoryError, folder, expected="a folder with space for the models")
    with unwritable, atomic_directory(folder, record=DOCKERFILE) as staged:
        for model in models:
            for path in sorted((repository / model).rglob("*")):
                inside = path.relative_to(repository)
                if path.is_file() and not any(is_junk(part) for part in inside.parts):
                    target = staged / MODELS / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(path, target)
        (staged / DOCKERFILE).write_text(_dockerfile(labels))
    return models


def _dockerfile(labels: dict[str, dict[str, object]]) -> str:
    """The Dockerfile. `docker image inspect` shows what the image holds by its labels."""
    lines = [f"LABEL {name}={json.dumps(json.dumps(value))}" for name, value in sorted(labels.items())]
    return "\n".join(
        (
            "# The models, readable by every user. Written by `alexnet pack`.",
            f"FROM {BASE_IMAGE}",
            *lines,
            f"COPY --chmod=0555 {MODELS} /{MODELS}",
            "USER 1000:1000",
            "",
        )
    )
