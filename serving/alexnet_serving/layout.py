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
    """How requests wait for a model. A full queue refuses at once, and a request that waited too long is
    refused instead of answered late; a client may ask for a shorter wait.

    `queue_delay_us` is how long Triton holds an incomplete batch back for more requests to join it.
    """

    queue_size: int = 128  # requests
    queue_timeout_s: float = 10.0
    queue_delay_us: int = 0

    def __post_init__(self) -> None:
        if self.queue_size < 1:
            raise UsageError("queue size", got=str(self.queue_size), expected="at least 1 request")
        if not 0 < self.queue_timeout_s <= 3600:
            raise UsageError("queue timeout", got=f"{self.queue_timeout_s:g} s", expected="0 to 3600 s")
        if not 0 <= self.queue_delay_us <= 1_000_000:
            raise UsageError("queue delay", got=f"{self.queue_delay_us} us", expected="0 to 1,000,000 us")
