"""Did batching happen? From the executions that a server counted, and the cause where it did not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .plans import ClosedLoop, Loop

# Where a smaller share of the images than this met another request's, there is a cause to name.
_HARDLY = 0.1
# An open loop whose requests keep the model busy for less than this share hardly ever makes one wait.
_MOSTLY_IDLE = 0.5


@dataclass(frozen=True, kw_only=True)
class Batcher:
    """What a model's configuration says of batching."""

    max_batch: int
    queue_delay_us: int | None  # None: it has no dynamic batcher


def batching_words(
    executions_by_batch: Mapping[int, int],
    *,
    batch: int,
    batcher: Batcher,
    loop: Loop,
    execution_ms: float | None = None,
) -> str:
    """Whether requests of `batch` images were executed together, and if not why.

    `execution_ms` is what one execution took on average.
    """
    executions = sum(executions_by_batch.values())
    if not executions:
        return "unknown: the server counted no execution"
    images = sum(size * count for size, count in executions_by_batch.items())
    together = sum(size * count for size, count in executions_by_batch.items() if size > batch) / images
    if together >= _HARDLY:
        return (
            f"yes: {images / executions:.1f} images an execution on average, "
            f"{max(executions_by_batch)} at most"
        )
    cause = _cause(batch, batcher, loop, execution_ms)
    return f"hardly, for {together:.1%} of the images: {cause}" if together else f"no: {cause}"


def _cause(batch: int, batcher: Batcher, loop: Loop, execution_ms: float | None) -> str:
    if batcher.max_batch < 2:
        return f"max_batch_size is {batcher.max_batch}"
    if batcher.queue_delay_us is None:
        return "the model has no dynamic_batching"
    if 2 * batch > batcher.max_batch:
        return f"two requests of {batch} images are more than max_batch_size {batcher.max_batch}"
    if isinstance(loop, ClosedLoop):
        if loop.concurrency < 2:
            return "concurrency 1, a synchronous client: there is never a second request to batch with"
    elif execution_ms is not None and loop.rate_per_s * execution_ms < 1e3 * _MOSTLY_IDLE:
        gap_ms = 1e3 / loop.rate_per_s
        return (
            f"requests come {gap_ms:.3g} ms apart and each takes {execution_ms:.3g} ms: "
            "hardly two wait together"
        )
    if batcher.queue_delay_us == 0:
        return "the queue delay is 0 and an instance was idle when a request came"
    return f"no second request came within the queue delay of {batcher.queue_delay_us} us"
