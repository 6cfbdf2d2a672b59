"""The Triton model repository: one model a precision that passed the gate, written whole or not at all.

model_repository/
    export.json                 the record it was written from, and the mark by which it is known
    reference.safetensors       PyTorch's answers, which engines built later are judged by
    alexnet_int8/config.pbtxt   from protobuf
    alexnet_int8/labels.txt     class names, for Triton's classification extension
    alexnet_int8/1/model.onnx   a hard link to the exported file where the file system can
    alexnet_int8/1/model.plan   with engines: one, or `model_sm90.plan` for each kind of GPU,
    alexnet_int8/1/model.passport.json      and what it was built from, with, on and for
    alexnet_decode/             what decodes images, and
    alexnet/                    the ensemble of it and a network: a configuration each, and no model file
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from alexnet_model.errors import RepositoryError, os_error_reason
from alexnet_model.files import atomic_directory, link_or_copy
from alexnet_model.folders import refuse_foreign_files
from alexnet_model.manifest import (
    MANIFEST_NAME,
    REFERENCE_NAME,
    Manifest,
    verify_artifact,
    verify_engine,
    verify_reference,
    write_manifest,
)
from alexnet_model.passport import passport_path

from ..engine_compatibility import EngineTarget, check_entries
from .layout import (
    CONFIG_FILE,
    DECODING_MODEL,
    LABELS_FILE,
    MODEL_FILE,
    NOTE_FILE,
    OUR_MODELS,
    VERSION,
    RepositoryOptions,
)
from .model_entries import ModelEntry, entries_of, reasons_against

KEPT_FILES = ("README.md", ".gitignore")
# Triton 2.51 passes model names through a shell.
SAFE_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+")
DEFAULT_OPTIONS = RepositoryOptions()
NOTE = "Triton asks for a folder a version. This model has no file of its own: its `config.pbtxt` is all.\n"


def write_repository(
    manifest: Manifest,
    artifacts_folder: Path,
    repository: Path,
    options: RepositoryOptions = DEFAULT_OPTIONS,
    *,
    targets: Sequence[EngineTarget] = (),
) -> tuple[str, ...]:
    """Replace `repository` by one that serves what was accepted; return the models' names.

    A refused precision is not packaged, nor one whose engine was refused or never judged. Until the last
    moment the old repository stands whole, and on any error or interrupt it stays; its README.md and
    .gitignore are kept. With `targets`, every engine must load in all of them.

    Raises:
        RepositoryError: nothing can be packaged, `repository` holds something that is not ours to replace, or
            it cannot be written.
        EngineRefused: an engine would not load in one of the targets.
        ManifestError: an artifact's, an engine's or the reference's file is missing or altered.
    """
    repository = repository.resolve()
    entries = entries_of(manifest, options)
    if not entries:
        raise RepositoryError(
            str(repository),
            got=f"no accepted precision ({reasons_against(manifest, options)})",
            expected=f"at least one for the {options.backend} backend",
            next_step="The repository was not touched.",
        )
    _check_class_names(manifest)
    check_entries(entries, repository, targets)
    refuse_foreign_repository(repository)
    try:
        with atomic_directory(repository) as staged:
            names = _write_configs(entries, manifest, staged, options)
            for entry in entries:
                _write_files(entry, artifacts_folder, staged / entry.name / VERSION)
            if manifest.reference_sha256 is not None:
                link_or_copy(verify_reference(manifest, artifacts_folder), staged / REFERENCE_NAME)
            write_manifest(manifest, staged)
            for name in KEPT_FILES:
                if (repository / name).is_file():
                    shutil.copyfile(repository / name, staged / name)
    except OSError as error:
        raise RepositoryError(
            str(repository),
            got=os_error_reason(error),
            expected="a folder with room for the models",
            next_step="What was there is unchanged.",
        ) from error
    return names


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


def _write_configs(
    entries: Sequence[ModelEntry], manifest: Manifest, repository: Path, options: RepositoryOptions
) -> tuple[str, ...]:
    """Every model's folder but for the large files; returns the names, sorted."""
    from .model_config import config_makers, text_from_config  # tritonclient is slow to import

    with_files = {entry.name for entry in entries}
    makers = config_makers(entries, manifest, encoded=options.encoded)
    for name, make in makers.items():
        model = repository / name
        (model / VERSION).mkdir(parents=True)
        (model / CONFIG_FILE).write_text(text_from_config(make(options)), encoding="utf-8")
        if name != DECODING_MODEL:
            labels = "\n".join(manifest.model.class_names) + "\n"
            (model / LABELS_FILE).write_text(labels, encoding="utf-8")
        if name not in with_files:
            (model / VERSION / NOTE_FILE).write_text(NOTE, encoding="utf-8")
    return tuple(sorted(makers))


def _write_files(entry: ModelEntry, artifacts_folder: Path, version: Path) -> None:
    # With engines too: whoever has the repository can build them anew.
    link_or_copy(verify_artifact(entry.artifact, artifacts_folder), version / MODEL_FILE)
    for name, engine in entry.engines.items():
        plan = artifacts_folder / engine.file
        verify_engine(engine, plan)
        link_or_copy(plan, version / name)
        link_or_copy(passport_path(plan), passport_path(version / name))


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
    """Refuse to replace a folder that holds anything but a repository of ours.

    Raises:
        RepositoryError: `repository` is a file, or holds another file or folder.
    """
    ours = OUR_MODELS | {MANIFEST_NAME, REFERENCE_NAME}
    refuse_foreign_files(
        repository,
        ours.__contains__,
        what="a repository that this command wrote",
        error=RepositoryError,
        ignored=KEPT_FILES,
    )


def _no_models(repository: Path, got: str) -> RepositoryError:
    return RepositoryError(
        str(repository),
        got=got,
        expected="a Triton model repository",
        next_step="Write one: alexnet export CHECKPOINT --repository DIR",
    )
