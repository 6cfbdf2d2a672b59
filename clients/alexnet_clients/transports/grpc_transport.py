"""gRPC to a Triton server.

The generated messages are used directly, not `tritonclient.grpc.InferenceServerClient`, which copies a batch
into a string, into a message and into its wire form. Here the images are joined to the rest of the message
once: a benchmark's client runs on the cores that its server computes on.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from alexnet_model.errors import BadResponse, ClientError, ConnectionLost

from ..credentials import ANONYMOUS, ClientTls, Credentials
from ..url import ServerUrl
from .grpc_errors import error_from_status
from .messages import Json, config_from_json, statistics_from_json
from .transport import (
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    array_from_buffer,
    buffer_from_array,
    datatype_of,
    size_bytes,
)

_SERVICE = "/inference.GRPCInferenceService"
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Channels to one address otherwise share a connection and its back-off: a client made right after the
    # server came up would still fail as unreachable.
    ("grpc.use_local_subchannel_pool", 1),
    # How long a channel waits between two attempts to connect; its defaults grow to two minutes, in which a
    # server that was restarted would seem unreachable.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_POLLING_ENDS_S = 0.3
T = TypeVar("T")
_Specs: TypeAlias = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, datatype, shape


class GrpcTransport:
    """A gRPC channel. Opening it imports gRPC but sends nothing: the first call connects."""

    def __init__(self, url: ServerUrl, credentials: Credentials = ANONYMOUS) -> None:
        import grpc
        from tritonclient.grpc import service_pb2

        self._name = str(url)
        self._is_encrypted = url.is_encrypted
        self._credentials = credentials
        self._messages = service_pb2
        self._rpc_error: type[Exception] = grpc.RpcError
        options = [*_OPTIONS, *([("grpc.enable_http_proxy", 0)] if url.is_loopback else [])]
        if url.is_encrypted:
            tls = credentials.tls or ClientTls()
            tls.ssl_context()  # reports what is wrong with a file; gRPC would only fail to connect
            files = (tls.ca, tls.key, tls.certificate)
            contents = (path.read_bytes() if path else None for path in files)
            tls_credentials = grpc.ssl_channel_credentials(*contents)
            self._channel = grpc.secure_channel(url.address, tls_credentials, options)
        else:
            self._channel = grpc.insecure_channel(url.address, options)
        self._connected = grpc.ChannelConnectivity.READY
        self._is_connected, self._losses, self._lock = False, 0, threading.Lock()
        self._channel.subscribe(self._note_state)
        self._head = functools.lru_cache(maxsize=256)(self._head_of)
        number = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
        length_delimited = 2
        self._content_tag = _varint(number << 3 | length_delimited)
        self._infer = self._method("ModelInfer", serialise=bytes)
        self._server_ready = self._method("ServerReady")
        self._model_config = self._method("ModelConfig")
        self._model_statistics = self._method("ModelStatistics")
        self._region_status = self._method("SystemSharedMemoryStatus")
        self._region_register = self._method("SystemSharedMemoryRegister")
        self._region_unregister = self._method("SystemSharedMemoryUnregister")

    @property
    def connections(self) -> int:
        """Counts lost connections, some twice: by a request that fails with it, and by the channel's state.

        gRPC reports a channel's state some milliseconds late, from a thread of its own, and reports a loss
        between requests only so. A server needs far longer to start again. But a proxy that switches to
        another server at once may be faster, and the first reply after that may be accepted.
        """
        return self._losses

    def ready(self, *, timeout_s: float) -> Future[bool]:
        request = self._messages.ServerReadyRequest()
        return self._call(self._server_ready, request, "", timeout_s, lambda response: bool(response.ready))

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        request, subject = self._messages.ModelConfigRequest(name=model), self._subject(model)

        def read(response: Any) -> ModelConfig:
            return config_from_json(_json_from_message(response.config), subject=subject)

        return self._call(self._model_config, request, model, timeout_s, read)

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        request, subject = self._messages.ModelStatisticsRequest(name=model), self._subject(model)

        def read(response: Any) -> ModelStatistics:
            return statistics_from_json(_json_from_message(response), subject=subject)

        return self._call(self._model_statistics, request, model, timeout_s, read)

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        def read(response: Any) -> tuple[Region, ...]:
            found = response.regions.values()
            return tuple(Region(name=each.name, key=each.key, size_bytes=each.byte_size) for each in found)

        request = self._messages.SystemSharedMemoryStatusRequest()
        return self._call(self._region_status, request, "", timeout_s, read)

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        request = self._messages.SystemSharedMemoryRegisterRequest(
            name=region.name, key=region.key, byte_size=region.size_bytes
        )
        return self._call(self._region_register, request, "", timeout_s, lambda response: None)

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        request = self._messages.SystemSharedMemoryUnregisterRequest(name=name)
        return self._call(self._region_unregister, request, "", timeout_s, lambda response: None)

    def prepare(self, request: InferRequest) -> Message:
        """Serialise to ModelInferRequest. In protobuf's wire form a message may be joined from parts."""
        arrays = request.inputs.items()
        specs = tuple((name, datatype_of(array), array.shape) for name, array in arrays)
        head = self._head(request.model, specs, request.outputs, request.top, request.region)
        if request.region:
            return Message(request, head)
        parts: list[bytes | memoryview] = [head]
        for _, array in arrays:
            content = buffer_from_array(array)
            parts += [self._content_tag, _varint(len(content)), content]
        return Message(request, b"".join(parts))

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        model, started = message.request.model, time.perf_counter()

        def read(response: Any) -> InferReply:
            latency_ms = 1e3 * (time.perf_counter() - started)
            return InferReply(
                outputs=self._outputs_from_response(response, model),
                latency_ms=latency_ms,
                request_bytes=len(message.wire),
            )

        return self._call(self._infer, message.wire, model, timeout_s, read)

    def close(self) -> None:
        self._channel.unsubscribe(self._note_state)
        # gRPC's thread that polls the state looks at the channel once more within 0.2 s, and prints a
        # traceback if it is closed by then.
        ends_s = time.monotonic() + _POLLING_ENDS_S
        while _is_polled(self._channel) and time.monotonic() < ends_s:
            time.sleep(0.005)
        self._channel.close()

    def _note_state(self, state: Any) -> None:
        if self._is_connected and state is not self._connected:
            self._count_loss()
        self._is_connected = state is self._connected

    def _count_loss(self) -> None:
        with self._lock:
            self._losses += 1

    def _method(self, name: str, *, serialise: Any = None) -> Any:
        return self._channel.unary_unary(
            f"{_SERVICE}/{name}",
            request_serializer=serialise or (lambda message: message.SerializeToString()),
            response_deserializer=getattr(self._messages, f"{name}Response").FromString,
        )

    def _call(
        self, method: Any, request: Any, model: str, timeout_s: float, read: Callable[[Any], T]
    ) -> Future[T]:
        """Call, and pass the response through `read`, or the translated error, to a standard future."""
        future: Future[T] = Future()
        metadata: tuple[tuple[str, str], ...] = ()
        try:
            if self._credentials.headers is not None:
                metadata = tuple(self._credentials.headers_now(self._subject(model)).items())
            call = method.future(request, timeout=timeout_s, metadata=metadata)
        except ClientError as error:
            future.set_exception(error)
            return future
        except ValueError as error:  # "Cannot invoke RPC on closed channel!"
            future.set_exception(self._error(model, "CANCELLED", str(error), error))
            return future

        def finish(call: Any) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = read(call.result())
            except self._rpc_error as error:
                translated = self._error(model, call.code().name, call.details() or "", error)
                if isinstance(translated, ConnectionLost):
                    self._count_loss()  # the channel's state may be reported later
                future.set_exception(translated)
            except Exception as error:  # a future that is never done would block its caller forever
                future.set_exception(error)
            else:
                future.set_result(result)

        def cancel(future: Future[T]) -> None:
            if future.cancelled():
                call.cancel()

        future.add_done_callback(cancel)
        call.add_done_callback(finish)
        return future

    def _subject(self, model: str) -> str:
        return f"{self._name} {model}".rstrip()

    def _error(self, model: str, status: str, details: str, cause: Exception) -> ClientError:
        subject, is_encrypted = self._subject(model), self._is_encrypted
        error = error_from_status(status, details, subject=subject, is_encrypted=is_encrypted)
        error.__cause__ = cause
        return error

    def _head_of(self, model: str, specs: _Specs, outputs: tuple[str, ...], top: int, region: str) -> bytes:
        """The message without the tensors' contents: the same for every request of a shape."""
        message = self._messages.ModelInferRequest(model_name=model)
        for name, datatype, shape in specs:
            tensor = message.inputs.add()
            tensor.name, tensor.datatype = name, datatype
            tensor.shape.extend(shape)
            if region:
                tensor.parameters["shared_memory_region"].string_param = region
                tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes(datatype, shape)
        for name in outputs:
            output = message.outputs.add()
            output.name = name
            if top:
                output.parameters["classification"].int64_param = top
        return bytes(message.SerializeToString())

    def _outputs_from_response(self, response: Any, model: str) -> dict[str, Any]:
        subject = self._subject(model)
        if len(response.outputs) != len(response.raw_output_contents):
            raise BadResponse(
                subject,
                got=f"{len(response.outputs)} outputs with {len(response.raw_output_contents)} contents",
                expected="one content per output",
            )
        return {
            tensor.name: array_from_buffer(
                content, tensor.datatype, tuple(tensor.shape), subject=f"{subject}: {tensor.name}"
            )
            for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }


def _is_polled(channel: Any) -> bool:
    """Whether gRPC's thread still runs. The attributes are private: if they are renamed, assume it does."""
    return bool(getattr(getattr(channel, "_connectivity_state", None), "polling", True))


def _json_from_message(message: Any) -> Json:
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

    found: Json = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
