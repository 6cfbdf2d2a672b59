"""Options that several commands share, and conversions from option texts to values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from alexnet_model.errors import UsageError
from alexnet_model.manifest import PRECISIONS, Precision

RepositoryOption = Annotated[
    Path, typer.Option("--repository", help="The Triton model repository.", show_default=True)
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON to standard output instead of a table.")]


def architecture_options_from(texts: list[str]) -> dict[str, bool | int | float | str]:
    """Parse `width=0.25` to an argument of a network's factory: a bool, int or float if it is one, else text.

    Raises:
        UsageError: a text is no KEY=VALUE, or a key repeats.
    """
    options: dict[str, bool | int | float | str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier() or key in options:
            raise UsageError("--arch-option", got=repr(text), expected="KEY=VALUE, each KEY once")
        options[key] = _value_from(value)
    return options


def names_from(texts: list[str]) -> tuple[str, ...]:
    """Split the values of a repeated option at commas: `a,b` and `c` to `a`, `b` and `c`."""
    return tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))


def _value_from(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def precisions_from(text: str | None) -> tuple[Precision, ...] | None:
    """Parse `fp32,int8` to precisions; None stays None.

    Raises:
        UsageError: a word is not a precision.
    """
    if text is None:
        return None
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in PRECISIONS]
    if unknown or not words:
        raise UsageError(
            "--precision",
            got=repr(unknown[0] if unknown else text),
            expected=f"some of {','.join(PRECISIONS)}",
        )
    return tuple(cast("Precision", word) for word in dict.fromkeys(words))


def model_from_options(model: str | None, precision: str | None) -> str:
    """Return the name of the model to query: as given, by its precision, or the default.

    Raises:
        UsageError: both are given, the name is empty, or the precision is unknown.
    """
    from alexnet_clients import DEFAULT_MODEL

    if precision is None and model is None:
        return DEFAULT_MODEL
    if precision is None:
        if not model:
            raise UsageError("--model", got="no name", expected=f"one such as {DEFAULT_MODEL}")
        return model
    if model is not None:
        raise UsageError("--model and --precision", got="both", expected="one of them")
    word = precision.strip().lower()
    if word not in PRECISIONS:
        raise UsageError("--precision", got=repr(precision), expected=" or ".join(PRECISIONS))
    return f"alexnet_{word}"
