"""Compare every file of a repository with its records, before a server is started.

There is no list of rules. Lint makes each model's configuration again from the record of its export and from
the options that the index has, and compares it field by field with the one in the repository. So every change
of a number or a word is found and named (docs/decisions/lint.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_model.differences import Key
from alexnet_model.errors import ManifestError, RepositoryError, os_error_reason
from alexnet_model.folders import is_junk
from alexnet_model.manifest import Manifest
from alexnet_model.model_names import is_decoder, models_of_export
from alexnet_model.progress import Progress, silent
from alexnet_model.reading import text_of_file, value_from_json
from alexnet_model.triton_image import queue_timeout_decays

from ..repositories.layout import (
    CONFIG_FILE,
    LABELS_FILE,
    ModelEntry,
    RepositoryOptions,
    configs_of_repository,
    entries_of,
)
from ..repositories.records import (
    INDEX_NAME,
    PackedExport,
    RepositoryIndex,
    index_of,
    packed_export,
    record_file,
    reference_file,
    version_of_file,
)
from ..repositories.writing import models_of_repository
from .files import (
    EnumName,
    Finding,
    Recorded,
    finding_from_error,
    findings_of_differences,
    hash_findings,
    label_findings,
    link_findings,
    missing_findings,
    passport_findings,
    presence_findings,
    recorded_files,
    size_findings,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]

    from ..repositories.model_config import ConfigMaker


QUEUE_BUG = "triton-inference-server/server#8870, core#509"


def lint(
    repository: Path, *, hashes: bool = True, triton_release: str | None = None, progress: Progress = silent
) -> tuple[Finding, ...]:
    """Return every difference between a repository and its record; empty if there is none.

    Args:
        repository: The repository.
        hashes: Whether to read and hash the large files too.
        triton_release: The release of the Triton that will serve it, such as `26.07`. If a queue timeout
            lowers the throughput of that release, each one is a finding. None: the recorded release.
        progress: Called with the bytes that were hashed.

    Raises:
        RepositoryError: the repository is missing or has no model.
    """
    if not configs_of_repository(repository):
        models_of_repository(repository)  # raises with what is missing
    try:
        return _findings(repository, hashes, triton_release, progress)
    except OSError as error:
        got = os_error_reason(error)
        return (Finding(str(error.filename or repository), "", got, "a folder that can be read"),)


def _findings(
    repository: Path, hashes: bool, triton_release: str | None, progress: Progress
) -> tuple[Finding, ...]:
    try:
        index = index_of(repository)
    except ManifestError as error:
        return (finding_from_error(error, repository, INDEX_NAME),)
    findings: list[Finding] = []
    recorded: list[Recorded] = []
    models: set[str] = set()
    for name, export in sorted(index.exports.items()):
        for version in sorted(export.versions):
            try:
                packed = packed_export(repository, name, version)
                recorded += _recorded_files_of(packed)
                if packed.is_served:
                    models |= _makers_of(packed).keys()
                    findings += _served_findings(packed, repository, triton_release)
                else:
                    findings += _kept_findings(packed, repository)
            except (ManifestError, RepositoryError, TypeError, ValueError) as error:
                findings += _findings_of_record(error, repository, name, version, export.versions[version])
                if version == export.served:
                    models |= models_of_export(name)
    findings += _findings_at_root(repository, index, models)
    if hashes:
        findings += hash_findings(recorded, repository, progress)
    return tuple(findings)


def _makers_of(packed: PackedExport) -> dict[str, ConfigMaker]:
    """Return the function that makes each model's configuration, by the model's name."""
    from ..repositories.model_config import config_makers  # tritonclient is slow to import

    return config_makers(packed.entries, packed.manifest, encoded=packed.options.encoded)


def _served_findings(packed: PackedExport, repository: Path, triton_release: str | None) -> list[Finding]:
    """Return where the models of a served version differ from its record, or are not for this release.

    Raises:
        RepositoryError: the record cannot be packed with these options.
        TypeError, ValueError: the record does not describe a valid configuration.
    """
    entries = {entry.name: entry for entry in packed.entries}
    makers = _makers_of(packed)
    options = packed.options
    if triton_release is not None and queue_timeout_decays(triton_release):
        options = replace(options, triton_release=triton_release)
    findings: list[Finding] = []
    for name, make in sorted(makers.items()):
        expected = make(options)
        if (repository / name).is_dir():
            found = _config_findings(f"{name}/{CONFIG_FILE}", repository, expected)
            findings += (_with_reason(finding, options) for finding in found)
    for name in sorted(makers):
        findings += _model_findings(name, entries.get(name), repository, packed.manifest)
    findings += missing_findings(_reference_of(packed.manifest), repository)
    return findings


def _with_reason(finding: Finding, options: RepositoryOptions) -> Finding:
    """Return a finding about a queue's policy with the reason why its Triton gets no timeout."""
    if not options.queue_timeout_decays or "default_queue_policy" not in finding.field:
        return finding
    reason = f"on Triton {options.triton_release} a queue timeout lowers throughput over time ({QUEUE_BUG})"
    return replace(finding, expected=f"{finding.expected}: {reason}")


