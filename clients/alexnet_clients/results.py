"""Predictions as lines: one JSON object, or one row of CSV, per image; and a file that can be resumed.

A line is written by one system call, so that a reader always finds whole lines. If the machine crashed in the
middle of one, resuming removes it. A name need not be UTF-8: JSON escapes such a byte, CSV keeps it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from alexnet_model.errors import ImageError, UsageError

from .predictions import Prediction

Format = Literal["json", "csv"]
_COLUMNS = ("image", "model", "latency_ms", "request_bytes", "error_type", "error")
_CLASS_COLUMNS = ("label", "index", "probability")
# Errors that the image would have again; any other error came from the server, the network or the disk.
_FINAL_ERRORS = ("", ImageError.__name__)


@dataclass(frozen=True)
class LineFormat:
    """How a prediction is written.

    Args:
        kind: json or csv.
        top: how many classes a prediction has, and a row of CSV has columns for.
    """

    kind: Format
    top: int

    @property
    def header(self) -> bytes:
        """The first line of a file; empty for JSON."""
        if self.kind == "json":
            return b""
        columns = (f"{name}_{rank}" for rank in range(1, self.top + 1) for name in _CLASS_COLUMNS)
        return _csv_line([*_COLUMNS, *columns])

    def line(self, prediction: Prediction, model: str) -> bytes:
        """One line with its line feed, in UTF-8.

        Args:
            prediction: the prediction.
            model: the name of the model that made it.
        """
        row = row_from_prediction(prediction, model)
        if self.kind == "json":
            # Surrogates become escapes that JSON reads as the same surrogates.
            return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        of_classes = [found[name] for found in row["classes"] for name in _CLASS_COLUMNS]
        of_classes += [""] * (self.top * len(_CLASS_COLUMNS) - len(of_classes))
        return _csv_line([*("" if row[name] is None else row[name] for name in _COLUMNS), *of_classes])


def row_from_prediction(prediction: Prediction, model: str) -> dict[str, Any]:
    """A prediction as the fields of a JSON object."""
    return {
        "image": prediction.image,
        "model": model,
        "classes": [
            {"label": found.label, "index": found.index, "probability": found.probability}
            for found in prediction.classes
        ],
        "latency_ms": prediction.latency_ms,
        "request_bytes": prediction.request_bytes,
        "error_type": type(prediction.error).__name__ if prediction.error else None,
        "error": str(prediction.error) if prediction.error else None,
    }


@dataclass(frozen=True)
class _Row:
    image: str
    model: str
    error_type: str
    line: bytes


@dataclass
class ResultFile:
    """A file of predictions, one line each. Constructing it reads the file; `with` opens it for writing.

    A symbolic link is followed.

    Args:
        path: the file; its folder is created.
        lines: how predictions are written.
        model: the name of the model that makes them.
        resume: continue a file that exists.

    Attributes:
        done: how often each image's name is in the file with a final result.
        failed: how many of those results are errors.

    Raises:
        UsageError: the file exists and `resume` is false, it was written with other options, or it is a
            folder or a device.
        OSError: it cannot be read.
    """

    path: Path
    lines: LineFormat
    model: str
    resume: bool = False
    done: Counter[str] = field(default_factory=Counter, init=False)
    failed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._mode: int | None = None
        self._is_clean = False
        if not self.path.exists():
            return
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode):
            got = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
            raise UsageError(str(self.path), got=got, expected="a file")
        if not self.resume:
            raise UsageError(
                str(self.path),
                got="a file that exists",
                expected="a new one",
                next_step="Continue it with --resume, or choose another file.",
            )
        self._mode = stat.S_IMODE(status.st_mode)
        kept_bytes = len(self.lines.header)
        for row in self._kept_rows():
            self.done[row.image] += 1
            self.failed += bool(row.error_type)
            kept_bytes += len(row.line)
        self._is_clean = kept_bytes == status.st_size

    def __enter__(self) -> Self:
        """Create the file, or remove from it what is not kept.

        Raises:
            OSError: it cannot be written.
        """
        target = self.path.resolve()
        if self._mode is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
            self._append(self.lines.header)
            return self
        if not self._is_clean:
            self._rewrite(target, self._mode)
        self._handle = os.open(target, os.O_WRONLY | os.O_APPEND)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def write(self, prediction: Prediction) -> None:
        """Add one line.

        Raises:
            OSError: the disk is full.
        """
        self._append(self.lines.line(prediction, self.model))

    def _append(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._handle, line) :]

    def _rewrite(self, target: Path, mode: int) -> None:
        """Write the kept rows to a new file, and replace the old one when it is complete."""
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.lines.header)
                file.writelines(row.line for row in self._kept_rows())
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def _kept_rows(self) -> Iterator[_Row]:
        """Whole lines with final results; one in memory at a time."""
        with self.path.open("rb") as file:
            lines = _csv_records(file) if self.lines.kind == "csv" else _whole_lines(file)
            if self.lines.header and (header := next(lines, None)) not in (None, self.lines.header):
                columns = header.decode("utf-8", "replace").rstrip()[:60]
                raise self._mismatch(f"the columns {columns!r}")
            for line in lines:
                row = self._row(line)
                if row.model != self.model:
                    raise self._mismatch(f"predictions of {row.model}")
                if row.error_type in _FINAL_ERRORS:
                    yield row

    def _row(self, line: bytes) -> _Row:
        try:
            if self.lines.kind == "csv":
                (values,) = csv.reader([line.decode("utf-8", "surrogateescape")], strict=True)
                if len(values) != len(_COLUMNS) + self.lines.top * len(_CLASS_COLUMNS):
                    raise ValueError("wrong number of columns")
                row: dict[str, Any] = dict(zip(_COLUMNS, values, strict=False))
            else:
                row = json.loads(line)
            found = _Row(row["image"], row["model"], row["error_type"] or "", line)
            if not all(isinstance(word, str) for word in (found.image, found.model, found.error_type)):
                raise TypeError("a name that is not text")
            classes = None if self.lines.kind == "csv" or found.error_type else len(row["classes"])
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise self._mismatch(f"lines that are not {self.lines.kind.upper()} of predictions") from error
        if classes not in (None, self.lines.top):
            raise self._mismatch(f"{classes} classes per image")
        return found

    def _mismatch(self, got: str) -> UsageError:
        return UsageError(
            str(self.path),
            got=got,
            expected=f"{self.lines.kind.upper()} of {self.model} with {self.lines.top} classes per image",
            next_step="Use the options that it was started with, or choose another file.",
        )


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines that a line feed ends. Text mode knows other line ends, which an image's name may contain."""
    return (line for line in file if line.endswith(b"\n"))


def _csv_records(file: BinaryIO) -> Iterator[bytes]:
    """Records: lines, joined if one ends inside quotes. An incomplete last record is left out."""
    record = b""
    for line in _whole_lines(file):
        record += line
        if record.count(b'"') % 2 == 0:
            yield record
            record = b""


def _csv_line(values: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)  # values with \r or \n are quoted
    return (text.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "surrogateescape")
