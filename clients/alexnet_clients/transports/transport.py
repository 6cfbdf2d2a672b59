"""The seam between the client and the wire. The client's rules live above it; protocols live below it.

A transport answers with standard futures: the blocking client waits on one, the asynchronous one awaits the
same, and a benchmark keeps many open.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """`inputs` are contiguous, N rows each: uint8 pixels, or `bytes` objects `(N, 1)` for encoded images.

    With `top` the server names the best classes of each image.
    """

    model: str
    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: tuple[str, ...]
    top: int = 0  # 0: numbers; k: the best k as `value:index:label`
    region: str = ""  # of shared memory, where the server finds the one input at its start; else it is sent

    @property
    def images(self) -> npt.NDArray[Any]:
        """The one input that a model of this project has: (N, 224, 224, 3) or (N, 1)."""
        (images,) = self.inputs.values()
        return images


@dataclass(frozen=True)
class Message:
    """A request ready to be sent, as often as wanted."""

    request: InferRequest
    wire: bytes
    header_bytes: int = 0  # of the JSON before the tensors, in HTTP


@dataclass(frozen=True, kw_only=True)
class InferReply:
    """Outputs by name as they came, not yet believed: float32 numbers, or `str` objects for `top`."""

    outputs: Mapping[str, npt.NDArray[Any]]
    latency_ms: float  # from submitting to the answer
    request_bytes: int  # of the message on the wire, without the protocol's framing


@dataclass(frozen=True, kw_only=True)
class Region:
    """Memory that this process and a server on the same machine both see."""

    name: str  # by which requests mean it
    key: str  # POSIX's name of the memory, with its leading slash
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    datatype: str  # in the protocol's words: UINT8, FP32, BYTES
    shape: tuple[int, ...]  # without the batch axis; -1 for a free one


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a server says of a model: as much as a client needs."""

    name: str
    backend: str
    max_batch: int
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    parameters: Mapping[str, str]
    device: str = ""  # CPU or GPU, where its instances say which
    queue_delay_us: int | None = None  # of the dynamic batcher; None where there is none
    steps: tuple[str, ...] = ()  # the models of an ensemble, in order


def device_of_kinds(kinds: Set[str]) -> str:
    """CPU or GPU, of Triton's kinds of instances; empty where they leave it to the server, or are mixed."""
    return {"KIND_CPU": "CPU", "KIND_GPU": "GPU"}.get(next(iter(kinds)), "") if len(kinds) == 1 else ""


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """What a server counted of a model since it was loaded. Times are sums over requests, nanoseconds."""

    requests: int = 0
    images: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    failed: int = 0
    executions_by_batch: Mapping[int, int] = field(default_factory=dict)


class Transport(Protocol):
    """Every future keeps its deadline and fails with a `ClientError` and nothing else; all are thread-safe.

    Cancelling a future ends its request.
    """

    @property
    def connections(self) -> int:
        """Grows whenever a connection was lost or made: another server may answer from then on."""

    def ready(self, *, timeout_s: float) -> Future[bool]:
        """Whether the server is live and all its models are ready."""

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        """A model's configuration; `ModelNotFound` where the server has none of that name."""

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        """What the server counted of a model."""

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        """The shared memory that the server has been told of, by anyone."""

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        """Tell the server of shared memory. `BadRequest` where it serves none, or is on another machine."""

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        """Let the server forget it; it is no error if it has."""

    def prepare(self, request: InferRequest) -> Message:
        """Build what goes over the wire, the part of asking that needs no server."""

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        """Send without waiting."""

    def close(self) -> None:
        """End what is in flight and let go of the connection. Closing twice is allowed."""
