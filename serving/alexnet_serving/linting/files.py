"""Lint's findings, and its checks of the files beside the configurations: present, complete, as recorded."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_model.differences import MISSING, differences
from alexnet_model.errors import AlexnetError, ManifestError, RepositoryError, os_error_reason
from alexnet_model.folders import is_junk
from alexnet_model.manifest import Engine
from alexnet_model.model_names import export_of_model, is_decoder
from alexnet_model.passport import PASSPORT_SUFFIX, Passport, passport_of, passport_path
from alexnet_model.progress import Progress
from alexnet_model.reading import open_regular, text_of_file
from alexnet_model.runtimes import engine_suffixes
from alexnet_model.triton_image import TRITON_IMAGE

from ..engine_compatibility import (
    first_passport,
    image_words,
    packed_with_engines,
    packing_words,
    rebuild_command,
    runtime_words,
)
from ..repositories.layout import CONFIG_FILE, LABELS_FILE, PLACEHOLDER_FILE, ModelEntry
from ..repositories.records import version_of_file

CHUNK_BYTES = 4 * 1024 * 1024
SHOWN = 56  # characters of a long value


@dataclass(frozen=True)
class Finding:
    """One difference between a repository and its record.

    Attributes:
        file: The file's path relative to the repository.
        field: The field of the file; empty if the finding is about the whole file.
        got: What was found.
        expected: What the record says.
    """

    file: str
    field: str
    got: str
    expected: str

    @property
    def about_engine(self) -> bool:
        """Return whether the file is an engine or its passport, which can be built again from here."""
        return self.file.endswith((*engine_suffixes(), PASSPORT_SUFFIX))

    def __str__(self) -> str:
        where = f"{self.file}: {self.field}" if self.field else self.file
        return f"{where}: got {self.got}, expected {self.expected}"


def raise_if_findings(
    repository: Path, findings: Sequence[Finding], *, shown: bool = False, image: str = TRITON_IMAGE
) -> None:
    """Raise an error if there are findings.

    Args:
        repository: The repository.
        findings: What `lint` returned.
        shown: Whether the user has seen the findings; otherwise the message has the first one.
        image: The image that will serve the repository.

    Raises:
        RepositoryError: there is a finding; the message has the command that fixes the repository.
    """
    if not findings:
        return
    see = f"See all of them: {shlex.join(['alexnet', 'lint', str(repository), *image_words(image)])}"
    fix = _fix(repository, findings, image)
    raise RepositoryError(
        str(repository),
        got=f"{len(findings)} finding{'' if len(findings) == 1 else 's'}",
        expected="none",
        next_step=fix if shown else f"The first is {findings[0]}. {see}. {fix}",
    )


def finding_from_error(error: AlexnetError, repository: Path, file: str) -> Finding:
    """Return the finding for an error whose subject is a file of the repository and maybe a field."""
    field = error.subject.removeprefix("passport of ").removeprefix(str(repository / file))
    return Finding(file, field.removeprefix(":").strip(), error.got, error.expected)


def findings_of_differences(got: Any, expected: Any, file: str) -> Iterator[Finding]:
    """Yield a finding for each value of a file that differs; long values are cut to where they differ."""
    for difference in differences(got, expected):
        yield Finding(file, difference.path, *_cut(_text(difference.got), _text(difference.expected)))


class EnumName(str):
    """The name of an enumeration's value, which is shown without quotes."""


def presence_findings(
    name: str, version: int, entry: ModelEntry | None, repository: Path
) -> Iterator[Finding]:
    """Yield the files that are missing from a model's folder, and those that nothing here wrote.

    Every extra file is a finding: Triton looks for a backend's library in the model's folder first. Junk is
    not: no library has such a name.

    Args:
        name: The model's name.
        version: The version that is served.
        entry: The model's entry; None for a model without a file of its own.
        repository: The repository.
    """
    recorded = recorded_files(entry) if entry else []
    files = [Path(record.file).name for record in recorded]
    passports = [passport_path(Path(plan)).name for plan in entry.engines] if entry else []
    texts = {CONFIG_FILE} if is_decoder(name) else {CONFIG_FILE, LABELS_FILE}
    of_version = {*files, *passports} if entry else {PLACEHOLDER_FILE}
    for folder, expected in ((str(version), of_version), ("", {*texts, str(version)})):
        path = repository / name / folder
        for found in sorted(path.iterdir()) if path.is_dir() else ():
            if found.name not in expected and not is_junk(found.name):
                what = "a folder" if found.is_dir() else "a file"
                yield Finding(
                    found.relative_to(repository).as_posix(), "", what, f"only {', '.join(sorted(expected))}"
                )
    yield from missing_findings(recorded, repository)  # missing passports and texts are found on reading
    placeholder = f"{name}/{version}/{PLACEHOLDER_FILE}"
    if entry is None and not (repository / placeholder).is_file():
        yield Finding(placeholder, "", "no such file", "a file to keep the version's folder")


def missing_findings(recorded: Iterable[Recorded], repository: Path) -> Iterator[Finding]:
    """Yield the recorded files that are missing."""
    for record in recorded:
        if not (repository / record.file).is_file():
            yield Finding(record.file, "", "no such file", "the one that the record of its export names")


def link_findings(model: str, repository: Path) -> Iterator[Finding]:
    """Yield the symbolic links of a model; they are broken in a container, which has the repository only."""
    for path in (repository / model, *sorted((repository / model).rglob("*"))):
        if path.is_symlink() and not is_junk(path.name):
            what = "folder" if path.is_dir() else "file"
            file = path.relative_to(repository).as_posix()
            yield Finding(file, "", "a symbolic link", f"a regular {what}")


