"""The seam between the client and the wire. The client's rules live above it; protocols live below it.

A transport answers with standard futures: waiting on one is the blocking client, many at a time is the
benchmark, and `asyncio.wrap_future` makes the same transport serve an asynchronous client.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Uint8Array

FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """`images` are checked and contiguous. With `top` the server names the best classes of each picture."""

    model: str
    images: Uint8Array  # (N, 224, 224, 3)
    input_name: str
    outputs: tuple[str, ...]
    top: int = 0  # 0: numbers; k: the best k as `value:index:label`


@dataclass(frozen=True)
class Message:
    """A request ready to be sent, as often as wanted."""

    request: InferRequest
    wire: bytes


@dataclass(frozen=True, kw_only=True)
class InferReply:
    """Outputs by name as they came, not yet believed: float32 numbers, or `str` objects for `top`."""

    outputs: Mapping[str, npt.NDArray[Any]]
    latency_ms: float  # from submitting to the answer
    request_bytes: int  # of the message on the wire, without the protocol's framing


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a server says of a model: as much as the client needs."""

    name: str
    backend: str
    max_batch: int
    output_shapes: Mapping[str, tuple[int, ...]]  # without the batch axis
    parameters: Mapping[str, str]


class Transport(Protocol):
    """Every method takes a deadline and raises only `ClientError` and its kinds; all are thread-safe."""

    def ready(self, *, timeout_s: float) -> bool:
        """Whether the server is live and all its models are ready.

        Raises:
            ClientError: no answer.
        """

    def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        """Read a model's configuration.

        Raises:
            ModelNotFound: the server has no such model.
            ClientError: no answer.
        """

    def prepare(self, request: InferRequest) -> Message:
        """Build what goes over the wire, the part of asking that needs no server."""

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        """Send without waiting. Errors are the future's; cancelling it cancels the request."""

    def close(self) -> None:
        """End what is in flight and let go of the connection. Closing twice is allowed."""
