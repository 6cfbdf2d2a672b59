"""Which exports and versions a repository holds, which version is served, and where their records are.

All of it is in files at the root of the repository, which Triton ignores:

    repository.json                     the index: the versions of each export, and the one that is served
    flowers.1.export.json               the record of version 1 of the export `flowers`
    flowers.1.reference.safetensors     PyTorch's outputs of it
    flowers.1.flowers_int8.onnx         its files, for `alexnet rollback`, if that version is not served

The files of the served version are in the folders of its models.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from alexnet_model.contract import canonical_json
from alexnet_model.errors import ManifestError, UsageError
from alexnet_model.files import restore_interrupted, write_text_atomically
from alexnet_model.manifest import MANIFEST_NAME, REFERENCE_NAME, Manifest, manifest_from_folder
from alexnet_model.model_names import NAME_PATTERN, check_name
from alexnet_model.records import Record, record_from_file

from .layout import ModelEntry, RepositoryOptions, entries_of, kept_file

INDEX_NAME = "repository.json"
_KEPT_FILE = re.compile(rf"({NAME_PATTERN})\.([1-9]\d*)\..+")  # what `kept_file` returns


def _options_from_record(value: object) -> RepositoryOptions:
    """Validate options of a record; pydantic turns the ValueError into a named field."""
    if isinstance(value, RepositoryOptions):
        return value
    return RepositoryOptions.from_json(canonical_json(value))


def _record_from_options(options: RepositoryOptions) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(options.to_json())
    return fields


OptionsField = Annotated[
    RepositoryOptions, PlainValidator(_options_from_record), PlainSerializer(_record_from_options)
]


class ExportVersions(Record):
    """The versions of one export in a repository."""

    served: int = Field(description="the version that Triton serves")
    versions: dict[Annotated[int, Field(ge=1)], OptionsField] = Field(description="how each was written")

    @model_validator(mode="after")
    def _check_served(self) -> ExportVersions:
        if self.served not in self.versions:
            raise ValueError(f"version {self.served} is served and is none of {sorted(self.versions)}")
        return self


class RepositoryIndex(Record):
    """`repository.json`: the exports of a repository by name."""

    schema_version: Literal[1] = 1
    exports: dict[str, ExportVersions]

    @model_validator(mode="after")
    def _check_names(self) -> RepositoryIndex:
        for name in self.exports:
            try:
                check_name(name)
            except UsageError as error:
                raise ValueError(str(error)) from error
        return self


@dataclass(frozen=True, kw_only=True)
class PackedExport:
    """One version of an export, as a repository holds it.

    Attributes:
        manifest: Its record; `model_version` is its version.
        options: How it was written.
        is_served: Whether Triton serves this version.
    """

    manifest: Manifest
    options: RepositoryOptions
    is_served: bool

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """The networks of this version.

        Raises:
            RepositoryError: the record cannot be packed with these options.
        """
        return entries_of(self.manifest, self.options, is_served=self.is_served)


def is_repository(folder: Path) -> bool:
    """Return whether a folder is a repository that this project wrote; an export's folder is not one."""
    return (folder / INDEX_NAME).is_file()


def index_of(repository: Path) -> RepositoryIndex:
    """Read the index of a repository.

    Raises:
        ManifestError: it is broken or missing, as in a folder that is no repository or that an older version
            wrote.
    """
    path = repository / INDEX_NAME
    if not path.is_file():
        restore_interrupted(repository)
    if not path.is_file() and (repository / MANIFEST_NAME).is_file():
        raise ManifestError(
            str(path),
            got=f"no such file beside {MANIFEST_NAME}",
            expected="a repository of this version, and not an export's folder or an older repository",
            next_step=f"Export it again: alexnet export CHECKPOINT --repository {quote(str(repository))}",
        )
    make = "Write a repository: alexnet export CHECKPOINT --repository DIR"
    if path.is_file():
        command = f"alexnet export CHECKPOINT --repository {quote(str(repository))}"
        make = f"Remove the folder, then export again: {command}"
    return record_from_file(RepositoryIndex, path, what="the index of a model repository", make=make)


def names_of_records(repository: Path) -> set[str]:
    """Return the names of the exports that have a record in a folder, by the names of its files."""
    files = [path.name for path in repository.iterdir()] if repository.is_dir() else []
    found = (version_of_file(file) for file in files if file.endswith(f".{MANIFEST_NAME}"))
    return {kept[0] for kept in found if kept}


def write_index(index: RepositoryIndex, repository: Path) -> None:
    """Write the index of a repository.

    Raises:
        OSError: the folder cannot be written.
    """
    write_text_atomically(repository / INDEX_NAME, index.model_dump_json(indent=2) + "\n")


def packed_exports(repository: Path) -> tuple[PackedExport, ...]:
    """Return the served version of each export of a repository, sorted by name.

    Raises:
        ManifestError: the index or a record is missing or broken.
    """
    return tuple(packed_export(repository, name) for name in sorted(index_of(repository).exports))


def packed_export(repository: Path, name: str | None = None, version: int | None = None) -> PackedExport:
    """Return one version of an export of a repository.

    Args:
        repository: The repository.
        name: The name of the export. None: the only one of the repository.
        version: The version. None: the one that is served.

    Raises:
        UsageError: the repository does not hold it, or `name` is None and there are several exports.
        ManifestError: the index or the record is missing or broken.
    """
    index = index_of(repository)
    name = name_in(index, repository, name)
    export = index.exports[name]
    version = export.served if version is None else version
    if version not in export.versions:
        raise UsageError(
            f"version of {name}",
            got=str(version),
            expected=f"one that {repository} holds: {', '.join(map(str, sorted(export.versions)))}",
        )
    file = record_file(name, version)
    manifest = manifest_from_folder(repository, file)
    if (manifest.model.name, manifest.model_version) != (name, version):
        raise ManifestError(
            str(repository / file),
            got=f"the record of {manifest.model.name} version {manifest.model_version}",
            expected=f"that of {name} version {version}",
            next_step="Export again.",
        )
    options = export.versions[version]
    return PackedExport(manifest=manifest, options=options, is_served=version == export.served)


def name_in(index: RepositoryIndex, repository: Path, name: str | None) -> str:
    """Return the name of an export of a repository: `name`, or for None that of its only export.

    Raises:
        UsageError: it holds no export of that name, or `name` is None and it holds several.
    """
    names = sorted(index.exports)
    if name is None and len(names) == 1:
        return names[0]
    if name not in index.exports:
        raise UsageError(
            "name",
            got="none" if name is None else repr(name),
            expected=f"one of {repository}: {', '.join(names)}",
            next_step=f"Add --name {names[0] if names else 'NAME'}." if name is None else "",
        )
    return name


def version_of_file(file: str) -> tuple[str, int] | None:
    """Return the export and the version that a file at the root of a repository is of; None if of none."""
    found = _KEPT_FILE.fullmatch(file)
    return (found[1], int(found[2])) if found else None


def record_file(name: str, version: int) -> str:
    """Return the name of the file that has the record of a version."""
    return kept_file(name, version, MANIFEST_NAME)


def reference_file(name: str, version: int) -> str:
    """Return the name of the file that has PyTorch's outputs of a version."""
    return kept_file(name, version, REFERENCE_NAME)
