"""Compare every file of a repository with its record, `export.json`, before a server is started.

There is no list of rules. Lint makes each model's configuration again from the record and from the options
that it was written with, and compares it field by field with the one in the repository. So every change of a
number or a word is found and named (docs/decisions/lint.md).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_model.differences import Key
from alexnet_model.errors import ManifestError, RepositoryError, os_error_reason
from alexnet_model.manifest import MANIFEST_NAME, Manifest, manifest_from_folder
from alexnet_model.progress import Progress, silent

from ..repositories.layout import (
    CONFIG_FILE,
    DECODING_MODEL,
    LABELS_FILE,
    VERSION,
    ModelEntry,
    RepositoryOptions,
    engine_runtimes,
    entries_of,
    holds_encoded,
    holds_engines,
    takes_encoded,
)
from ..repositories.writing import models_of_repository
from .files import (
    EnumName,
    Finding,
    finding_from_error,
    findings_of_differences,
    hash_findings,
    label_findings,
    link_findings,
    passport_findings,
    presence_findings,
    reference_findings,
    size_findings,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]

    from ..repositories.model_config import ConfigMaker

OPTIONS_FIELD = 'parameters["repository_options"].string_value'


def lint(repository: Path, *, hashes: bool = True, progress: Progress = silent) -> tuple[Finding, ...]:
    """Return every difference between a repository and its record; empty if there is none.

    Args:
        repository: The repository.
        hashes: Whether to read and hash the large files too.
        progress: Called with the bytes that were hashed.

    Raises:
        RepositoryError: the repository is missing or has no model.
    """
    if not any(repository.glob(f"*/{CONFIG_FILE}")):
        models_of_repository(repository)  # raises with what is missing
    try:
        return _findings(repository, hashes, progress)
    except OSError as error:
        got = os_error_reason(error)
        return (Finding(str(error.filename or repository), "", got, "a folder that can be read"),)


def _findings(repository: Path, hashes: bool, progress: Progress) -> tuple[Finding, ...]:
    from ..repositories.model_config import config_makers  # tritonclient is slow to import

    try:
        manifest = manifest_from_folder(repository)
    except ManifestError as error:
        return (
            finding_from_error(error, repository, MANIFEST_NAME),
            *_edited_passports(repository),
        )
    folders = sorted(path.name for path in repository.iterdir() if path.is_dir())
    configs = {name: _Config(repository, name) for name in folders}
    findings: list[Finding] = []
    try:
        written = [config.options for config in configs.values() if config.options]
        entries, options = _entries_and_options(repository, manifest, written)
        makers = config_makers(entries.values(), manifest, encoded=options.encoded)
        for name, config in configs.items():
            findings += config.findings(makers.get(name), options, is_network=name in entries)
    except RepositoryError as error:
        return (Finding(MANIFEST_NAME, error.subject, error.got, error.expected),)
    except (TypeError, ValueError) as error:  # such as a batch size that does not fit into the protobuf field
        return (
            Finding(MANIFEST_NAME, "", f"a record without a valid configuration ({error})", "a valid one"),
        )
    for name in sorted(configs.keys() | makers.keys()):
        findings += _model_findings(name, entries.get(name), name in makers, repository, manifest)
    findings += reference_findings(manifest, repository)
    if hashes:
        findings += hash_findings(entries.values(), manifest, repository, progress)
    return tuple(findings)


class _Config:
    """One model's `config.pbtxt`, read once; `options` is None if none can be read."""

    def __init__(self, repository: Path, model: str) -> None:
        self._file = f"{model}/{CONFIG_FILE}"
        self._config: Message | None = None
        self.options: RepositoryOptions | None = None
        self._problem: Finding | None = None
        self._read(repository / self._file)

    def findings(
        self, make: ConfigMaker | None, options: RepositoryOptions, *, is_network: bool
    ) -> Iterator[Finding]:
        """Yield where the configuration differs from the one that `make` returns.

        A network is compared with the queue that its own options describe, so that an edited option shows in
        the field that it sets. Options that hold for the whole repository are compared with the repository's
        `options`.

        Raises TypeError or ValueError if the record does not describe a valid configuration.
        """
        if self._problem:
            yield self._problem
        if self.options is None or make is None:
            return
        if is_network:
            options = replace(self.options, runtime=options.runtime, encoded=options.encoded)
        yield from findings_of_differences(_values(self._config), _values(make(options)), self._file)

    def _read(self, path: Path) -> None:
        from google.protobuf.text_format import ParseError  # type: ignore[import-untyped]

        from ..repositories.model_config import OPTIONS_PARAMETER, config_from_text

        try:
            self._config = config_from_text(path.read_text(encoding="utf-8"))
        except OSError as error:
            self._problem = Finding(self._file, "", os_error_reason(error), "a model's configuration")
        except UnicodeDecodeError as error:
            self._problem = Finding(self._file, "", f"{error}", "text in UTF-8")
        except ParseError as error:
            line = f"line {error.GetLine()}" if error.GetLine() else ""
            reason = re.sub(r"^[\d:]+ : ", "", f"{error}").removesuffix(".")
            self._problem = Finding(self._file, line, reason, "Triton's model configuration")
        else:
            if OPTIONS_PARAMETER not in self._config.parameters:
                self._problem = Finding(
                    self._file, OPTIONS_FIELD, "nothing", "the options it was written with"
                )
                return
            try:
                text = self._config.parameters[OPTIONS_PARAMETER].string_value
                self.options = RepositoryOptions.from_json(text)
            except ValueError as error:
                self._problem = Finding(self._file, OPTIONS_FIELD, f"{error}", "repository options")


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


