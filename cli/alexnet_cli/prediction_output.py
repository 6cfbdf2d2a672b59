"""Print a prediction: its image, and the classes with a bar for each probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .screen import escaped, note, out, say

if TYPE_CHECKING:
    from alexnet_clients import Prediction

_BAR_WIDTH = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_prediction(prediction: Prediction) -> None:
    """Print the classes on standard output, or an error as one line on standard error."""
    if prediction.error:
        note(escaped(f"Error: {prediction.error}"))
        return
    say(escaped(prediction.image))
    for found in prediction.classes:
        bar = f"  {bar_of(found.probability)}" if _draws_bars() else ""
        say(f"  {found.probability:7.2%}{bar}  {escaped(found.label)}")


def bar_of(share: float) -> str:
    """A bar for a share 0..1, precise to an eighth of a character."""
    eighths = round(share * _BAR_WIDTH * 8)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(_BAR_WIDTH)


def _draws_bars() -> bool:
    return out.is_terminal and out.encoding.startswith("utf")
