"""Requests under way: a bounded number, answered in the order in which they were sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

from .preparing import Batch, Batches
from .steps import Steps, done
from .transports.transport import InferReply

Send: TypeAlias = Callable[[Batch], Steps[Future[InferReply]]]
Sent: TypeAlias = tuple[Batch, Future[InferReply] | None]  # None where a batch holds nothing to ask


class InFlight:
    """Sends batches as there is room for them, `limit` ahead of the answer that is waited for."""

    def __init__(self, batches: Batches, send: Send, *, limit: int) -> None:
        self._batches = batches
        self._send = send
        self._limit = limit
        self._sent: deque[Sent] = deque()
        self._exhausted = False

    def next(self) -> Steps[Sent | None]:
        """The oldest batch with its finished request, None after the last."""
        yield from self._fill()
        if not self._sent:
            return None
        _, future = self._sent[0]
        if future is not None:
            yield from done(future)
        return self._sent.popleft()

    def close(self) -> None:
        """An error or an interrupt leaves no request running and no image waiting."""
        self._batches.close()
        for _, future in self._sent:
            if future is not None:
                future.cancel()

    def _fill(self) -> Steps[None]:
        while not self._exhausted and len(self._sent) < self._limit:
            if self._sent and _is_answered(self._sent[0]):
                return  # hand it over before the next images are waited for
            batch = yield from self._batches.next()
            if batch is None:
                self._exhausted = True
                return
            future = None if batch.rows is None else (yield from self._send(batch))
            self._sent.append((batch, future))


def _is_answered(sent: Sent) -> bool:
    _, future = sent
    return future is None or future.done()
