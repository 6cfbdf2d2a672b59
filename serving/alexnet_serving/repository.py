"""The Triton model repository: one model a precision that passed the gate, written whole or not at all.

model_repository/
    export.json                 the record it was written from, and the mark by which it is known
    alexnet_int8/config.pbtxt   from protobuf
    alexnet_int8/labels.txt     class names, for Triton's classification extension
    alexnet_int8/1/model.onnx   a hard link to the exported file where the file system can
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from alexnet_model.errors import RepositoryError
from alexnet_model.files import atomic_directory, link_or_copy
from alexnet_model.manifest import (
    MANIFEST_NAME,
    Artifact,
    Manifest,
    verify_artifact,
    write_manifest,
)

from .layout import CONFIG_FILE, LABELS_FILE, MODEL_FILE, OUR_MODELS, RepositoryOptions, model_name

KEPT_FILES = ("README.md", ".gitignore")
# Triton 2.51 passes model names through a shell.
SAFE_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+")
DEFAULT_OPTIONS = RepositoryOptions()


def write_repository(
    manifest: Manifest,
    artifacts_folder: Path,
    repository: Path,
    options: RepositoryOptions = DEFAULT_OPTIONS,
) -> tuple[str, ...]:
    """Replace `repository` by one that serves the accepted artifacts; return the models' names.

    A refused precision is not packaged. Until the last moment the old repository stands whole, and on any
    error or interrupt it stays; its README.md and .gitignore are kept.

    Raises:
        RepositoryError: nothing was accepted, `repository` holds something that is not ours to replace, or
            it cannot be written.
        ManifestError: an artifact's file is missing or altered.
    """
    repository = repository.resolve()
    if not manifest.accepted:
        raise RepositoryError(
            str(repository),
            got="no accepted precision",
            expected="at least one",
            next_step="See the reasons in the export's table; the repository was not touched.",
        )
    _check_class_names(manifest)
    refuse_foreign_repository(repository)
    try:
        with atomic_directory(repository) as staged:
            for artifact in manifest.accepted:
                _write_model(artifact, manifest, artifacts_folder, staged, options)
            write_manifest(manifest, staged)
            for name in KEPT_FILES:
                if (repository / name).is_file():
                    shutil.copyfile(repository / name, staged / name)
    except OSError as error:
        raise RepositoryError(
            str(repository),
            got=(error.strerror or str(error)).lower(),
            expected="a folder with room for the models",
            next_step="What was there is unchanged.",
        ) from error
    return tuple(model_name(artifact.precision) for artifact in manifest.accepted)


def models_of_repository(repository: Path) -> tuple[str, ...]:
    """The names of the models in a repository, sorted.

    Raises:
        RepositoryError: it is missing, holds no model, or one with a name that is unsafe to serve.
    """
    if not repository.is_dir():
        raise _no_models(repository, "no such folder")
    models = sorted(path.parent.name for path in repository.glob(f"*/{CONFIG_FILE}"))
    if not models:
        raise _no_models(repository, "no model")
    for name in models:
        if not SAFE_MODEL_NAME.fullmatch(name):
            raise RepositoryError(
                f"{repository}: model {name!r}",
                got="a name that is unsafe to pass to Triton",
                expected="letters, digits, '_', '.' and '-' only",
                next_step="Rename its folder.",
            )
    return tuple(models)


def _write_model(
    artifact: Artifact,
    manifest: Manifest,
    artifacts_folder: Path,
    repository: Path,
    options: RepositoryOptions,
) -> None:
    from .model_config import config_from_artifact, text_from_config  # tritonclient is slow to import

    model = repository / model_name(artifact.precision)
    (model / "1").mkdir(parents=True)
    config = config_from_artifact(artifact, manifest, options)
    (model / CONFIG_FILE).write_text(text_from_config(config), encoding="utf-8")
    (model / LABELS_FILE).write_text("\n".join(manifest.model.class_names) + "\n", encoding="utf-8")
    link_or_copy(verify_artifact(artifact, artifacts_folder), model / "1" / MODEL_FILE)


def _check_class_names(manifest: Manifest) -> None:
    for index, name in enumerate(manifest.model.class_names):
        if len(name.splitlines()) != 1:
            raise RepositoryError(
                f"class name {index}",
                got=repr(name),
                expected="one line of text",
                next_step="A label a line is all that Triton reads: rename the class and train again.",
            )


def refuse_foreign_repository(repository: Path) -> None:
    """Only a repository of ours may be replaced: naming the home folder must cost nobody a file.

    Raises:
        RepositoryError: the folder holds anything else, or is a file.
    """
    if not repository.exists():
        return
    if not repository.is_dir():
        raise RepositoryError(str(repository), got="a file", expected="a folder or nothing")
    entries = {path.name for path in repository.iterdir()} - set(KEPT_FILES)
    foreign = sorted(entries - OUR_MODELS - {MANIFEST_NAME})
    if foreign or (entries and MANIFEST_NAME not in entries):
        raise RepositoryError(
            str(repository),
            got=f"a folder that holds {foreign[0]}" if foreign else f"models without {MANIFEST_NAME}",
            expected="a repository that this command wrote, an empty folder, or none",
            next_step="Name another folder; nothing was touched.",
        )


def _no_models(repository: Path, got: str) -> RepositoryError:
    return RepositoryError(
        str(repository),
        got=got,
        expected="a Triton model repository",
        next_step="Write one: alexnet export CHECKPOINT --repository DIR",
    )