def _entries_and_options(
    repository: Path, manifest: Manifest, written: Sequence[RepositoryOptions]
) -> tuple[dict[str, ModelEntry], RepositoryOptions]:
    """Return the networks that the repository should hold, by name, and its options.

    The options are those that most configurations record. The files count as one more vote, which decides a
    tie.

    Args:
        repository: The repository.
        manifest: Its record.
        written: The options of each configuration that can be read.

    Raises:
        RepositoryError: the record cannot be packed with these options.
    """
    most = Counter(written).most_common(1)[0][0] if written else RepositoryOptions()
    runtime = Counter([_runtime_of_files(repository, written), *(o.runtime for o in written)]).most_common(1)[
        0
    ][0]
    entries = entries_of(manifest, replace(most, runtime=runtime))

    def as_files(encoded: bool | None) -> bool:
        return takes_encoded(entries, encoded) == holds_encoded(repository)

    votes = Counter([options.encoded for options in written] or [None])
    encoded = max(votes, key=lambda value: (votes[value], as_files(value)))
    return {entry.name: entry for entry in entries}, replace(most, runtime=runtime, encoded=encoded)


def _runtime_of_files(repository: Path, written: Sequence[RepositoryOptions]) -> str | None:
    """Return the option `runtime` by which files were packed: one with engines, if there are engines."""
    with_engines = [runtime.name for runtime in engine_runtimes()]
    is_engine = holds_engines(repository)
    fitting = [options.runtime for options in written if (options.runtime in with_engines) == is_engine]
    if fitting:
        return Counter(fitting).most_common(1)[0][0]
    return with_engines[0] if is_engine else None


def _model_findings(
    name: str, entry: ModelEntry | None, is_ours: bool, repository: Path, manifest: Manifest
) -> Iterator[Finding]:
    if not is_ours:
        yield Finding(name, "", "a folder", f"only models that {MANIFEST_NAME} accepts")
        return
    if not (repository / name).is_dir():
        yield Finding(name, "", "no such folder", f"a model that {MANIFEST_NAME} accepts")
        return
    yield from link_findings(name, repository)
    if name != DECODING_MODEL:
        yield from label_findings(f"{name}/{LABELS_FILE}", repository, manifest.model.class_names)
    yield from presence_findings(name, entry, repository)
    if entry is None:
        return
    yield from size_findings(entry, repository)
    for plan, engine in entry.engines.items():
        yield from passport_findings(f"{name}/{VERSION}/{plan}", engine, repository)


def _edited_passports(repository: Path) -> Iterator[Finding]:
    """Yield the edited fields if the record's hash chain is broken by an edited passport in it."""
    try:
        text = (repository / MANIFEST_NAME).read_text(encoding="utf-8")
        manifest = Manifest.model_validate(json.loads(text))
        entries = [
            entry
            for runtime in engine_runtimes()
            for entry in entries_of(manifest, RepositoryOptions(runtime=runtime.name))
        ]
    except (OSError, ValueError, RepositoryError):
        return
    for entry in entries:
        for plan, engine in entry.engines.items():
            if engine.passport.digest != engine.passport_digest:
                yield from passport_findings(f"{entry.name}/{VERSION}/{plan}", engine, repository)
