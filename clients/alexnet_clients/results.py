"""Predictions as lines: one JSON object, or one row of CSV, a picture; and a file of them to go on with.

A line is written by one system call, so that a file holds whole lines whenever it is looked at. Should a
machine have died in the middle of one, going on cuts it off.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from alexnet_model.errors import PictureError, UsageError
from alexnet_model.files import write_text_atomically

from .predictions import Prediction

Format = Literal["json", "csv"]
_COLUMNS = ("picture", "model", "latency_ms", "request_bytes", "error_type", "error")
_OF_A_CLASS = ("label", "index", "probability")
# An error that the picture would have again; any other was the server's or the network's.
_FINAL_ERRORS = ("", PictureError.__name__)


@dataclass(frozen=True)
class LineFormat:
    """How a prediction is written: `top` is how many classes a row of CSV has room for."""

    kind: Format
    top: int

    @property
    def header(self) -> str:
        """The first line of a file, if it has one."""
        if self.kind == "json":
            return ""
        of_classes = (f"{name}_{rank}" for rank in range(1, self.top + 1) for name in _OF_A_CLASS)
        return _csv_line([*_COLUMNS, *of_classes])

    def line(self, prediction: Prediction, model: str) -> str:
        """One line with its end."""
        row = row_from_prediction(prediction, model)
        if self.kind == "json":
            return json.dumps(row, ensure_ascii=False) + "\n"
        of_classes = [found[name] for found in row["classes"] for name in _OF_A_CLASS]
        of_classes += [""] * (self.top * len(_OF_A_CLASS) - len(of_classes))
        return _csv_line([*("" if row[name] is None else row[name] for name in _COLUMNS), *of_classes])


def row_from_prediction(prediction: Prediction, model: str) -> dict[str, Any]:
    """A prediction as plain values."""
    return {
        "picture": prediction.picture,
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


@dataclass
class ResultFile:
    """A file of predictions, one line each, in a `with`.

    Raises, on construction:
        UsageError: the file is there and `resume` was not asked for, or it was written otherwise.
        OSError: it cannot be read or written.
    """

    path: Path
    lines: LineFormat
    model: str
    resume: bool = False
    done: set[str] = field(default_factory=set, init=False)  # names of pictures that it holds an answer for

    def __post_init__(self) -> None:
        if self.path.exists() and not self.resume:
            raise UsageError(
                str(self.path),
                got="a file that is there already",
                expected="a new one",
                next_step="Go on with it: --resume. Or name another.",
            )
        kept = self._kept_lines() if self.path.exists() else ""
        if not kept:
            write_text_atomically(self.path, self.lines.header)
        elif kept.encode() != self.path.read_bytes():
            write_text_atomically(self.path, kept)

    def __enter__(self) -> Self:
        self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def write(self, prediction: Prediction) -> None:
        """Add one line.

        Raises:
            OSError: the disk is full.
        """
        line = self.lines.line(prediction, self.model).encode()
        while line:
            line = line[os.write(self._handle, line) :]

    def _kept_lines(self) -> str:
        """What stays of the file: whole lines, of pictures that need not be asked again."""
        text = self.path.read_bytes().decode("utf-8", "replace")
        whole = text[: text.rfind("\n") + 1]
        if not whole:
            return ""
        if not whole.startswith(self.lines.header):
            raise self._otherwise(f"the columns {whole.splitlines()[0][:60]!r}")
        kept = [self.lines.header]
        for picture, model, error_type, line in self._rows(whole.removeprefix(self.lines.header)):
            if model != self.model:
                raise self._otherwise(f"answers of {model}")
            if error_type in _FINAL_ERRORS:
                self.done.add(picture)
                kept.append(line)
        return "".join(kept)

    def _rows(self, text: str) -> Iterator[tuple[str, str, str, str]]:
        """Picture, model, kind of error, and the line itself."""
        try:
            if self.lines.kind == "json":
                for line in text.splitlines(keepends=True):
                    row = json.loads(line)
                    yield row["picture"], row["model"], row["error_type"] or "", line
                return
            for values in csv.reader(io.StringIO(text), strict=True):
                row = dict(zip(_COLUMNS, values, strict=False))
                yield row["picture"], row["model"], row["error_type"], _csv_line(values)
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise self._otherwise(f"lines that are no {self.lines.kind.upper()} of predictions") from error

    def _otherwise(self, got: str) -> UsageError:
        return UsageError(
            str(self.path),
            got=got,
            expected=f"{self.lines.kind.upper()} of {self.model} with {self.lines.top} classes a picture",
            next_step="Go on with the options it was begun with, or name another file.",
        )


def _csv_line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
