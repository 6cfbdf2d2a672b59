"""What a caller gets back: one prediction an image, in the caller's order, errors in their places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from alexnet_model.errors import AlexnetError, BadRequest, ClientError, ImageError

from .preparing import Batch
from .replies import Classification, classifications_from_reply
from .transports.transport import InferReply

# How the server's decoder says what is wrong with an image, inside what Triton adds.
_IMAGE_ERROR = re.compile(r"ImageError: image: (?P<text>.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the server says of one image: `classes` best first, or `error` and no classes.

    `latency_ms` is of the request that carried the image, `request_bytes` the image's share of it.
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
            AlexnetError: this image's own error, where it has one.
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
) -> Iterator[Prediction]:
    """Give every slot its own part of a finished request's answer, or its error."""
    failure: ClientError | None = None
    answered: Iterator[Prediction] = iter(())
    if future is not None:
        names = [slot.name for slot in batch.slots if slot.row is not None]
        try:
            reply = future.result()
            rows = classifications_from_reply(
                reply, output, images=len(names), top=top, labels=labels, subject=subject
            )
        except ClientError as error:
            failure = error
        else:
            share = -(-reply.request_bytes // len(names))  # rounded up
            answered = iter(
                [
                    Prediction(image=name, classes=row, latency_ms=reply.latency_ms, request_bytes=share)
                    for name, row in zip(names, rows, strict=True)
                ]
            )
    for slot in batch.slots:
        error_here = slot.error or (failure and _own_error(failure, slot.name))
        yield Prediction(image=slot.name, error=error_here) if error_here else next(answered)


def _own_error(failure: ClientError, name: str) -> AlexnetError:
    """What the server found wrong with this very image reads as if it had been found here."""
    found = _IMAGE_ERROR.search(failure.got) if isinstance(failure, BadRequest) else None
    if found is None:
        return failure
    error = ImageError(f"{name}: {found['text'].rstrip('.')}.")
    error.__cause__ = failure
    return error
