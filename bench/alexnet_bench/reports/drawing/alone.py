"""A drawing as a file of its own, for Markdown: it brings its title and its style, and asks for nothing."""

from __future__ import annotations

from html import escape
from textwrap import wrap

from .canvas import WIDTH, Drawing, text

_PAD = 14
_TITLE, _NOTE = 48, 66  # letters in a line
_TITLE_ROW, _NOTE_ROW = 19, 17
_SHOWN = 460  # pixels: two stand side by side on a usual page


def svg_alone(title: str, note: str, drawing: Drawing, style: str) -> str:
    """The image on its card, under its title and how to read it."""
    parts, top = [], _PAD
    for words, letters, row, kind in ((title, _TITLE, _TITLE_ROW, "title"), (note, _NOTE, _NOTE_ROW, "note")):
        for line in wrap(words, letters):
            parts.append(text(_PAD, top + row - 5, line, kind=kind))
            top += row
    top += 10
    width, height = WIDTH + 2 * _PAD, top + drawing.height + _PAD
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SHOWN}" height="{height * _SHOWN / width:.0f}" '
        f'viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(drawing.words)}">\n'
        f"<style>\n{escape(style, quote=False)}</style>\n"
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1:.0f}" rx="8" class="card"/>\n'
        + "\n".join(parts)
        + f'\n<g transform="translate({_PAD} {top})">\n'
        + "\n".join(drawing.parts)
        + "\n</g>\n</svg>\n"
    )
