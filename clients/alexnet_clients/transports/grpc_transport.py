"""gRPC to a Triton server.

The generated messages are used directly, not `tritonclient.grpc.InferenceServerClient`: that one copies a
batch into a string, into a message and into its wire form. Here the images are joined to the rest of the
message once: a benchmark's client runs on the cores that its server computes on.
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
from .tensors import array_from_buffer, buffer_from_array, datatype_of, size_bytes
from .transport import (
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    TensorSpec,
    device_of_kinds,
)

_SERVICE = "/inference.GRPCInferenceService"
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Channels to one address otherwise share a connection and its back-off: a client made right after the
    # server came up would still be told that nobody listens.
    ("grpc.use_local_subchannel_pool", 1),
    # How long a channel waits between two attempts to connect; its defaults grow to two minutes, in which a
    # server that was restarted would look dead.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_WATCH_S = 0.3
T = TypeVar("T")
_Specs: TypeAlias = tuple[tuple[str, str, tuple[int, ...]], ...]  # name, datatype, shape


class GrpcTransport:
    """Opening it imports gRPC but sends nothing: the first call connects."""

    def __init__(self, url: ServerUrl, access: Credentials = ANONYMOUS) -> None:
        import grpc
        from tritonclient.grpc import service_pb2

        self._url = url
        self._access = access
        self._messages = service_pb2
        self._rpc_error: type[Exception] = grpc.RpcError
        options = [*_OPTIONS, *([("grpc.enable_http_proxy", 0)] if url.is_loopback else [])]
        if url.is_encrypted:
            credentials = _credentials(access.tls or ClientTls())
            self._channel = grpc.secure_channel(url.address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(url.address, options)
        self._connected = grpc.ChannelConnectivity.READY
        self._is_connected, self._losses, self._counting = False, 0, threading.Lock()
        self._channel.subscribe(self._note_state)
        self._head = functools.lru_cache(maxsize=256)(self._head_of)
        number = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
        length_delimited = 2
        self._content_tag = _varint(number << 3 | length_delimited)
        self._infer = self._method("ModelInfer", "ModelInferResponse", serialise=bytes)
        self._server_ready = self._method("ServerReady", "ServerReadyResponse")
        self._model_config = self._method("ModelConfig", "ModelConfigResponse")
        self._model_statistics = self._method("ModelStatistics", "ModelStatisticsResponse")
        self._region_status = self._method("SystemSharedMemoryStatus", "SystemSharedMemoryStatusResponse")
        self._region_register = self._method(
            "SystemSharedMemoryRegister", "SystemSharedMemoryRegisterResponse"
        )
        self._region_unregister = self._method(
            "SystemSharedMemoryUnregister", "SystemSharedMemoryUnregisterResponse"
        )

    @property
    def connections(self) -> int:
        """Counts losses, some twice: a request's that fails with the connection, and the channel's state.

        gRPC tells its state some milliseconds late, from a thread of its own, and a loss between requests by
        nothing else. A server needs far longer to come up again; a proxy that passes on to another server at
        once may be faster, and the first answer after that be believed.
        """
        return self._losses

    def ready(self, *, timeout_s: float) -> Future[bool]:
        request = self._messages.ServerReadyRequest()
        return self._called(self._server_ready, request, "", timeout_s, lambda answer: bool(answer.ready))

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        request = self._messages.ModelConfigRequest(name=model)
        return self._called(self._model_config, request, model, timeout_s, _config_from_response)

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        request = self._messages.ModelStatisticsRequest(name=model)
        return self._called(self._model_statistics, request, model, timeout_s, _statistics_from_response)

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        request = self._messages.SystemSharedMemoryStatusRequest()
        return self._called(self._region_status, request, "", timeout_s, _regions_from_response)

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        request = self._messages.SystemSharedMemoryRegisterRequest(
            name=region.name, key=region.key, byte_size=region.size_bytes
        )
        return self._called(self._region_register, request, "", timeout_s, lambda answer: None)

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        request = self._messages.SystemSharedMemoryUnregisterRequest(name=name)
        return self._called(self._region_unregister, request, "", timeout_s, lambda answer: None)

    def prepare(self, request: InferRequest) -> Message:
        return Message(request, self._wire_from_request(request))

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        request, started = message.request, time.perf_counter()

        def reply_from_response(response: Any) -> InferReply:
            latency_ms = 1e3 * (time.perf_counter() - started)
            return InferReply(
                outputs=self._outputs_from_response(response, request.model),
                latency_ms=latency_ms,
                request_bytes=len(message.wire),
            )

        return self._called(self._infer, message.wire, request.model, timeout_s, reply_from_response)

    def close(self) -> None:
        self._channel.unsubscribe(self._note_state)
        # gRPC's thread that watched looks at the channel once more within 0.2 s, and fails loudly if it is
        # closed by then.
        ends_s = time.monotonic() + _WATCH_S
        while _is_watched(self._channel) and time.monotonic() < ends_s:
            time.sleep(0.005)
        self._channel.close()

    def _note_state(self, state: Any) -> None:
        if self._is_connected and state is not self._connected:
            self._count_loss()
        self._is_connected = state is self._connected

    def _count_loss(self) -> None:
        with self._counting:
            self._losses += 1

    def _method(self, name: str, response: str, *, serialise: Any = None) -> Any:
        return self._channel.unary_unary(
            f"{_SERVICE}/{name}",
            request_serializer=serialise or (lambda message: message.SerializeToString()),
            response_deserializer=getattr(self._messages, response).FromString,
        )

    def _called(
        self, method: Any, request: Any, model: str, timeout_s: float, answer_from: Callable[[Any], T]
    ) -> Future[T]:
        """Call, and give the answer or the translated error to a standard future."""
        future: Future[T] = Future()
        try:
            metadata = tuple(self._access.headers_now(self._subject_of(model)).items())
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
                answer = answer_from(call.result())
            except self._rpc_error as error:
                translated = self._error(model, call.code().name, call.details() or "", error)
                if isinstance(translated, ConnectionLost):
                    self._count_loss()  # the channel's state may be told later
                future.set_exception(translated)
            except Exception as error:  # a future that is never set would hang its caller
                future.set_exception(error)
            else:
                future.set_result(answer)

        def cancel(future: Future[T]) -> None:
            if future.cancelled():
                call.cancel()

        future.add_done_callback(cancel)
        call.add_done_callback(finish)
        return future

    def _subject_of(self, model: str) -> str:
        return f"{self._url} {model}".rstrip()

    def _error(self, model: str, status: str, details: str, cause: Exception) -> ClientError:
        error = error_from_status(
            status,
            details,
            subject=self._subject_of(model),
            is_encrypted=self._url.is_encrypted,
        )
        error.__cause__ = cause
        return error

    def _wire_from_request(self, request: InferRequest) -> bytes:
        """The serialised ModelInferRequest. In protobuf's wire form a message may be joined from parts."""
        arrays = request.inputs.items()
        specs = tuple((name, datatype_of(array), array.shape) for name, array in arrays)
        head = self._head(request.model, specs, request.outputs, request.top, request.region)
        if request.region:
            return head
        parts: list[bytes | memoryview] = [head]
        for _, array in arrays:
            content = buffer_from_array(array)
            parts += [self._content_tag, _varint(len(content)), content]
        return b"".join(parts)

    def _head_of(self, model: str, specs: _Specs, outputs: tuple[str, ...], top: int, region: str) -> bytes:
        """All of the message but the tensors' contents: the same for every request of a shape."""
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
        if len(response.outputs) != len(response.raw_output_contents):
            raise BadResponse(
                f"{self._url} {model}",
                got=f"{len(response.outputs)} outputs with {len(response.raw_output_contents)} contents",
                expected="one content an output",
            )
        return {
            tensor.name: array_from_buffer(
                content, tensor.datatype, tuple(tensor.shape), subject=f"{self._url} {model}: {tensor.name}"
            )
            for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }


