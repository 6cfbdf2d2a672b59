"""The interface between the clients and the wire: requests, replies, tensors in bytes, and `Transport`.

A transport returns standard futures: the blocking client waits for one, the asynchronous client awaits the
same one, and a benchmark keeps many open.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import BadResponse

from ..credentials import ANONYMOUS, Credentials
from ..telemetry import Call
from ..url import ServerUrl

FloatArray: TypeAlias = npt.NDArray[np.float32]

#: The datatype of strings in the KServe v2 protocol: each element is its length in four bytes, then itself.
BYTES = "BYTES"
#: The numeric datatypes of the KServe v2 protocol ("Open Inference Protocol"), over gRPC and HTTP alike, with
#: their NumPy dtypes. Values are little-endian and row-major.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request for inference.

    Attributes:
        model: the model's name on the server.
        inputs: contiguous arrays of N rows by name: uint8 pixels, or `bytes` objects `(N, 1)`.
        outputs: names of the outputs to return.
        top: 0 returns numbers; k returns the best k classes of each image as `value:index:label`.
        region: shared memory that holds the one input at its start; empty to send it.
        id: Triton repeats it in its log, spans and errors; empty for none.
    """

    model: str
    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: tuple[str, ...]
    top: int = 0
    region: str = ""
    id: str = ""

    @property
    def images(self) -> npt.NDArray[Any]:
        """The one input that a model of this project has: (N, 224, 224, 3) or (N, 1)."""
        (images,) = self.inputs.values()
        return images


@dataclass(frozen=True)
class Message:
    """A serialised request, which can be sent any number of times."""

    request: InferRequest
    wire: bytes
    header_bytes: int = 0  # in HTTP: length of the JSON before the tensors
    call: Call | None = None  # if the client has observers

    def headers_for(self, server: str) -> Mapping[str, str]:
        """The headers that observers add; an attempt at this server is counted."""
        return self.call.send(server) if self.call is not None else {}


@dataclass(frozen=True, kw_only=True)
class InferReply:
    """A reply, not checked yet.

    Attributes:
        outputs: by name: numbers, or `str` objects for a request with `top`.
        latency_ms: from sending to the reply, milliseconds.
        request_bytes: size of the message, without the protocol's framing.
        model_version: as the server reports it.
        request_id: of the request that it replies to.
    """

    outputs: Mapping[str, npt.NDArray[Any]]
    latency_ms: float
    request_bytes: int
    model_version: str = ""
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Region:
    """POSIX shared memory of this process and a server on the same machine."""

    name: str  # in requests
    key: str  # POSIX's name, with a leading slash
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output: a key of `DTYPES` or BYTES, and its shape without the batch; -1 is any size."""

    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a server reports about a model, as far as a client needs it."""

    name: str
    backend: str
    max_batch: int
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    parameters: Mapping[str, str]
    device: str = ""  # CPU or GPU; empty if its instances do not say, or differ
    queue_delay_us: int | None = None  # of the dynamic batcher; None if there is none
    steps: tuple[str, ...] = ()  # an ensemble's models, in order


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """A server's counts of a model since it was loaded. Times are sums over requests, in nanoseconds."""

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
    """Carries requests to one server, or to several equal ones. Thread-safe.

    Every future is done by its deadline and fails only with a `ClientError`. Cancelling it ends its request.
    """

    @property
    def connections(self) -> int:
        """Grows whenever a connection is lost or made: from then on another server may reply."""

    def ready(self, *, timeout_s: float) -> Future[bool]:
        """Whether the server is live and all its models are ready."""

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        """A model's configuration; `ModelNotFound` if the server has no model of that name."""

    def model_names(self, *, timeout_s: float) -> Future[tuple[str, ...]]:
        """The names of all models that are served. Read with the counts: the server may lock its index."""

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        """The server's counts of a model."""

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        """All shared memory that is registered with the server, by any client."""

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        """Register shared memory. `BadRequest` if the server does not allow it or is on another machine."""

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        """Unregister shared memory; no error if it is not registered."""

    def prepare(self, request: InferRequest) -> Message:
        """Serialise a request, the part of sending it that needs no server."""

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        """Send a message without waiting for its reply."""

    def close(self) -> None:
        """End open requests and close the connection. Closing twice is allowed."""


def transport_from_url(url: ServerUrl, credentials: Credentials = ANONYMOUS) -> Transport:
    """Open the transport for a URL's scheme. Imports the protocol's library; sends nothing yet.

    Args:
        url: the server.
        credentials: TLS files and headers.

    Raises:
        UsageError: certificates for a URL without TLS, or files that are not certificates.
    """
    credentials.check(url)
    if url.speaks_http:
        from .http_transport import HttpTransport

        return HttpTransport(url, credentials)
    from .grpc_transport import GrpcTransport

    return GrpcTransport(url, credentials)


def subject_of(server: str, model: str = "", request_id: str = "") -> str:
    """What an error names, such as `grpc://127.0.0.1:8001 alexnet_int8, request 3f9c21aa-17`."""
    subject = f"{server} {model}".rstrip()
    return f"{subject}, request {request_id}" if request_id else subject


def datatype_of(array: npt.NDArray[Any]) -> str:
    """The protocol's name of an array's type; objects are BYTES."""
    return BYTES if array.dtype == np.object_ else _DATATYPES[array.dtype.newbyteorder("<")]


def size_bytes(datatype: str, shape: tuple[int, ...]) -> int:
    """The size of a tensor of numbers."""
    return math.prod(shape) * DTYPES[datatype].itemsize


def buffer_from_array(array: npt.NDArray[Any]) -> bytes | memoryview:
    """A contiguous array in the protocol's bytes, without a copy if it holds numbers."""
    if array.dtype != np.object_:
        return array.reshape(-1).view(np.uint8).data
    elements = array.reshape(-1)
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


def array_from_buffer(
    content: bytes | memoryview, datatype: str, shape: tuple[int, ...], *, subject: str
) -> npt.NDArray[Any]:
    """An array from the protocol's bytes; BYTES become `str` objects.

    Raises:
        BadResponse: the type is unknown, or the bytes do not fill the shape.
    """
    if datatype != BYTES and datatype not in DTYPES:
        expected = f"{BYTES} or one of {', '.join(DTYPES)}"
        raise BadResponse(subject, got=f"datatype {datatype}", expected=expected)
    try:
        if datatype != BYTES:
            return np.frombuffer(content, dtype=DTYPES[datatype]).reshape(shape)
        return np.array(_texts_from_buffer(bytes(content)), dtype=np.object_).reshape(shape)
    except ValueError as error:
        raise BadResponse(
            subject,
            got=f"{len(content)} bytes for {datatype} {shape}",
            expected="as many bytes as the shape needs",
        ) from error


def _texts_from_buffer(content: bytes) -> list[str]:
    texts, position = [], 0
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "little")
        start, position = position + 4, position + 4 + length
        if position > len(content):
            raise ValueError("a string is cut off")
        texts.append(content[start:position].decode("utf-8", "replace"))
    return texts
