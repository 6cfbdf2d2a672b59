"""A real gRPC server with Triton's messages and replies chosen by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_UINT8

from alexnet_model.contract import Contract

from ..certificates import Pair

CONTRACT = Contract()
Handler = Callable[[Any, Any], Any]


@dataclass
class WireServer:
    """A gRPC server whose `handlers`, by method, make the replies."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    received: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)  # of every request
    port: int = 0

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        handler = self.handlers.get(name)
        if handler is None:
            return None  # UNIMPLEMENTED

        def handle(request: Any, context: Any) -> Any:
            self.received.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            return handler(request, context)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=getattr(service_pb2, f"{name}Request").FromString,
            response_serializer=lambda message: (
                message if isinstance(message, bytes) else message.SerializeToString()
            ),
        )


def ready(request: Any, context: Any) -> Any:
    return service_pb2.ServerReadyResponse(ready=True)


def config(request: Any, context: Any) -> Any:
    response = service_pb2.ModelConfigResponse()
    response.config.name = request.name
    response.config.backend = "openvino_dynamic"
    response.config.max_batch_size = 8
    response.config.input.add(name="image", data_type=TYPE_UINT8, dims=CONTRACT.image_shape)
    for name in (CONTRACT.probabilities_name, CONTRACT.logits_name):
        response.config.output.add(name=name, data_type=TYPE_FP32, dims=[10])
    parameters = {
        "contract": CONTRACT.to_json(),
        "contract_digest": CONTRACT.digest,
        "precision": "int8",
        "labels": json.dumps([str(digit) for digit in range(10)]),
    }
    for name, value in parameters.items():
        response.config.parameters[name].string_value = value
    return response


def infer(request: Any, context: Any) -> Any:
    response = service_pb2.ModelInferResponse(model_name=request.model_name)
    batch = request.inputs[0].shape[0]
    for output in request.outputs:
        response.outputs.add(name=output.name, datatype="FP32", shape=[batch, 10])
        response.raw_output_contents.append(np.full((batch, 10), 0.1, "<f4").tobytes())
    return response


@contextmanager
def served(
    pair: Pair | None = None, *, client_ca: Path | None = None, port: int = 0
) -> Iterator[tuple[WireServer, str]]:
    """The server and the address that it listens at."""
    wire = WireServer({"ServerReady": ready, "ModelConfig": config, "ModelInfer": infer})
    running = grpc.server(
        futures.ThreadPoolExecutor(4), handlers=[wire], options=[("grpc.max_receive_message_length", -1)]
    )
    if pair is None:
        wire.port = running.add_insecure_port(f"127.0.0.1:{port}")
    else:
        identity = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
        roots = client_ca.read_bytes() if client_ca else None
        credentials = grpc.ssl_server_credentials(identity, roots, require_client_auth=client_ca is not None)
        wire.port = running.add_secure_port(f"127.0.0.1:{port}", credentials)
    running.start()
    try:
        yield wire, f"127.0.0.1:{wire.port}"
    finally:
        running.stop(grace=None).wait()
