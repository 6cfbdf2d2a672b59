"""gRPC to a Triton server.

The generated messages are used directly, not `tritonclient.grpc.InferenceServerClient`, which copies a batch
into a string, into a message and into its wire form. Here the images are joined to the rest of the message
once: a benchmark's client runs on the cores that its server computes on.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from alexnet_model.errors import BadResponse, ClientError, ConnectionLost, NotReady
from alexnet_model.processes import check_same_process

from ..credentials import ANONYMOUS, ClientTls, Credentials
from ..url import ServerUrl
from .error_rules import CLOSED
from .grpc_errors import error_from_status
from .messages import Json, config_from_json, names_from_statistics, statistics_from_json
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
    subject_of,
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
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Not a wait, in spite of its name, but the shortest time limit of an attempt to connect. Its default of
    # 20 s would hide from a request with a shorter deadline that the server cannot be reached.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # If a request is open and nothing arrives, ask the other end whether it is still there, and give the
    # connection up if it does not reply: it may have died silently. Servers with gRPC's defaults, such as
    # Triton, close a connection after the fourth ping without data, here after three minutes. Recent
    # versions of gRPC use the third option instead of the second.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Otherwise gRPC itself sends a request that a closing server refused again, over a new connection, which
    # may lead to a server with another export. The client sends it again too, but counts the connection.
    ("grpc.enable_retries", 0),
)
_NO_HEADERS: Mapping[str, str] = {}
T = TypeVar("T")
_Specs: TypeAlias = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, datatype, shape


class GrpcTransport:
    """A gRPC channel. Opening it imports gRPC but sends nothing: the first call connects."""

    def __init__(self, url: ServerUrl, credentials: Credentials = ANONYMOUS) -> None:
        with _silent_grpc():
            import grpc
            from tritonclient.grpc import service_pb2

        self._name = str(url)
        self._is_encrypted = url.is_encrypted
        self._credentials = credentials
        self._messages = service_pb2
        self._rpc_error: type[Exception] = grpc.RpcError
        options = [*_OPTIONS, *([("grpc.enable_http_proxy", 0)] if url.is_loopback else [])]
        self._proxy = _proxy_variable(url)
        if url.is_encrypted:
            tls = credentials.tls or ClientTls()
            tls.ssl_context()  # reports what is wrong with a file; gRPC would only fail to connect
            files = (tls.ca, tls.key, tls.certificate)
            contents = (path.read_bytes() if path else None for path in files)
            tls_credentials = grpc.ssl_channel_credentials(*contents)
            self._channel = grpc.secure_channel(url.address, tls_credentials, options)
        else:
            self._channel = grpc.insecure_channel(url.address, options)
        self._ready_state = grpc.ChannelConnectivity.READY.value[0]
        self._connections, self._lock = 0, threading.Lock()
        self._thread = _CallThread("alexnet-grpc", last=self._channel.close)
        self._closed = False
        self._pid = os.getpid()
        self._head = functools.lru_cache(maxsize=256)(self._head_of)
        fields = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name
        length_delimited = 2
        self._content_tag = _varint(fields["raw_input_contents"].number << 3 | length_delimited)
        self._id_tag = _varint(fields["id"].number << 3 | length_delimited)
        self._infer = self._method("ModelInfer", serialise=bytes)
        self._server_ready = self._method("ServerReady")
        self._model_config = self._method("ModelConfig")
        self._model_statistics = self._method("ModelStatistics")
        self._region_status = self._method("SystemSharedMemoryStatus")
        self._region_register = self._method("SystemSharedMemoryRegister")
        self._region_unregister = self._method("SystemSharedMemoryUnregister")

    @property
    def connections(self) -> int:
        """Counts requests that found no connection, and requests whose connection was lost.

        So it grows at least once for every new connection, before a reply comes over it. The exception is a
        connection that is lost and replaced in the moment in which a call starts.
        """
        return self._connections

    def ready(self, *, timeout_s: float) -> Future[bool]:
        request = self._messages.ServerReadyRequest()

        def read(response: Any) -> bool:
            return bool(response.ready)

        return self._call(self._server_ready, request, self._name, timeout_s, read)

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        request, subject = self._messages.ModelConfigRequest(name=model), subject_of(self._name, model)

        def read(response: Any) -> ModelConfig:
            return config_from_json(_json_from_message(response.config), subject=subject)

        return self._call(self._model_config, request, subject, timeout_s, read)

    def model_names(self, *, timeout_s: float) -> Future[tuple[str, ...]]:
        request = self._messages.ModelStatisticsRequest()

        def read(response: Any) -> tuple[str, ...]:
            return names_from_statistics(_json_from_message(response), subject=self._name)

        return self._call(self._model_statistics, request, self._name, timeout_s, read)

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        request, subject = self._messages.ModelStatisticsRequest(name=model), subject_of(self._name, model)

        def read(response: Any) -> ModelStatistics:
            return statistics_from_json(_json_from_message(response), subject=subject)

        return self._call(self._model_statistics, request, subject, timeout_s, read)

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        def read(response: Any) -> tuple[Region, ...]:
            found = response.regions.values()
            return tuple(Region(name=each.name, key=each.key, size_bytes=each.byte_size) for each in found)

        request = self._messages.SystemSharedMemoryStatusRequest()
        return self._call(self._region_status, request, self._name, timeout_s, read)

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        request = self._messages.SystemSharedMemoryRegisterRequest(
            name=region.name, key=region.key, byte_size=region.size_bytes
        )
        return self._call(self._region_register, request, self._name, timeout_s, lambda response: None)

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        request = self._messages.SystemSharedMemoryUnregisterRequest(name=name)
        return self._call(self._region_unregister, request, self._name, timeout_s, lambda response: None)

    def prepare(self, request: InferRequest) -> Message:
        """Serialise to ModelInferRequest. In protobuf's wire form a message may be joined from parts."""
        arrays = request.inputs.items()
        specs = tuple((name, datatype_of(array), array.shape) for name, array in arrays)
        head = self._head(request.model, specs, request.outputs, request.top, request.region)
        parts: list[bytes | memoryview] = [head]
        if request.id:
            content = request.id.encode()
            parts += [self._id_tag, _varint(len(content)), content]
        if request.region:
            return Message(request, b"".join(parts))
        for _, array in arrays:
            buffer = buffer_from_array(array)
            parts += [self._content_tag, _varint(len(buffer)), buffer]
        return Message(request, b"".join(parts))

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        started = time.perf_counter()
        subject = subject_of(self._name, message.request.model, message.request.id)
        headers = message.headers_for(self._name)

        def read(response: Any) -> InferReply:
            latency_ms = 1e3 * (time.perf_counter() - started)
            return InferReply(
                outputs=_outputs_from_response(response, subject),
                latency_ms=latency_ms,
                request_bytes=len(message.wire),
                model_version=response.model_version,
                request_id=message.request.id,
            )

        return self._call(self._infer, message.wire, subject, timeout_s, read, headers)

    def close(self) -> None:
        if self._pid == os.getpid():
            self._closed = True
            self._thread.close()

    def _count_connection(self) -> None:
        with self._lock:
            self._connections += 1

    def _method(self, name: str, *, serialise: Any = None) -> Any:
        return self._channel.unary_unary(
            f"{_SERVICE}/{name}",
            request_serializer=serialise or (lambda message: message.SerializeToString()),
            response_deserializer=getattr(self._messages, f"{name}Response").FromString,
        )

    def _call(
        self,
        method: Any,
        request: Any,
        subject: str,
        timeout_s: float,
        read: Callable[[Any], T],
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> Future[T]:
        """Call, and pass the response through `read`, or the translated error, to a standard future."""
        future: Future[T] = Future()
        metadata = tuple(headers.items())
        try:
            if self._pid != os.getpid():
                check_same_process(self._name, self._pid, kind=ClientError)
            if self._credentials.headers is not None:  # in the caller's thread: renewing a token takes time
                metadata = tuple({**self._credentials.headers_now(subject), **headers}.items())
            self._thread.call(
                lambda: self._start(future, method, request, metadata, subject, timeout_s, read)
            )
        except ClientError as error:
            future.set_exception(error)
        except RuntimeError:
            future.set_exception(CLOSED.error(subject, "a client that is closed"))
        return future

    def _start(
        self,
        future: Future[T],
        method: Any,
        request: Any,
        metadata: tuple[tuple[str, str], ...],
        subject: str,
        timeout_s: float,
        read: Callable[[Any], T],
    ) -> None:
        """Start a call, in the thread that starts and cancels all calls."""

        def finish(call: Any) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = read(call.result())
            except self._rpc_error as error:
                translated = self._error(subject, call.code().name, call.details() or "", error)
                if isinstance(translated, ConnectionLost | NotReady):
                    self._count_connection()
                future.set_exception(translated)
            except Exception as error:  # a future that is never done would block its caller forever
                future.set_exception(error)
            else:
                future.set_result(result)

        def cancel(future: Future[T]) -> None:
            if future.cancelled():
                with contextlib.suppress(RuntimeError):  # closed, which ends all calls
                    self._thread.call(call.cancel)

        if future.cancelled():
            return
        try:
            had_connection = self._has_connection()
            call = method.future(request, timeout=timeout_s, metadata=metadata)
            # Again, since the connection may have been lost before the call took it.
            if not (had_connection and self._has_connection()):
                self._count_connection()
        except Exception as error:  # as above
            if future.set_running_or_notify_cancel():
                future.set_exception(self._error(subject, "UNKNOWN", str(error), error))
            return
        future.add_done_callback(cancel)
        call.add_done_callback(finish)

    def _has_connection(self) -> bool:
        # The channel's state has no other public access than a thread that polls it, which a fork breaks.
        return bool(self._channel._channel.check_connectivity_state(False) == self._ready_state)

    def _error(self, subject: str, status: str, details: str, cause: Exception) -> ClientError:
        if self._closed and status == "CANCELLED":
            error = CLOSED.error(subject, "a client that is closed")
        else:
            error = error_from_status(
                status, details, subject=subject, is_encrypted=self._is_encrypted, proxy=self._proxy
            )
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


def _outputs_from_response(response: Any, subject: str) -> dict[str, Any]:
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


@contextlib.contextmanager
def _silent_grpc() -> Iterator[None]:
    """Switch off gRPC's log on standard error, unless the user has chosen its level.

    gRPC reads the level when it is first imported. What it logs also becomes an error of this project.
    """
    name = "GRPC_VERBOSITY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "NONE"
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _proxy_variable(url: ServerUrl) -> str:
    """The variable of the HTTP proxy that gRPC uses for a server; empty if it uses none."""
    environment = os.environ
    excepted = environment.get("no_grpc_proxy") or environment.get("no_proxy", "")
    if url.is_loopback or proxy_bypass_environment(url.address, {"no": excepted}):
        return ""
    names = ("grpc_proxy", "https_proxy", "http_proxy")  # gRPC reads no upper-case names
    return next((name for name in names if environment.get(name)), "")


class _CallThread:
    """Calls functions one after another in a thread of its own. Thread-safe.

    The handler of a signal may raise (KeyboardInterrupt for Ctrl-C) at any point in the main thread, and only
    there. gRPC's channel does not survive an exception between the start of a call and its registration: it
    could never be closed. So all its calls are started and cancelled in this thread.
    """

    def __init__(self, name: str, *, last: Callable[[], object]) -> None:
        """Start the thread; `last` is what it calls before it ends."""
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.RLock()  # a finalizer that cancels a call may run in a thread that holds it
        self._closed = False
        self._thread = threading.Thread(target=_call_each, args=(self._queue, last), name=name, daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        self._queue.put(None)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function, which neither blocks nor raises, after all that were passed before.

        Raises:
            RuntimeError: the thread is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            self._queue.put(function)

    def close(self) -> None:
        """Wait until all functions and `last` were called. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()


def _call_each(queue: SimpleQueue[Callable[[], object] | None], last: Callable[[], object]) -> None:
    while (function := queue.get()) is not None:
        function()
        del function  # or the request that it holds would be kept until the next call
    last()


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