def _is_watched(channel: Any) -> bool:
    """Whether gRPC's thread still runs. It says so in private only: should that move, assume that it does."""
    return bool(getattr(getattr(channel, "_connectivity_state", None), "polling", True))


def _credentials(tls: ClientTls) -> Any:
    import grpc

    from .http_setup import ssl_context_from_tls

    ssl_context_from_tls(tls)  # says what is wrong with a file; gRPC would only fail to connect
    files = (tls.ca, tls.key, tls.certificate)
    return grpc.ssl_channel_credentials(*(path.read_bytes() if path else None for path in files))


def _config_from_response(response: Any) -> ModelConfig:
    config = response.config

    def spec(tensor: Any) -> TensorSpec:
        # The enumeration's names are TYPE_UINT8 and so on; strings are BYTES on the wire.
        datatype = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type]
        name = datatype.name.removeprefix("TYPE_")
        return TensorSpec(datatype="BYTES" if name == "STRING" else name, shape=tuple(tensor.dims))

    return ModelConfig(
        name=config.name,
        backend=config.backend or config.platform,
        max_batch=config.max_batch_size,
        inputs={tensor.name: spec(tensor) for tensor in config.input},
        outputs={tensor.name: spec(tensor) for tensor in config.output},
        parameters={name: value.string_value for name, value in config.parameters.items()},
        device=device_of_kinds({group.Kind.Name(group.kind) for group in config.instance_group}),
        queue_delay_us=config.dynamic_batching.max_queue_delay_microseconds
        if config.HasField("dynamic_batching")
        else None,
        steps=tuple(step.model_name for step in config.ensemble_scheduling.step),
    )


def _statistics_from_response(response: Any) -> ModelStatistics:
    total = ModelStatistics()
    for version in response.model_stats:  # one, as this project writes repositories
        times = version.inference_stats
        total = ModelStatistics(
            requests=times.success.count,
            images=version.inference_count,
            executions=version.execution_count,
            queue_ns=times.queue.ns,
            compute_input_ns=times.compute_input.ns,
            compute_infer_ns=times.compute_infer.ns,
            compute_output_ns=times.compute_output.ns,
            failed=times.fail.count,
            executions_by_batch={
                batch.batch_size: batch.compute_infer.count for batch in version.batch_stats
            },
        )
    return total


def _regions_from_response(response: Any) -> tuple[Region, ...]:
    return tuple(
        Region(name=found.name, key=found.key, size_bytes=found.byte_size)
        for found in response.regions.values()
    )


def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
