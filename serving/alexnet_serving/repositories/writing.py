"""Write the Triton model repository: one model for each precision that passed the gate, all or nothing.

model_repository/
    repository.json             which exports and versions it holds; `records.py` describes it
    flowers.1.export.json       the record of an export; it and PyTorch's outputs are at the root
    flowers_int8/config.pbtxt   the model's configuration
    flowers_int8/labels.txt     class names, for Triton's classification extension
    flowers_int8/1/model.onnx   a hard link to the exported file, or a copy if the file system has no links
    flowers_int8/1/model.plan   an engine, or `model_sm90.plan` for each of several GPUs
                                (`model.pt2` and `model_sm90.pt2` of AOTInductor)
    flowers_int8/1/model.passport.json      what that engine was built from, with, on and for
    flowers_decode/             the model that decodes images (a configuration, no model file)
    flowers/                    the ensemble of it and a network (a configuration, no model file)
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Literal

from alexnet_model.errors import RepositoryError, os_errors_as
from alexnet_model.files import atomic_directory, link_or_copy, restore_interrupted
from alexnet_model.folders import is_junk, refuse_foreign_files
from alexnet_model.manifest import (
    MANIFEST_NAME,
    REFERENCE_NAME,
    Manifest,
    verify_artifact,
    verify_engine,
    verify_reference,
    write_manifest,
)
from alexnet_model.model_names import is_decoder, models_of_export
from alexnet_model.passport import passport_path

from ..engine_compatibility import Target, check_entries
from .layout import (
    CONFIG_FILE,
    LABELS_FILE,
    PLACEHOLDER_FILE,
    ModelEntry,
    RepositoryOptions,
    configs_of_repository,
    entries_of,
    reasons_against,
)
from .records import (
    INDEX_NAME,
    ExportVersions,
    PackedExport,
    RepositoryIndex,
    index_of,
    is_repository,
    names_of_records,
    packed_export,
    record_file,
    reference_file,
    version_of_file,
    write_index,
)

#: What a new export takes the place of: the whole repository, the export of its name, or one version of it.
Replaced = Literal["repository", "export", "version"]

USERS_FILES = ("README.md", ".gitignore")  # which stay
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
    targets: Sequence[Target] = (),
    replace: Replaced = "repository",
) -> tuple[str, ...]:
    """Write a repository that serves the accepted precisions, and return the names of all its models.

    The old repository stays complete until the new one takes its place, and stays on any error or interrupt.
    Its README.md and .gitignore are kept.

    Args:
        manifest: The record of the export. Precisions and engines that the gate refused or did not judge are
            left out.
        artifacts_folder: The folder of the export's files.
        repository: The folder to write.
        options: What to pack and how to serve it.
        targets: Where every packed engine must load; by default this is not checked.
        replace: What this export takes the place of, if the repository holds it: the whole `repository`
            (default); all versions of the `export` of the same name, while other exports stay; or only the
            same `version`, while other exports and versions stay. The version that is written is served.

    Raises:
        RepositoryError: nothing can be packed, `repository` holds files that this project did not write, or
            it cannot be written.
        EngineRefused: an engine would not load in one of the targets.
        ManifestError: the file of an artifact, an engine or the reference is missing or altered, or the index
            of the repository or the record of a version that stays is broken.
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
    name, version = manifest.model.name, manifest.model_version
    others = {} if replace == "repository" else _exports_of(repository)
    same_name = others.pop(name, None)
    versions = same_name.versions if same_name is not None and replace == "version" else {}
    stay = [packed_export(repository, name, other) for other in versions if other != version]
    index = ExportVersions(served=version, versions={**versions, version: options})
    with unwritable, atomic_directory(repository, record=INDEX_NAME) as staged:
        _write_configs(entries, manifest, staged, options)
        for entry in entries:
            _link_files(entry, artifacts_folder, staged)
        if manifest.reference_sha256 is not None:
            reference = verify_reference(manifest, artifacts_folder)
            link_or_copy(reference, staged / reference_file(name, version))
        write_manifest(manifest, staged, record_file(name, version))
        for packed in stay:
            _link_version(packed, repository, staged)
        for other in others:
            _link_export(other, repository, staged)
        write_index(RepositoryIndex(exports={**others, name: index}), staged)
        for file in USERS_FILES:
            if (repository / file).is_file():
                shutil.copyfile(repository / file, staged / file)
        return models_of_repository(staged)


