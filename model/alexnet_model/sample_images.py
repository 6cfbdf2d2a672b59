"""Images that come with this package, for a first try: `alexnet classify sample:flower`.

`samples/LICENSE.md` names their authors and licences.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .class_names import DIGITS, imagenet_class_names
from .errors import UsageError

PREFIX = "sample:"
FOLDER = Path(__file__).parent / "samples"
_DIGITS = ("digit_3.png", "digit_5.png", "digit_8.png")  # no model of this project was trained on them
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def sample_image(name: str) -> Path:
    """Return the path of a sample image.

    Args:
        name: its name without the suffix, such as `flower`.

    Raises:
        UsageError: there is no such image.
    """
    names = {Path(file).stem: file for file in (*_DIGITS, *_PHOTOGRAPHS)}
    if name not in names:
        raise UsageError(
            f"{PREFIX}{name}", got="no such sample image", expected=f"{PREFIX} and one of {', '.join(names)}"
        )
    return FOLDER / names[name]


def samples_of_classes(class_names: Sequence[str]) -> tuple[Path, ...]:
    """Return the sample images that show one of the classes of a model; none for other classes.

    Args:
        class_names: the model's classes: the digits, or those of ImageNet.
    """
    fitting: tuple[str, ...] = ()
    if tuple(class_names) == DIGITS:
        fitting = _DIGITS
    elif tuple(class_names) == imagenet_class_names():
        fitting = _PHOTOGRAPHS
    return tuple(FOLDER / name for name in fitting)
