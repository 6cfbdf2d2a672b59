"""What the tools themselves are held to: a recipe's result as JSON, and the section that shows it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from alexnet_bench.environment import Environment, environment_here
from alexnet_bench.figures.intervals import Figure
from alexnet_bench.reports.sections import day_in_words
from alexnet_cli.screen import say
from alexnet_model.errors import ReportError
from alexnet_model.files import write_text_atomically
from alexnet_model.records import Record


class Line(Record):
    """One figure, what was asked of it, and whether it holds."""

    name: str
    figure: Figure  # over the rounds
    asked: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.figure}; asked {self.asked}: {'yes' if self.holds else 'NO'}"


class ToolResult(Record):
    """All of one recipe. `notes` are what it found beside."""

    title: str
    command: str
    environment: Environment
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return all(line.holds for line in self.lines)


def end_with(title: str, lines: Sequence[Line], notes: Sequence[str], file: Path | None) -> int:
    """Say it, write it where that was asked for, and give the exit code: 1 where something does not hold."""
    words = [word for word in sys.argv if not file or word not in ("--json", str(file))]
    result = ToolResult(
        title=title,
        command=shlex.join(["python", *words]),
        environment=environment_here(),
        lines=tuple(lines),
        notes=tuple(notes),
    )
    say(f"{result.environment.machine}; {title}")
    for line in (*result.lines, *result.notes):
        say(f"  {line}")
    if file is not None:
        write_text_atomically(file, result.model_dump_json(indent=1) + "\n")
    return 0 if result.holds else 1


def section_of(folder: Path) -> str:
    """Markdown of every result in a folder; empty where there is none.

    Raises:
        ReportError: a file is not such a result.
    """
    results = [_read(file) for file in sorted(folder.glob("*.json"))]
    return "\n".join(line for result in results for line in _lines_of(result)) if results else ""


def _lines_of(result: ToolResult) -> Iterator[str]:
    day = day_in_words(result.environment.date)
    yield from (f"### {result.title}", "")
    commit = result.environment.commit or "no commit"
    yield f"{result.environment.machine}, {day}, {commit}: `{result.command}`"
    yield from ("", "| | | asked | |", "|:--|:--|:--|:--|")
    for line in result.lines:
        yield f"| {line.name} | {line.figure} | {line.asked} | {'yes' if line.holds else '**no**'} |"
    yield from ("", *(f"- {note}" for note in result.notes), "")


def _read(file: Path) -> ToolResult:
    try:
        return ToolResult.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        said = next(iter(str(error).splitlines()), "")
        raise ReportError(
            str(file), got=said, expected="a recipe's result", next_step="Measure: make bench-tools."
        ) from error