def models_of_repository(repository: Path) -> tuple[str, ...]:
    """Return the sorted names of the models in a repository.

    Raises:
        RepositoryError: the repository is missing or has no model, or a name is unsafe to pass to Triton.
    """
    if not configs_of_repository(repository):
        restore_interrupted(repository)
    if not repository.is_dir():
        raise _no_models(repository, "no such folder")
    models = [path.parent.name for path in configs_of_repository(repository)]
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
) -> None:
    """Write the folder of each of an export's models except for the large files."""
    from .model_config import config_makers, text_from_config  # tritonclient is slow to import

    with_files = {entry.name for entry in entries}
    for name, make in config_makers(entries, manifest, encoded=options.encoded).items():
        model, version = repository / name, str(manifest.model_version)
        (model / version).mkdir(parents=True)
        (model / CONFIG_FILE).write_text(text_from_config(make(options)), encoding="utf-8")
        if not is_decoder(name):
            labels = "\n".join(manifest.model.class_names) + "\n"
            (model / LABELS_FILE).write_text(labels, encoding="utf-8")
        if name not in with_files:
            (model / version / PLACEHOLDER_FILE).write_text(PLACEHOLDER, encoding="utf-8")


def _link_files(entry: ModelEntry, artifacts_folder: Path, repository: Path) -> None:
    # The ONNX file also beside engines, so that they can be built again from the repository alone.
    link_or_copy(verify_artifact(entry.artifact, artifacts_folder), repository / entry.onnx_file)
    for plan, engine in entry.engines.items():
        source, target = artifacts_folder / engine.file, repository / entry.engine_file(plan)
        verify_engine(engine, source)
        link_or_copy(source, target)
        link_or_copy(passport_path(source), passport_path(target))


def _exports_of(repository: Path) -> dict[str, ExportVersions]:
    """Return the exports that a repository holds; empty if it is still to be written."""
    exists = is_repository(repository) or (repository / MANIFEST_NAME).is_file()
    return dict(index_of(repository).exports) if exists else {}


def _link_version(packed: PackedExport, repository: Path, staged: Path) -> None:
    """Link the files of a version that stays and is not served, or no longer."""
    manifest = packed.manifest
    name, version = manifest.model.name, manifest.model_version
    files = [record_file(name, version)]
    if manifest.reference_sha256 is not None:
        files.append(reference_file(name, version))
    for file in files:
        link_or_copy(repository / file, staged / file)
    for entry in packed.entries:
        kept = dataclasses.replace(entry, is_served=False)
        link_or_copy(repository / entry.onnx_file, staged / kept.onnx_file)
        for plan in entry.engines:
            source, target = repository / entry.engine_file(plan), staged / kept.engine_file(plan)
            link_or_copy(source, target)
            link_or_copy(passport_path(source), passport_path(target))


def _link_export(name: str, repository: Path, staged: Path) -> None:
    """Link all files of an export that stays as it is."""
    at_root = (path for path in repository.iterdir() if _export_of_file(path.name) == name)
    in_models = (path for model in models_of_export(name) for path in (repository / model).rglob("*"))
    for path in (*at_root, *in_models):
        target = staged / path.relative_to(repository)
        if path.is_file() and not any(map(is_junk, target.relative_to(staged).parts)):
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, target)


def _export_of_file(file: str) -> str | None:
    found = version_of_file(file)
    return found[0] if found else None


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
    older = (repository / MANIFEST_NAME).is_file()  # version 0.1 had one export, alexnet
    names = names_of_records(repository)
    models = {model for name in (names | {"alexnet"} if older else names) for model in models_of_export(name)}
    ours = models | {INDEX_NAME} | ({MANIFEST_NAME, REFERENCE_NAME} if older else set())
    refuse_foreign_files(
        repository,
        lambda file: file in ours or _export_of_file(file) in names,
        what="a repository that this command wrote",
        error=RepositoryError,
        record=MANIFEST_NAME if older else INDEX_NAME,
        ignored=USERS_FILES,
    )


def _no_models(repository: Path, got: str) -> RepositoryError:
    if (repository / MANIFEST_NAME).is_file():
        other = repository.parent / "model_repository"
        return RepositoryError(
            str(repository),
            got="the folder of an export, which Triton cannot load",
            expected="a Triton model repository",
            next_step=f"Pack it: alexnet export {quote(str(repository))} --repository {quote(str(other))}",
        )
    return RepositoryError(
        str(repository),
        got=got,
        expected="a Triton model repository",
        next_step="Write one: alexnet export CHECKPOINT --repository DIR",
    )
