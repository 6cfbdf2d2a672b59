"""What every plot is drawn on: a width, a title, markers and a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 460
COLOURS = 9
_KEY_ROW = 19


@dataclass(frozen=True)
class Key:
    """One entry of the key. Its colour is `c0` to `c8`, or `r0` to `r7` of a ramp; no marker is a box."""

    name: str
    colour: str
    marker: int | None = None


@dataclass(frozen=True)
class Drawing:
    """What is drawn on a canvas, `WIDTH` wide; `words` say it to those who do not see it."""

    words: str
    parts: tuple[str, ...]
    height: float


def svg_from_drawing(drawing: Drawing) -> str:
    """An image within a page, whose style it takes; it is scaled to the width that it is given."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {drawing.height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'aria-label="{escape(drawing.words)}">' + "".join(drawing.parts) + "</svg>"
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    """One line of text."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def marker(x: float, y: float, shape: int, *, hollow: bool = False, says: str = "") -> str:
    """A mark in the colour of what it is in. Shapes differ too: colour is not all that tells lines apart."""
    kind = "hollow" if hollow else "mark"
    title = f"<title>{escape(says)}</title>" if says else ""
    if shape % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{kind}">{title}</circle>'
    corners = {
        1: ((-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)),
        2: ((0, -4.8), (4.6, 3.4), (-4.6, 3.4)),
        3: ((0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0)),
    }[shape % 4]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" class="{kind}">{title}</polygon>'


def cut(words: str, longest: int) -> str:
    """Without its middle where it is too long: names differ at their ends."""
    if len(words) <= longest:
        return words
    end = longest // 2
    return f"{words[: longest - 1 - end]}…{words[-end:]}"


def key_rows(entries: Sequence[Key], top: float) -> tuple[list[str], float]:
    """The key, an entry a row, and where it ends. Short names share a row."""
    columns = 1 if any(len(entry.name) > 24 for entry in entries) else 2
    if all(len(entry.name) <= 9 for entry in entries):
        columns = 4
    parts = []
    for index, entry in enumerate(entries):
        x = 14 + (index % columns) * (WIDTH - 14) / columns
        y = top + (index // columns) * _KEY_ROW
        if entry.marker is None:
            mark = f'<rect x="{x - 6:.1f}" y="{y - 6:.1f}" width="12" height="12" rx="2" class="mark"/>'
        else:
            mark = marker(x, y, entry.marker)
        parts.append(f'<g class="{entry.colour}">{mark}</g>' + text(x + 13, y + 4, entry.name, kind="key"))
    return parts, top + -(-len(entries) // columns) * _KEY_ROW
