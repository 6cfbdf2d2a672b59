"""Options that several commands share, and the few conversions from words to values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from alexnet_model.errors import UsageError
from alexnet_model.manifest import PRECISIONS, Precision

RepositoryOption = Annotated[
    Path, typer.Option("--repository", help="The Triton model repository.", show_default=True)
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def precisions_from(text: str | None) -> tuple[Precision, ...] | None:
    """`fp32,int8` to its precisions; None stays None.

    Raises:
        UsageError: a word is no precision.
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
