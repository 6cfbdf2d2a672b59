"""Lint's look at the files beside the configurations: there, whole, and the recorded ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_model.errors import ManifestError, os_error_reason
from alexnet_model.manifest import MANIFEST_NAME, REFERENCE_NAME, Engine, Manifest
from alexnet_model.passport import Passport, passport_of, passport_path
from alexnet_model.progress import Progress

from ..repositories.layout import (
    CONFIG_FILE,
    DECODING_MODEL,
    LABELS_FILE,
    MODEL_FILE,
    NOTE_FILE,
    VERSION,
)
from ..repositories.model_entries import ModelEntry
from .findings import Finding, finding_from_error

PIECE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    file: str
    size_bytes: int | None  # None: not recorded
    sha256: str


def present_findings(name: str, entry: ModelEntry | None, repository: Path) -> Iterator[Finding]:
    """What is missing from a model's folder, and what is there and should not be; no entry, no model file.

    Strictly: Triton serves the highest version that it finds, and looks for a backend's library in a model's
    folder before its own.
    """
    recorded = [Path(record.file).name for record in _records(entry)] if entry else []
    passports = [passport_path(Path(plan)).name for plan in entry.engines] if entry else []
    texts = {CONFIG_FILE} if name == DECODING_MODEL else {CONFIG_FILE, LABELS_FILE}
    inside = {VERSION: {*recorded, *passports} if entry else {NOTE_FILE}, "": {*texts, VERSION}}
    for folder, expected in inside.items():
        path = repository / name / folder
        for found in sorted(path.iterdir()) if path.is_dir() else ():
            if found.name not in expected:
                what = "a folder" if found.is_dir() else "a file"
                yield Finding(
                    found.relative_to(repository).as_posix(), "", what, f"only {', '.join(sorted(expected))}"
                )
    for missing in recorded:  # passports and texts are missed where they are read
        file = f"{name}/{VERSION}/{missing}"
        if not (repository / file).is_file():
            yield Finding(file, "", "no such file", f"the one that {MANIFEST_NAME} records")
    if entry is None and not (repository / name / VERSION / NOTE_FILE).is_file():
        yield Finding(
            f"{name}/{VERSION}/{NOTE_FILE}", "", "no such file", "a file to keep the version's folder"
        )


def link_findings(model: str, repository: Path) -> Iterator[Finding]:
    """A container is shown the repository alone, where a link out of it leads nowhere."""
    for path in (repository / model, *sorted((repository / model).rglob("*"))):
        if path.is_symlink():
            what = "folder" if path.is_dir() else "file"
            file = path.relative_to(repository).as_posix()
            yield Finding(file, "", "a symbolic link", f"a {what} of its own")


def size_findings(entry: ModelEntry, repository: Path) -> Iterator[Finding]:
    for record in _records(entry):
        size = _size(repository / record.file)
        if size is not None and size != record.size_bytes:
            yield Finding(record.file, "size", f"{size:,} bytes", f"{record.size_bytes:,} bytes")


def passport_findings(plan: str, engine: Engine, repository: Path) -> Iterator[Finding]:
    """The passport beside an engine against the record's.

    Which of the two was edited, the digest says: the record keeps it beside its own copy.
    """
    file = passport_path(Path(plan)).as_posix()
    try:
        beside = passport_of(repository / plan)
    except ManifestError as error:
        yield finding_from_error(error, repository, file)
        return
    if beside.digest == engine.passport_digest:
        for field, got, expected in _different_fields(engine.passport, beside):
            yield Finding(MANIFEST_NAME, f"passport of {engine.file}: {field}", got, expected)
    else:
        for field, got, expected in _different_fields(beside, engine.passport):
            yield Finding(file, field, got, expected)


def reference_findings(manifest: Manifest, repository: Path) -> Iterator[Finding]:
    if manifest.reference_sha256 is not None and _size(repository / REFERENCE_NAME) is None:
        yield Finding(REFERENCE_NAME, "", "no such file", f"the one that {MANIFEST_NAME} records")


def hash_findings(
    entries: Iterable[ModelEntry], manifest: Manifest, repository: Path, progress: Progress
) -> Iterator[Finding]:
    """SHA-256 of every file that is there and not already found to have another size; reports bytes."""
    records = [record for entry in entries for record in _records(entry)]
    if manifest.reference_sha256 is not None:
        records.append(_Recorded(file=REFERENCE_NAME, size_bytes=None, sha256=manifest.reference_sha256))
    sizes = {record.file: _size(repository / record.file) for record in records}
    whole = [record for record in records if sizes[record.file] == (record.size_bytes or sizes[record.file])]
    total = sum(sizes[record.file] or 0 for record in whole)
    done = 0
    for record in whole:
        if sizes[record.file] is None:
            continue
        try:
            digest = hashlib.sha256()
            with (repository / record.file).open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
                    done += len(piece)
                    progress("hashing", done, total, record.file)
        except OSError as error:
            yield Finding(record.file, "", os_error_reason(error), "a file that can be read")
            continue
        if digest.hexdigest() != record.sha256:
            got, expected = digest.hexdigest()[:12], record.sha256[:12]
            yield Finding(record.file, "SHA-256", f"{got}...", f"{expected}...")


def _records(entry: ModelEntry) -> Iterator[_Recorded]:
    """The large files of a model."""
    artifact, version = entry.artifact, f"{entry.name}/{VERSION}"
    yield _Recorded(file=f"{version}/{MODEL_FILE}", size_bytes=artifact.size_bytes, sha256=artifact.sha256)
    for plan, engine in entry.engines.items():
        passport = engine.passport
        yield _Recorded(
            file=f"{version}/{plan}", size_bytes=passport.engine_size_bytes, sha256=passport.engine_sha256
        )


def _size(path: Path) -> int | None:
    """In bytes; None where there is no such file."""
    return path.stat().st_size if path.is_file() else None


def _different_fields(got: Passport, expected: Passport) -> Iterator[tuple[str, str, str]]:
    return _different(got.model_dump(mode="json"), expected.model_dump(mode="json"), "")


def _different(got: Any, expected: Any, at: str) -> Iterator[tuple[str, str, str]]:
    """A field's name, and its two values in JSON."""
    if isinstance(got, dict) and isinstance(expected, dict):
        for name in sorted(got.keys() | expected.keys()):
            yield from _different(got.get(name), expected.get(name), f"{at}.{name}" if at else name)
    elif got != expected:
        yield at, json.dumps(got), json.dumps(expected)
