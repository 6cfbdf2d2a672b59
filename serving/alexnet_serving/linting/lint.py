"""Is this repository what was exported? Every file held against `export.json`, before a server is started.

Nothing is looked up in a list of rules. Each model's configuration is made anew from the record and from the
options that it was written with, and compared field by field with the one that is there; so a change of any
number or word in it is found, by name (docs/decisions/lint.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_model.errors import ManifestError, RepositoryError, os_error_reason
from alexnet_model.manifest import MANIFEST_NAME, Manifest, manifest_from_folder
from alexnet_model.progress import Progress, silent

from ..repositories.layout import (
    CONFIG_FILE,
    DECODING_MODEL,
    LABELS_FILE,
    VERSION,
    RepositoryOptions,
)
from ..repositories.model_entries import TENSORRT, ModelEntry, entries_of
from ..repositories.writing import models_of_repository
from .findings import Finding, finding_from_error
from .lint_files import (
    hash_findings,
    link_findings,
    passport_findings,
    present_findings,
    reference_findings,
    size_findings,
)
from .options_inference import entries_and_options

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]

    from ..repositories.model_config import ConfigMaker

OPTIONS_FIELD = 'parameters["repository_options"].string_value'


def lint(repository: Path, *, hashes: bool = True, progress: Progress = silent) -> tuple[Finding, ...]:
    """What is wrong with a repository; empty if nothing. Without `hashes` no large file is read.

    Raises:
        RepositoryError: it is missing, or holds no model at all.
    """
    if not any(repository.glob(f"*/{CONFIG_FILE}")):
        models_of_repository(repository)  # says what is missing
    try:
        return _findings(repository, hashes, progress)
    except OSError as error:
        got = os_error_reason(error)
        return (Finding(str(error.filename or repository), "", got, "a folder that can be read"),)


def _findings(repository: Path, hashes: bool, progress: Progress) -> tuple[Finding, ...]:
    try:
        manifest = manifest_from_folder(repository)
    except ManifestError as error:
        return (
            finding_from_error(error, repository, MANIFEST_NAME),
            *_altered_passports(repository),
        )
    configs = {name: _Config(repository, name) for name in _folders(repository)}
    findings: list[Finding] = []
    try:
        written = [config.options for config in configs.values() if config.options]
        entries, options = entries_and_options(repository, manifest, written)
        makers = _config_makers(entries.values(), manifest, options)
        for name, config in configs.items():
            findings += config.findings(makers.get(name), options, is_network=name in entries)
    except RepositoryError as error:
        return (Finding(MANIFEST_NAME, error.subject, error.got, error.expected),)
    except (TypeError, ValueError) as error:  # such as a batch that no protobuf holds
        return (Finding(MANIFEST_NAME, "", f"what makes no configuration ({error})", "an export record"),)
    for name in sorted(configs.keys() | makers.keys()):
        findings += _model_findings(name, entries.get(name), name in makers, repository, manifest)
    findings += reference_findings(manifest, repository)
    if hashes:
        findings += hash_findings(entries.values(), manifest, repository, progress)
    return tuple(findings)


class _Config:
    """One model's `config.pbtxt`, read once."""

    def __init__(self, repository: Path, model: str) -> None:
        self._file = f"{model}/{CONFIG_FILE}"
        self._config: Message | None = None
        self.options: RepositoryOptions | None = None  # None: there are none to be read
        self._problem: Finding | None = None
        self._read(repository / self._file)

    def findings(
        self, make: ConfigMaker | None, options: RepositoryOptions, *, is_network: bool
    ) -> Iterator[Finding]:
        """Where it is not what `make` makes of the record; `options` are the repository's.

        A network is held to the queue that it names itself, so that an altered number shows where it acts.
        Options that the whole repository has alike are a difference like any, where they are others.

        Raises TypeError or ValueError where the record makes no configuration.
        """
        if self._problem:
            yield self._problem
        if self.options is None or make is None:
            return
        from .differences import differences

        if is_network:
            options = replace(self.options, backend=options.backend, encoded=options.encoded)
        for difference in differences(self._config, make(options)):
            yield Finding(self._file, difference.field, difference.got, difference.expected)

    def _read(self, path: Path) -> None:
        from google.protobuf.text_format import ParseError  # type: ignore[import-untyped]

        from ..repositories.model_config import (  # tritonclient is slow to import
            OPTIONS_PARAMETER,
            config_from_text,
        )

        try:
            self._config = config_from_text(path.read_text(encoding="utf-8"))
        except OSError as error:
            got = os_error_reason(error)
            self._problem = Finding(self._file, "", got, "a model's configuration")
        except UnicodeDecodeError as error:
            self._problem = Finding(self._file, "", f"{error}", "text in UTF-8")
        except ParseError as error:
            line = f"line {error.GetLine()}" if error.GetLine() else ""
            said = re.sub(r"^[\d:]+ : ", "", f"{error}").removesuffix(".")
            self._problem = Finding(self._file, line, said, "Triton's model configuration")
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


def _config_makers(
    entries: Collection[ModelEntry], manifest: Manifest, options: RepositoryOptions
) -> dict[str, ConfigMaker]:
    from ..repositories.model_config import config_makers  # tritonclient is slow to import

    return config_makers(entries, manifest, encoded=options.encoded)


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
        yield from _label_findings(f"{name}/{LABELS_FILE}", repository, manifest)
    yield from present_findings(name, entry, repository)
    if entry is None:
        return
    yield from size_findings(entry, repository)
    for plan, engine in entry.engines.items():
        yield from passport_findings(f"{name}/{VERSION}/{plan}", engine, repository)


def _label_findings(file: str, repository: Path, manifest: Manifest) -> Iterator[Finding]:
    names = list(manifest.model.class_names)
    try:
        # As Triton reads them, to which a carriage return is a part of the name.
        labels = (repository / file).read_bytes().decode().removesuffix("\n").split("\n")
    except OSError as error:
        yield Finding(file, "", os_error_reason(error), f"{len(names)} class names")
        return
    except UnicodeDecodeError as error:
        yield Finding(file, "", f"{error}", "text in UTF-8")
        return
    if len(labels) != len(names):
        yield Finding(file, "", f"{len(labels)} lines", f"{len(names)}, one a class")
        return
    different = [number for number in range(len(names)) if labels[number] != names[number]]
    if different:
        first = different[0]
        line = f"line {first + 1}" + (f", the first of {len(different)}" if len(different) > 1 else "")
        yield Finding(file, line, repr(labels[first]), repr(names[first]))


def _altered_passports(repository: Path) -> Iterator[Finding]:
    """Where the record's chain does not hold because a passport in it was edited: which field of it."""
    try:
        text = (repository / MANIFEST_NAME).read_text(encoding="utf-8")
        manifest = Manifest.model_validate(json.loads(text))
        entries = entries_of(manifest, RepositoryOptions(backend=TENSORRT))
    except (OSError, ValueError, RepositoryError):
        return
    for entry in entries:
        for plan, engine in entry.engines.items():
            if engine.passport.digest != engine.passport_digest:
                yield from passport_findings(f"{entry.name}/{VERSION}/{plan}", engine, repository)


def _folders(repository: Path) -> list[str]:
    return sorted(path.name for path in repository.iterdir() if path.is_dir())
