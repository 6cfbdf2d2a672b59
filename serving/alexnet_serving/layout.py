"""How a repository is laid out and tuned: names and options, light to import."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_model.errors import UsageError
from alexnet_model.manifest import PRECISIONS, Precision

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MODEL_FILE = "model.onnx"


def model_name(precision: Precision) -> str:
    return f"alexnet_{precision}"


OUR_MODELS = frozenset(model_name(precision) for precision in PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class RepositoryOptions:
    """How requests wait for a model; 0 stands for no limit.

    With a limit, a full queue refuses at once, and a request that waited too long is refused instead of
    answered late. The limits are off by default because of what they cost: with any of them Triton (from
    23.08 on; seen in 2.51) hands its batches over differently, and under
    load its queue stands still for half a second again and again. A request whose client has given up leaves
    an unlimited queue too, so deadlines, which the client always sets, bound it.

    `queue_delay_us` is how long Triton holds an incomplete batch back for more requests to join it.
    """

    queue_size: int = 0  # requests
    queue_timeout_s: float = 0.0
    queue_delay_us: int = 0

    def __post_init__(self) -> None:
        if self.queue_size < 0:
            raise UsageError("queue size", got=str(self.queue_size), expected="0 (no limit) or more requests")
        if not 0 <= self.queue_timeout_s <= 3600:
            raise UsageError("queue timeout", got=f"{self.queue_timeout_s:g} s", expected="0 to 3600 s")
        if not 0 <= self.queue_delay_us <= 1_000_000:
            raise UsageError("queue delay", got=f"{self.queue_delay_us} us", expected="0 to 1,000,000 us")
