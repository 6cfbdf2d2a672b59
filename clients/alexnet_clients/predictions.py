"""What a caller gets back, and how a server's reply is checked before it becomes that.

Shape, type and range of every output are checked, so that a wrong reply is an error and never a prediction.
"""

from __future__ import annotations

import itertools
import re
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import AlexnetError, BadRequest, BadResponse, ClientError, ImageError

from .images import Batch
from .transports.transport import FloatArray, InferReply, subject_of

# Softmax over a thousand classes in half precision adds up to one within about a thousandth.
_SUM_TOLERANCE = 0.01
# How the server's decoder reports a broken image, inside what Triton adds.
_IMAGE_ERROR = re.compile(r"ImageError: image: (?P<text>.*)", re.DOTALL)


@dataclass(frozen=True)
class Classification:
    """One class of one image."""

    label: str
    index: int
    probability: float  # 0..1


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The result for one image: its classes, or the error for which there are none.

    Attributes:
        image: the image's path, or its place such as `image 3`.
        classes: the most probable classes, best first; empty if there is an error.
        latency_ms: of the request that carried the image, in milliseconds.
        request_bytes: the image's share of the request.
        error: why the image could not be classified.
    """

    image: str
    classes: tuple[Classification, ...] = ()
    latency_ms: float | None = None
    request_bytes: int | None = None
    error: AlexnetError | None = None

    @property
    def best(self) -> Classification:
        """The most probable class.

        Raises:
            AlexnetError: the image could not be classified; its own error.
        """
        if self.error is not None:
            raise self.error
        return self.classes[0]


def predictions_from_batch(
    batch: Batch,
    future: Future[InferReply] | None,
    *,
    output: str,
    top: int,
    labels: tuple[str, ...],
    subject: str,
) -> tuple[Prediction, ...]:
    """One prediction for each slot of a batch whose request is finished; None: no image could be read."""
    names = [slot.name for slot in batch.slots if slot.row is not None]
    failure: ClientError | None = None
    found: list[Prediction] = []
    if future is not None:
        try:
            reply = future.result()
            subject = subject_of(subject, request_id=reply.request_id)
            rows = _classifications_from_reply(
                reply, output, images=len(names), top=top, labels=labels, subject=subject
            )
        except ClientError as error:
            failure = error
        else:
            share = -(-reply.request_bytes // len(names))  # rounded up
            found = [
                Prediction(image=name, classes=row, latency_ms=reply.latency_ms, request_bytes=share)
                for name, row in zip(names, rows, strict=True)
            ]
    succeeded = iter(found)
    predictions = []
    for slot in batch.slots:
        problem = slot.error or (failure and _own_error(failure, slot.name))
        predictions.append(Prediction(image=slot.name, error=problem) if problem else next(succeeded))
    return tuple(predictions)


def numbers_from_reply(
    reply: InferReply, name: str, *, shape: tuple[int, int], subject: str, are_probabilities: bool
) -> FloatArray:
    """One output as float32 `(N, classes)`, all values finite.

    Args:
        are_probabilities: also check that values are in 0..1 and that each row adds up to 1.

    Raises:
        BadResponse: the output is missing or fails a check.
    """
    values = _output(reply, name, shape, subject)
    if values.dtype != np.float32:
        raise BadResponse(f"{subject}: {name}", got=f"dtype {values.dtype}", expected="float32")
    if not np.isfinite(values).all():
        raise BadResponse(f"{subject}: {name}", got="NaN or infinity", expected="finite numbers")
    if are_probabilities:
        sums = values.sum(axis=-1)
        if values.min() < 0 or values.max() > 1 or np.abs(sums - 1).max() > _SUM_TOLERANCE:
            raise BadResponse(
                f"{subject}: {name}",
                got=f"values {values.min():.3g}..{values.max():.3g}, sums {sums.min():.3g}..{sums.max():.3g}",
                expected="probabilities that add up to 1",
            )
    return values


def _classifications_from_reply(
    reply: InferReply, name: str, *, images: int, top: int, labels: tuple[str, ...], subject: str
) -> list[tuple[Classification, ...]]:
    """The best `top` classes of each image, as Triton's classification extension writes them."""
    rows = _output(reply, name, (images, min(top, len(labels))), subject)
    subject = f"{subject}: {name}"
    found = [tuple(_classification_from_text(str(text), labels, subject) for text in row) for row in rows]
    for row, classes in zip(rows, found, strict=True):
        if any(left.probability < right.probability for left, right in itertools.pairwise(classes)):
            raise BadResponse(subject, got=f"{list(row)}", expected="the most probable first")
    return found


def _classification_from_text(text: str, labels: tuple[str, ...], subject: str) -> Classification:
    try:
        value, index, *label = text.split(":", 2)
        found = Classification(label[0] if label else "", int(index), float(value))
    except ValueError as error:
        raise BadResponse(subject, got=repr(text), expected="value:index:label") from error
    if not 0 <= found.probability <= 1:  # false for NaN too
        raise BadResponse(subject, got=repr(text), expected="a probability 0..1")
    if not 0 <= found.index < len(labels):
        raise BadResponse(subject, got=repr(text), expected=f"a class 0..{len(labels) - 1}")
    if found.label != labels[found.index]:
        expected = f"class {found.index}'s label {labels[found.index]!r}"
        raise BadResponse(subject, got=repr(text), expected=expected)
    return found


def _output(reply: InferReply, name: str, shape: tuple[int, ...], subject: str) -> npt.NDArray[Any]:
    values = reply.outputs.get(name)
    if values is None:
        got = ", ".join(sorted(reply.outputs)) or "no output"
        raise BadResponse(subject, got=got, expected=f"the output {name}")
    if values.shape != shape:
        raise BadResponse(f"{subject}: {name}", got=f"shape {values.shape}", expected=f"{shape}")
    return values


def _own_error(failure: ClientError, name: str) -> AlexnetError:
    """Report an image that the server could not decode as if it had been found here."""
    found = _IMAGE_ERROR.search(failure.got) if isinstance(failure, BadRequest) else None
    if found is None:
        return failure
    error = ImageError(f"{name}: {found['text'].rstrip('.')}.")
    error.__cause__ = failure
    return error
