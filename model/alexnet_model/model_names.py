"""Names of precisions, of exports, and of the models that Triton serves from one.

An export named `flowers` is served as `flowers_fp32`, `flowers_fp16` and `flowers_int8`, which take prepared
images, and as `flowers`, which takes encoded images and uses `flowers_decode`.
"""

from __future__ import annotations

import re
from typing import Literal

from .errors import UsageError

#: The name of a precision: `fp32`, `fp16` or `int8`.
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]*"  # safe in a file name, in a shell and for Triton
MAX_NAME = 64  # characters
_DECODE = "_decode"
# An export must not be named like a model of another export.
_MODEL_SUFFIXES = (*(f"_{precision}" for precision in PRECISIONS), _DECODE)


def check_name(name: str) -> None:
    """Check that an export may have this name.

    Args:
        name: The name, such as `flowers`.

    Raises:
        UsageError: it is empty or too long, has other characters than a-z, 0-9, '_' and '-', starts with '_'
            or '-', or ends like the name of a model.
    """
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > MAX_NAME:
        raise UsageError(
            "name",
            got=repr(name),
            expected=f"1 to {MAX_NAME} of a-z, 0-9, '_' and '-', the first a letter or digit",
            next_step="Use a name such as flowers.",
        )
    if name.endswith(_MODEL_SUFFIXES):
        raise UsageError(
            "name",
            got=repr(name),
            expected=f"one that does not end in {', '.join(_MODEL_SUFFIXES)}, as the models of an export do",
            next_step="Leave the ending out.",
        )


def default_name(architecture: str) -> str:
    """Return the name of an export that was given none.

    Args:
        architecture: One of ours such as `alexnet`, or `package.module:factory`, of which the factory counts.

    Returns:
        The name in lower case, with '_' for every other character than a-z and 0-9.
    """
    name = re.sub(r"[^a-z0-9_]", "_", architecture.rpartition(":")[2].lower()).lstrip("_")
    name = name[: MAX_NAME - len("_model")] or "model"
    return f"{name}_model" if name.endswith(_MODEL_SUFFIXES) else name


def network_name(name: str, precision: Precision) -> str:
    """Return the name of the model that computes an export in one precision, such as `flowers_int8`."""
    return f"{name}_{precision}"


def decoder_name(name: str) -> str:
    """Return the name of the model that decodes images for an export, such as `flowers_decode`."""
    return f"{name}{_DECODE}"


def is_decoder(model: str) -> bool:
    """Return whether a model of that name decodes images and does not classify them."""
    return model.endswith(_DECODE)


def models_of_export(name: str) -> frozenset[str]:
    """Return the names of all models that an export can have; `name` itself takes encoded images."""
    return frozenset({name, decoder_name(name), *(network_name(name, precision) for precision in PRECISIONS)})


def export_of_model(model: str) -> str:
    """Return the name of the export that a model of that name belongs to, such as `flowers`."""
    ending = next((suffix for suffix in _MODEL_SUFFIXES if model.endswith(suffix)), "")
    return model.removesuffix(ending)
