"""What a caller gets back: one prediction a picture, in the caller's order, errors in their places."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from alexnet_model.errors import AlexnetError, ClientError

from .preparing import Batch
from .replies import Classification, classifications_from_reply
from .transport import InferReply


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the server says of one picture: `classes` best first, or `error` and no classes.

    `latency_ms` is of the request that carried the picture, `request_bytes` the picture's share of it.
    """

    picture: str
    classes: tuple[Classification, ...] = ()
    latency_ms: float | None = None
    request_bytes: int | None = None
    error: AlexnetError | None = None

    @property
    def best(self) -> Classification:
        """The most probable class.

        Raises:
            AlexnetError: this picture's own error, where it has one.
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
    classes: int,
    subject: str,
) -> Iterator[Prediction]:
    """Wait for a batch's answer and give every slot its own part of it, or its error."""
    failure: ClientError | None = None
    answered: Iterator[Prediction] = iter(())
    if future is not None:
        names = [slot.name for slot in batch.slots if slot.image is not None]
        try:
            reply = future.result()
            rows = classifications_from_reply(
                reply, output, pictures=len(names), top=top, classes=classes, subject=subject
            )
        except ClientError as error:
            failure = error
        else:
            share = -(-reply.request_bytes // len(names))  # rounded up
            answered = iter(
                [
                    Prediction(picture=name, classes=row, latency_ms=reply.latency_ms, request_bytes=share)
                    for name, row in zip(names, rows, strict=True)
                ]
            )
    for slot in batch.slots:
        error_here = slot.error or failure
        yield Prediction(picture=slot.name, error=error_here) if error_here else next(answered)
