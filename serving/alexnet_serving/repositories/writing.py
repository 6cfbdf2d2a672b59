"""Write the Triton model repository: one model for each precision that passed the gate, all or nothing.

model_repository/
    export.json                 the record it was written from, which also marks it as this project's
    reference.safetensors       PyTorch's outputs, with which engines built later are compared
    alexnet_int8/config.pbtxt   the model's configuration
    alexnet_int8/labels.txt     class names, for Triton's classification extension
    alexnet_int8/1/model.onnx   a hard link to the exported file, or a copy if the file system has no links
    alexnet_int8/1/model.plan   an engine, or `model_sm90.plan` for each of several GPUs
    alexnet_int8/1/model.passport.json      what that engine was built from, with, on and for
    alexnet_decode/             the model that decodes images (a configuration, no model file)
    alexnet/                    the ensemble of it and a network (a configuration, no model file)
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from alexnet_model.errors import RepositoryError, os_errors_as
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
    OUR_MODELS,
    PLACEHOLDER_FILE,
    VERSION,
    ModelEntry,
    RepositoryOptions,
    entries_of,
    reasons_against,
)

KEPT_FILES = ("README.md", ".gitignore")
# Triton 2.51 passes model names through a shell.
SAFE_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+")
DEFAULT_OPTIONS = RepositoryOptions()
PLACEHOLDER = "Triton needs a folder for each version. This model has no file besides its `config.pbtxt`.\n"


def write_repository(
    manifest: Manifest,
    artifacts_folder: Path,
    repository: Path,
    options: RepositoryOptions = DEFAULT_OPTIONS,
    *,
    targets: Sequence[EngineTarget] = (),
) -> tuple[str, ...]:
    """Replace `repository` by one that serves the accepted precisions, and return the names of its models.

    The old repository stays complete until the new one takes its place, and stays on any error or interrupt.
    Its README.md and .gitignore are kept.

    Args:
        manifest: The record of the export. Precisions and engines that the gate refused or did not judge are
            left out.
        artifacts_folder: The folder of the export's files.
        repository: The folder to write.
        options: What to pack and how to serve it.
        targets: Where every packed engine must load; by default this is not checked.

    Raises:
        RepositoryError: nothing can be packed, `repository` holds files that this project did not write, or
            it cannot be written.
        EngineRefused: an engine would not load in one of the targets.
        ManifestError: the file of an artifact, an engine or the reference is missing or altered.
    """
    repository = repository.resolve()
    entries = entries_of(manifest, options)
    if not entries:
        raise RepositoryError(
            str(repository),
            got=f"no accepted precision ({reasons_against(manifest, options)})",
            expected=f"at least one for {options.runtime or 'its ONNX file'}",
            next_step="The repository was not touched.",
        )
    _check_class_names(manifest)
    check_entries(entries, repository, targets)
    refuse_foreign_repository(repository)
    unwritable = os_errors_as(
        RepositoryError,
        repository,
        expected="a folder with space for the models",
        next_step="The old repository is unchanged.",
    )
    with unwritable, atomic_directory(repository) as staged:
        names = _write_configs(entries, manifest, staged, options)
        for entry in entries:
            _write_files(entry, artifacts_folder, staged / entry.name / VERSION)
        if manifest.reference_sha256 is not None:
            link_or_copy(verify_reference(manifest, artifacts_folder), staged / REFERENCE_NAME)
        write_manifest(manifest, staged)
        for name in KEPT_FILES:
            if (repository / name).is_file():
                shutil.copyfile(repository / name, staged / name)
    return names


def models_of_repository(repository: Path) -> tuple[str, ...]:
    """Return the sorted names of the models in a repository.

    Raises:
        RepositoryError: the repository is missing or has no model, or a name is unsafe to pass to Triton.
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
    """Write every model's folder except for the large files; return the sorted names."""
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
            (model / VERSION / PLACEHOLDER_FILE).write_text(PLACEHOLDER, encoding="utf-8")
    return tuple(sorted(makers))


def _write_files(entry: ModelEntry, artifacts_folder: Path, version: Path) -> None:
    # Also beside engines, so that they can be built again from the repository alone.
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
                next_step="Triton reads one label per line: rename the class and train again.",
            )


def refuse_foreign_repository(repository: Path) -> None:
    """Refuse to replace a folder with files that this project did not write, such as a home folder.

    Raises:
        RepositoryError: the folder holds such files, or is a file.
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