def _kept_findings(packed: PackedExport, repository: Path) -> list[Finding]:
    """Return what is missing or altered of a version that is kept for `alexnet rollback`."""
    findings = list(missing_findings(_recorded_files_of(packed), repository))
    for entry in packed.entries:
        findings += size_findings(entry, repository)
        for plan, engine in entry.engines.items():
            findings += passport_findings(entry.engine_file(plan), engine, repository, _record_of(packed))
    return findings


def _findings_at_root(repository: Path, index: RepositoryIndex, models: set[str]) -> Iterator[Finding]:
    """Yield folders that are no models of the exports, and files of versions that the index does not name."""
    for path in sorted(repository.iterdir()):
        if is_junk(path.name):
            continue
        kept = version_of_file(path.name)
        if path.is_dir() and path.name not in models:
            yield Finding(path.name, "", "a folder", "only models that the record of an export accepts")
        elif kept and (kept[0] not in index.exports or kept[1] not in index.exports[kept[0]].versions):
            yield Finding(path.name, "", "a file", f"only those of versions in {INDEX_NAME}")


def _findings_of_record(
    error: Exception, repository: Path, name: str, version: int, options: RepositoryOptions
) -> Iterator[Finding]:
    """Yield the findings for a record that cannot be read or packed."""
    file = record_file(name, version)
    if isinstance(error, RepositoryError):
        yield Finding(file, error.subject, error.got, error.expected)
    elif isinstance(error, ManifestError):
        yield finding_from_error(error, repository, file)
        yield from _edited_passports(repository, file, options)
    else:  # such as a batch size that does not fit into the protobuf field
        yield Finding(file, "", f"a record without a valid configuration ({error})", "a valid one")


def _record_of(packed: PackedExport) -> str:
    return record_file(packed.manifest.model.name, packed.manifest.model_version)


def _reference_of(manifest: Manifest) -> list[Recorded]:
    if manifest.reference_sha256 is None:
        return []
    file = reference_file(manifest.model.name, manifest.model_version)
    return [Recorded(file=file, size_bytes=None, sha256=manifest.reference_sha256)]


def _recorded_files_of(packed: PackedExport) -> list[Recorded]:
    of_entries = [recorded for entry in packed.entries for recorded in recorded_files(entry)]
    return [*of_entries, *_reference_of(packed.manifest)]


def _config_findings(file: str, repository: Path, expected: Message) -> Iterator[Finding]:
    """Yield where a `config.pbtxt` differs from the configuration that its record describes."""
    from google.protobuf.text_format import ParseError  # type: ignore[import-untyped]

    from ..repositories.model_config import config_from_text

    try:
        config = config_from_text(text_of_file(repository / file))
    except OSError as error:
        yield Finding(file, "", os_error_reason(error), "a model's configuration")
    except UnicodeDecodeError as error:
        yield Finding(file, "", f"{error}", "text in UTF-8")
    except ParseError as error:
        line = f"line {error.GetLine()}" if error.GetLine() else ""
        reason = re.sub(r"^[\d:]+ : ", "", f"{error}").removesuffix(".")
        yield Finding(file, line, reason, "Triton's model configuration")
    else:
        yield from findings_of_differences(_values(config), _values(expected), file)


def _values(message: Any) -> dict[str, Any]:
    """Return a protobuf message as nested values, with every field that is set or has a default."""
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, Mapping):
            value_field = field.message_type.fields_by_name["value"]
            values[field.name] = {Key(key): _value(value_field, value[key]) for key in sorted(value)}
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            values[field.name] = [_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            values[field.name] = _value(field, value)
    return values


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _values(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return EnumName(named.name if named else value)
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _model_findings(
    name: str, entry: ModelEntry | None, repository: Path, manifest: Manifest
) -> Iterator[Finding]:
    record = record_file(manifest.model.name, manifest.model_version)
    if not (repository / name).is_dir():
        yield Finding(name, "", "no such folder", f"a model that {record} accepts")
        return
    yield from link_findings(name, repository)
    if not is_decoder(name):
        yield from label_findings(f"{name}/{LABELS_FILE}", repository, manifest.model.class_names)
    yield from presence_findings(name, manifest.model_version, entry, repository)
    if entry is None:
        return
    yield from size_findings(entry, repository)
    for plan, engine in entry.engines.items():
        yield from passport_findings(entry.engine_file(plan), engine, repository, record)


def _edited_passports(repository: Path, record: str, options: RepositoryOptions) -> Iterator[Finding]:
    """Yield the edited fields if the record's hash chain is broken by an edited passport in it."""
    try:
        manifest = Manifest.model_validate(value_from_json(text_of_file(repository / record)))
        index = index_of(repository).exports[manifest.model.name]
        is_served = manifest.model_version == index.served
        entries = entries_of(manifest, options, is_served=is_served)
    except (OSError, KeyError, ValueError, RepositoryError):
        return
    for entry in entries:
        for plan, engine in entry.engines.items():
            if engine.passport.digest != engine.passport_digest:
                yield from passport_findings(entry.engine_file(plan), engine, repository, record)
