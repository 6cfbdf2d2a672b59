"""gRPC to a Triton server: the only module that imports `tritonclient`.

The generated messages are used directly, not `tritonclient.grpc.InferenceServerClient`: that one copies a
batch into a string, into a message and into its wire form. Here the pictures are joined to the rest of the
message once: a benchmark's client runs on the cores that its server computes on.
"""

from __future__ import annotations

import struct
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import BadResponse, ClientError

from .grpc_errors import error_from_status
from .transport import InferReply, InferRequest, Message, ModelConfig
from .url import ServerUrl

_SERVICE = "/inference.GRPCInferenceService"


class GrpcTransport:
    """Opening it imports gRPC but sends nothing: the first call connects."""

    def __init__(self, url: ServerUrl) -> None:
        import grpc
        from tritonclient.grpc import service_pb2
        from tritonclient.utils import deserialize_bytes_tensor

        self._url = url
        self._messages = service_pb2
        self._rpc_error: type[Exception] = grpc.RpcError
        self._strings_from_bytes = deserialize_bytes_tensor
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # Channels to one address otherwise share a connection and its back-off: a client made right
            # after the server came up would still be told that nobody listens.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if url.is_loopback:
            options.append(("grpc.enable_http_proxy", 0))
        self._channel = grpc.insecure_channel(url.address, options)
        self._infer = self._method("ModelInfer", "ModelInferResponse", serialise=bytes)
        self._server_ready = self._method("ServerReady", "ServerReadyResponse")
        self._model_config = self._method("ModelConfig", "ModelConfigResponse")

    def ready(self, *, timeout_s: float) -> bool:
        answer = self._called(self._server_ready, self._messages.ServerReadyRequest(), timeout_s, "")
        return bool(answer.ready)

    def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        request = self._messages.ModelConfigRequest(name=model)
        config = self._called(self._model_config, request, timeout_s, model).config
        return ModelConfig(
            name=model,
            backend=config.backend,
            max_batch=config.max_batch_size,
            output_shapes={output.name: tuple(output.dims) for output in config.output},
            parameters={name: value.string_value for name, value in config.parameters.items()},
        )

    def prepare(self, request: InferRequest) -> Message:
        return Message(request, self._wire_from_request(request))

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        future: Future[InferReply] = Future()
        request, request_bytes = message.request, len(message.wire)
        started = time.perf_counter()
        try:
            call = self._infer.future(message.wire, timeout=timeout_s)
        except ValueError as error:  # "Cannot invoke RPC on closed channel!"
            future.set_exception(self._error(request.model, "CANCELLED", str(error), error))
            return future

        def finish(call: Any) -> None:
            latency_ms = 1e3 * (time.perf_counter() - started)
            if not future.set_running_or_notify_cancel():
                return
            try:
                outputs = self._outputs_from_response(call.result(), request)
            except self._rpc_error as error:
                future.set_exception(
                    self._error(request.model, call.code().name, call.details() or "", error)
                )
            except Exception as error:  # a future that is never set would hang its caller
                future.set_exception(error)
            else:
                future.set_result(
                    InferReply(outputs=outputs, latency_ms=latency_ms, request_bytes=request_bytes)
                )

        def cancel(future: Future[InferReply]) -> None:
            if future.cancelled():
                call.cancel()

        future.add_done_callback(cancel)
        call.add_done_callback(finish)
        return future

    def close(self) -> None:
        self._channel.close()

    def _method(self, name: str, response: str, *, serialise: Any = None) -> Any:
        return self._channel.unary_unary(
            f"{_SERVICE}/{name}",
            request_serializer=serialise or (lambda message: message.SerializeToString()),
            response_deserializer=getattr(self._messages, response).FromString,
        )

    def _called(self, method: Any, request: Any, timeout_s: float, model: str) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except self._rpc_error as error:
            status: Any = error  # grpc.RpcError is a grpc.Call too, but does not say so
            raise self._error(model, status.code().name, status.details() or "", error) from error
        except ValueError as error:
            raise self._error(model, "CANCELLED", str(error), error) from error

    def _error(self, model: str, status: str, details: str, cause: Exception) -> ClientError:
        subject = f"{self._url} {model}".rstrip()
        error = error_from_status(status, details, subject=subject)
        error.__cause__ = cause
        return error

    def _wire_from_request(self, request: InferRequest) -> bytes:
        """The serialised ModelInferRequest. In protobuf's wire form a message may be joined from parts."""
        message = self._messages.ModelInferRequest(model_name=request.model)
        tensor = message.inputs.add()
        tensor.name, tensor.datatype = request.input_name, "UINT8"
        tensor.shape.extend(request.images.shape)
        for name in request.outputs:
            output = message.outputs.add()
            output.name = name
            if request.top:
                output.parameters["classification"].int64_param = request.top
        number = message.DESCRIPTOR.fields_by_name["raw_input_contents"].number
        pictures = request.images.data.cast("B")
        length_delimited = 2
        prefix = _varint(number << 3 | length_delimited) + _varint(len(pictures))
        return b"".join((message.SerializeToString(), prefix, pictures))

    def _outputs_from_response(self, response: Any, request: InferRequest) -> dict[str, npt.NDArray[Any]]:
        if len(response.outputs) != len(response.raw_output_contents):
            raise BadResponse(
                f"{self._url} {request.model}",
                got=f"{len(response.outputs)} outputs with {len(response.raw_output_contents)} contents",
                expected="one content an output",
            )
        outputs = {}
        for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
            try:
                outputs[tensor.name] = self._array(tensor, content)
            except (ValueError, struct.error) as error:  # the bytes do not fill the shape
                raise BadResponse(
                    f"{self._url} {request.model}: {tensor.name}",
                    got=f"{len(content)} bytes for {tensor.datatype} {tuple(tensor.shape)}",
                    expected="as many bytes as the shape needs",
                ) from error
        return outputs

    def _array(self, tensor: Any, content: bytes) -> npt.NDArray[Any]:
        if tensor.datatype == "FP32":
            return np.frombuffer(content, dtype="<f4").reshape(tensor.shape)
        if tensor.datatype == "BYTES":
            texts = [text.decode("utf-8", "replace") for text in self._strings_from_bytes(content)]
            return np.array(texts, dtype=np.object_).reshape(tensor.shape)
        raise BadResponse(
            f"{self._url}: {tensor.name}", got=f"datatype {tensor.datatype}", expected="FP32 or BYTES"
        )


def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