def label_findings(file: str, repository: Path, names: Sequence[str]) -> Iterator[Finding]:
    """Yield where a label file differs from the class names, read as Triton reads it."""
    try:
        # For Triton a carriage return is a part of the name.
        labels = text_of_file(repository / file).removesuffix("\n").split("\n")
    except OSError as error:
        yield Finding(file, "", os_error_reason(error), f"{len(names)} class names")
        return
    except UnicodeDecodeError as error:
        yield Finding(file, "", f"{error}", "text in UTF-8")
        return
    if len(labels) != len(names):
        yield Finding(file, "", f"{len(labels)} lines", f"{len(names)}, one for each class")
        return
    different = [number for number in range(len(names)) if labels[number] != names[number]]
    if different:
        first = different[0]
        line = f"line {first + 1}" + (f", the first of {len(different)}" if len(different) > 1 else "")
        yield Finding(file, line, repr(labels[first]), repr(names[first]))


def size_findings(entry: ModelEntry, repository: Path) -> Iterator[Finding]:
    """Yield the model's files that do not have their recorded size."""
    for record in recorded_files(entry):
        size = _size(repository / record.file)
        if size is not None and size != record.size_bytes:
            yield Finding(record.file, "size", f"{size:,} bytes", f"{record.size_bytes:,} bytes")


def passport_findings(plan: str, engine: Engine, repository: Path, record: str) -> Iterator[Finding]:
    """Yield the fields in which the passport beside an engine differs from the recorded one.

    The record also has the passport's digest, which shows which of the two was edited.

    Args:
        plan: The engine's path in the repository.
        engine: What the record has of it.
        repository: The repository.
        record: The file of the record.
    """
    file = passport_path(Path(plan)).as_posix()
    try:
        passport = passport_of(repository / plan)
    except ManifestError as error:
        yield finding_from_error(error, repository, file)
        return
    if passport.digest == engine.passport_digest:
        for found in findings_of_differences(_values(engine.passport), _values(passport), record):
            field = f"passport of {engine.file}: {found.field}"
            yield Finding(record, field, found.got, found.expected)
    else:
        yield from findings_of_differences(_values(passport), _values(engine.passport), file)


def hash_findings(records: Collection[Recorded], repository: Path, progress: Progress) -> Iterator[Finding]:
    """Yield the files whose SHA-256 is not the recorded one; missing files and other sizes are left out.

    `progress` counts bytes.
    """
    sizes = {record.file: _size(repository / record.file) for record in records}
    whole = [record for record in records if sizes[record.file] == (record.size_bytes or sizes[record.file])]
    total = sum(sizes[record.file] or 0 for record in whole)
    done = 0
    for record in whole:
        if sizes[record.file] is None:
            continue
        try:
            digest = hashlib.sha256()
            with open_regular(repository / record.file) as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    done += len(chunk)
                    progress("hashing", done, total, record.file)
        except OSError as error:
            yield Finding(record.file, "", os_error_reason(error), "a file that can be read")
            continue
        if digest.hexdigest() != record.sha256:
            got, expected = digest.hexdigest()[:12], record.sha256[:12]
            yield Finding(record.file, "SHA-256", f"{got}...", f"{expected}...")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A large file of a repository as its record has it."""

    file: str
    size_bytes: int | None  # None: not recorded
    sha256: str


def recorded_files(entry: ModelEntry) -> list[Recorded]:
    """Return the large files of a model."""
    artifact = entry.artifact
    onnx = Recorded(file=entry.onnx_file, size_bytes=artifact.size_bytes, sha256=artifact.sha256)
    plans = [
        Recorded(
            file=entry.engine_file(plan),
            size_bytes=engine.passport.engine_size_bytes,
            sha256=engine.passport.engine_sha256,
        )
        for plan, engine in entry.engines.items()
    ]
    return [onnx, *plans]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _values(passport: Passport) -> dict[str, Any]:
    return passport.model_dump(mode="json")


def _fix(repository: Path, findings: Sequence[Finding], image: str) -> str:
    name = _export_of_file(findings[0].file)
    if all(finding.about_engine for finding in findings):
        return f"Build them again: {rebuild_command(repository, name, image=image)}"
    words = ["alexnet", "export", "CHECKPOINT", "--repository", str(repository), *image_words(image)]
    packed = packed_with_engines(repository, name)
    if packed is not None:
        if packed.options.serves_engines:
            words += runtime_words(first_passport(packed))
        words += packing_words(repository, packed)
    return f"Write it again: {shlex.join(words)}"


def _export_of_file(file: str) -> str:
    """Return the name of the export that a file of a repository belongs to."""
    top = file.partition("/")[0]
    kept = version_of_file(top)
    return kept[0] if kept else export_of_model(top)


def _text(value: Any) -> str:
    if value is MISSING or isinstance(value, EnumName):
        return str(value)
    if isinstance(value, Mapping):  # without the fields that have their default
        return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items() if inner) + "}"
    return json.dumps(value)


def _cut(got: str, expected: str) -> tuple[str, str]:
    pairs = enumerate(zip(got, expected, strict=False))
    first = next((index for index, (a, b) in pairs if a != b), 0)
    return _around(got, first), _around(expected, first)


def _around(text: str, position: int) -> str:
    """Cut a long text to what is around a position."""
    if len(text) <= SHOWN:
        return text
    start = max(0, min(position - SHOWN // 2, len(text) - SHOWN))
    end = start + SHOWN
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
