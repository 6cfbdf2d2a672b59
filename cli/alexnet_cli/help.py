"""The text of `--help`: groups of options, within 80 columns, and no name cut off.

Typer's own format with Rich draws a table, which shortens names and wraps explanations to a few words a line.
"""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

_NAME_WIDTH = 24  # a longer name has a line of its own
_INDENT = "  "
# How Typer writes the type of a value, and what is shown instead.
_TYPES = {
    "<int range>": "N",
    "<int>": "N",
    "<float range>": "X",
    "<float>": "X",
    "<str>": "TEXT",
    "<path>": "PATH",
    " <list[str]>": "",
}
_RANGES = (
    (r"(\S+)<=x<=(\S+)(?=\]$)", r"\1 to \2"),
    (r"x>=(\S+)(?=\]$)", r"at least \1"),
    (r"\[default: \((.*)\)(; [^\]]*)?\]$", r"[default: \1\2]"),  # a default that is described in words
)


class PlainCommand(TyperCommand):
    """A command whose options are grouped by their `rich_help_panel`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = super().collect_usage_pieces(ctx)
        return [re.sub("[{}]", "", piece).replace("......", "...") for piece in pieces]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(formatter, self.help or "")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class PlainGroup(TyperGroup):
    """A group of commands, which are grouped by their `rich_help_panel` too."""

    command_class = PlainCommand

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(formatter, self.help or "")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, command in self.commands.items():
            if not command.hidden:
                title = getattr(command, "rich_help_panel", None) or "Commands"
                first = " ".join((command.help or "").partition("\n\n")[0].split())
                groups[title].append((name, first))
        for title, rows in groups.items():
            _write_rows(formatter, title, rows)
        _write_options(self, ctx, formatter)


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            name, explanation = record
            for shown, replacement in _TYPES.items():
                name = name.replace(shown, replacement)
            groups[getattr(parameter, "rich_help_panel", None) or usual].append((name, explanation))
    for title in ("Arguments", "Options"):  # first; the other groups follow in their order
        if title in groups:
            _write_rows(formatter, title, groups.pop(title))
    for title, rows in groups.items():
        _write_rows(formatter, title, rows)


def _write_text(formatter: Any, text: str) -> None:
    for paragraph in text.split("\n\n"):
        formatter.write("\n")
        # An example may end in the last column, so that it fits into one line.
        width = formatter.width if paragraph.startswith("Example:") else formatter.width - len(_INDENT)
        lines = _wrapped(paragraph, width)
        formatter.write("".join(f"{_INDENT}{line}\n" for line in lines))


def _write_rows(formatter: Any, title: str, rows: Iterable[tuple[str, str]]) -> None:
    formatter.write(f"\n{title}:\n")
    rows = list(rows)
    name_width = min(_NAME_WIDTH, max(len(name) for name, _ in rows))
    for name, explanation in rows:
        for pattern, replacement in _RANGES:
            explanation = re.sub(pattern, replacement, explanation)
        lines = _wrapped(explanation, formatter.width - name_width - 2 * len(_INDENT))
        if len(name) > name_width:
            formatter.write(f"{_INDENT}{name}\n")
            name = ""
        for line in lines or [""]:
            formatter.write(f"{_INDENT}{name:<{name_width}}{_INDENT}{line}".rstrip() + "\n")
            name = ""


def _wrapped(text: str, width: int) -> list[str]:
    """Wrap at spaces only: an option's name stays whole, so that it can be copied."""
    return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)
