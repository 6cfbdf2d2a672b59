"""Reading answers without believing them: shape, type and range are checked before anyone sees a figure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import BadResponse

from .transports.transport import FloatArray, InferReply

# Softmax over a thousand classes in half precision adds up to one within about a thousandth.
_SUM_TOLERANCE = 0.01


@dataclass(frozen=True)
class Classification:
    label: str
    index: int
    probability: float  # 0..1


def numbers_from_reply(reply: InferReply, name: str, *, shape: tuple[int, ...], subject: str) -> FloatArray:
    """One output as float32 of the given shape, all finite.

    Raises:
        BadResponse: it is missing, of another shape or type, or holds NaN or infinity.
    """
    values = _output(reply, name, shape, subject)
    if values.dtype != np.float32:
        raise BadResponse(f"{subject}: {name}", got=f"dtype {values.dtype}", expected="float32")
    if not np.isfinite(values).all():
        raise BadResponse(f"{subject}: {name}", got="NaN or infinity", expected="finite numbers")
    return values


def probabilities_from_reply(
    reply: InferReply, name: str, *, shape: tuple[int, ...], subject: str
) -> FloatArray:
    """As `numbers_from_reply`, and each row is a distribution.

    Raises:
        BadResponse: also where a value is outside 0..1 or a row does not add up to 1.
    """
    values = numbers_from_reply(reply, name, shape=shape, subject=subject)
    sums = values.sum(axis=-1)
    if values.min() < 0 or values.max() > 1 or np.abs(sums - 1).max() > _SUM_TOLERANCE:
        raise BadResponse(
            f"{subject}: {name}",
            got=f"values {values.min():.3g}..{values.max():.3g}, sums {sums.min():.3g}..{sums.max():.3g}",
            expected="probabilities that add up to 1",
        )
    return values


def classifications_from_reply(
    reply: InferReply, name: str, *, images: int, top: int, labels: tuple[str, ...], subject: str
) -> list[tuple[Classification, ...]]:
    """The best `top` classes of each image, as Triton's classification extension writes them.

    Raises:
        BadResponse: they are missing, too few or many, unordered, or not probabilities of known classes.
    """
    rows = _output(reply, name, (images, min(top, len(labels))), subject)
    return [_classifications_from_row(row, labels, f"{subject}: {name}") for row in rows]


def _classifications_from_row(
    row: npt.NDArray[Any], labels: tuple[str, ...], subject: str
) -> tuple[Classification, ...]:
    found = tuple(_classification_from_text(str(text), labels, subject) for text in row)
    if any(left.probability < right.probability for left, right in itertools.pairwise(found)):
        raise BadResponse(subject, got=f"{list(row)}", expected="the most probable first")
    return found


def _classification_from_text(text: str, labels: tuple[str, ...], subject: str) -> Classification:
    try:
        value, index, *label = text.split(":", 2)
        found = Classification(label[0] if label else "", int(index), float(value))
    except ValueError as error:
        raise BadResponse(subject, got=repr(text), expected="value:index:label") from error
    if not 0 <= found.probability <= 1:  # NaN is not in any range
        raise BadResponse(subject, got=repr(text), expected="a probability 0..1")
    if not 0 <= found.index < len(labels):
        raise BadResponse(subject, got=repr(text), expected=f"a class 0..{len(labels) - 1}")
    if found.label != labels[found.index]:
        raise BadResponse(
            subject, got=repr(text), expected=f"class {found.index}'s label {labels[found.index]!r}"
        )
    return found


def _output(reply: InferReply, name: str, shape: tuple[int, ...], subject: str) -> npt.NDArray[Any]:
    values = reply.outputs.get(name)
    if values is None:
        got = ", ".join(sorted(reply.outputs)) or "no output"
        raise BadResponse(subject, got=got, expected=f"the output {name}")
    if values.shape != shape:
        raise BadResponse(f"{subject}: {name}", got=f"shape {values.shape}", expected=f"{shape}")
    return values
