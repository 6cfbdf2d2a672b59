"""Options of `alexnet export` that say how images are prepared, and the contract that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from alexnet_model.contract import Contract
from alexnet_model.contract_sources import PRESETS, contract_from_file
from alexnet_model.errors import ContractError, UsageError

_PANEL = "How images are prepared (for weights without a contract)"


def _option(text: str, default: str) -> Any:
    return typer.Option(help=text, show_default=default, rich_help_panel=_PANEL)


ContractFileOption = Annotated[
    Path | None,
    typer.Option(
        "--contract",
        metavar="FILE",
        help='JSON file with some fields of a contract, such as {"size": 227}. Options replace its values.',
        rich_help_panel=_PANEL,
    ),
]
PresetOption = Annotated[
    str | None,
    _option("Mean and std: imagenet (torchvision's), tf (pixels from -1 to 1) or none (0 to 1).", "imagenet"),
]
ImageSizeOption = Annotated[
    int | None, _option("Width and height of a prepared image in pixels, 1 to 4096.", "224")
]
ResizeOption = Annotated[
    str | None,
    _option(
        "Shorter side in pixels before the centre is cropped; 'stretch' to resize both sides to the image "
        "size; 'none' to crop without resizing.",
        "256",
    ),
]
InterpolationOption = Annotated[str | None, _option("bilinear, bicubic or nearest.", "bilinear")]
MeanOption = Annotated[
    str | None, _option("Subtracted from pixels in 0..1: three numbers with commas.", "0.485,0.456,0.406")
]
StdOption = Annotated[
    str | None, _option("The divisor after that: three numbers with commas.", "0.229,0.224,0.225")
]
ColourOption = Annotated[str | None, _option("Order of the channels: RGB or BGR.", "RGB")]
BackgroundOption = Annotated[
    str | None, _option("RGB colour under transparent pixels: three numbers, 0 to 255.", "255,255,255")
]


def contract_from_options(
    *,
    file: Path | None = None,
    preset: str | None = None,
    image_size: int | None = None,
    resize: str | None = None,
    interpolation: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    colour: str | None = None,
    background: str | None = None,
) -> Contract | None:
    """Make the contract that the options describe; None if none of them is given.

    Args:
        file: a JSON file with some of the fields.
        preset: a name in `PRESETS`, instead of a file.
        image_size: both sides of a prepared image in pixels.
        resize: a number of pixels, `stretch` or `none`.
        interpolation: a filter.
        mean: three numbers with commas.
        std: three numbers with commas.
        colour: the order of the channels.
        background: three whole numbers with commas.

    Raises:
        UsageError: an option has a wrong value, or two of them do not fit together.
    """
    if file is not None and preset is not None:
        raise UsageError("--contract and --preset", got="both", expected="one of them")
    if preset is not None and preset not in PRESETS:
        raise UsageError("--preset", got=repr(preset), expected=f"one of {', '.join(PRESETS)}")
    changes: dict[str, Any] = {
        "size": image_size,
        "resize": int(resize) if resize is not None and resize.isdecimal() else resize,
        "interpolation": interpolation,
        "mean": None if mean is None else _three("--mean", mean, float),
        "std": None if std is None else _three("--std", std, float),
        "colour": colour,
        "background": None if background is None else _three("--background", background, int),
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    if file is None and preset is None and not changes:
        return None
    try:
        base = PRESETS[preset or "imagenet"] if file is None else contract_from_file(file)
        return replace(base, **changes)
    except ContractError as error:
        field = error.subject.removeprefix("contract field ")
        option = "--image-size" if field == "size" else f"--{field}"
        raise UsageError(
            option if field != error.subject else error.subject,
            got=error.got,
            expected=error.expected,
            next_step=error.next_step,
        ) from error


def _three(option: str, text: str, kind: Callable[[str], float]) -> tuple[float, ...]:
    try:
        values = tuple(kind(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        whole = "whole " if kind is int else ""
        raise UsageError(option, got=repr(text), expected=f"three {whole}numbers with commas, such as 0,0,0")
    return values
