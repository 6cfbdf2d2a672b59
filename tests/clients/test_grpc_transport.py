from __future__ import annotations

import gc
import io
import re
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import CancelledError, Future
from types import FrameType
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, service_pb2

from alexnet_clients import Client, InferReply, InferRequest, ServerUrl, transport_from_url
from alexnet_clients.transports.grpc_transport import GrpcTransport
from alexnet_model.errors import (
    BadRequest,
    BadResponse,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    ForeignServer,
    ModelNotFound,
    NotReady,
    Unreachable,
)

from ..waiting import wait_until
from .wire_server import Handler, WireServer, infer, ready, served


@pytest.fixture
def transport(wire_server: WireServer) -> Iterator[GrpcTransport]:
    transport = GrpcTransport(ServerUrl.parse(wire_server.url))
    yield transport
    transport.close()


def request(batch: int, *, outputs: tuple[str, ...] = ("probabilities",), top: int = 0) -> InferRequest:
    images = np.random.default_rng(batch).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    return InferRequest(model="alexnet_int8", inputs={"image": images}, outputs=outputs, top=top)


def sent(transport: GrpcTransport, request: InferRequest, *, timeout_s: float) -> Future[InferReply]:
    return transport.submit(transport.prepare(request), timeout_s=timeout_s)


def _refuse(code: grpc.StatusCode, words: str) -> Handler:
    def handler(request: Any, context: Any) -> Any:
        context.abort(code, words)

    return handler


@pytest.mark.parametrize("top", [0, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_messages_equal_those_of_tritonclient(
    wire_server: WireServer, transport: GrpcTransport, batch: int, top: int
) -> None:
    ours = request(batch, outputs=("probabilities", "logits"), top=top)
    sent(transport, ours, timeout_s=10).result()
    with InferenceServerClient(f"127.0.0.1:{wire_server.port}") as reference:
        tensor = InferInput("image", list(ours.images.shape), "UINT8")
        tensor.set_data_from_numpy(ours.images)
        outputs = [InferRequestedOutput(name, class_count=top) for name in ours.outputs]
        reference.infer("alexnet_int8", [tensor], outputs=outputs)
    message, expected = wire_server.received
    assert message == expected
    assert message.raw_input_contents[0] == ours.images.tobytes()


@pytest.mark.parametrize("batch", [1, 8])
def test_a_request_is_its_pixels_and_less_than_a_kibibyte(
    wire_server: WireServer, transport: GrpcTransport, batch: int
) -> None:
    reply = sent(transport, request(batch, top=5), timeout_s=10).result()
    (message,) = wire_server.received
    assert reply.request_bytes == message.ByteSize()
    assert 150_528 * batch < message.ByteSize() < 150_528 * batch + 1024


def test_a_models_configuration_is_read(wire_server: WireServer) -> None:
    with Client(wire_server.url) as client:
        served = client.model("alexnet_int8")
    assert (served.precision, served.backend, served.max_batch, served.classes) == (
        "int8",
        "openvino_dynamic",
        8,
        10,
    )


def test_numbers_and_strings_are_read(wire_server: WireServer, transport: GrpcTransport) -> None:
    reply = sent(transport, request(2, outputs=("probabilities", "logits")), timeout_s=10).result()
    assert set(reply.outputs) == {"probabilities", "logits"}
    assert reply.outputs["logits"].shape == (2, 10)
    assert reply.outputs["logits"].dtype == np.float32

    def strings(request: Any, context: Any) -> Any:
        texts = [b"0.9:1:na\xc3\xafve", b"0.1:2:b"]
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name="probabilities", datatype="BYTES", shape=[1, 2])
        content = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        response.raw_output_contents.append(content)
        return response

    wire_server.handlers["ModelInfer"] = strings
    reply = sent(transport, request(1, top=2), timeout_s=10).result()
    assert reply.outputs["probabilities"].tolist() == [["0.9:1:naïve", "0.1:2:b"]]


def _response(datatype: str, content: bytes | None) -> Handler:
    def handler(request: Any, context: Any) -> Any:
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name="probabilities", datatype=datatype, shape=[1, 10])
        if content is not None:
            response.raw_output_contents.append(content)
        return response

    return handler


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(_response("FP32", b"\0" * 36), id="too short"),
        pytest.param(_response("FP32", b"\0" * 41), id="no whole numbers"),
        pytest.param(_response("FP32", None), id="no content"),
        pytest.param(_response("BF16", b"\0" * 20), id="another type"),
        pytest.param(_response("BYTES", b"\xff\0\0\0abc"), id="torn strings"),
    ],
)
def test_inconsistent_replies_are_bad_responses(
    wire_server: WireServer, transport: GrpcTransport, handler: Handler
) -> None:
    wire_server.handlers["ModelInfer"] = handler
    with pytest.raises(BadResponse):
        sent(transport, request(1), timeout_s=10).result(10)


def test_a_reply_without_a_message_is_an_error(wire_server: WireServer, transport: GrpcTransport) -> None:
    wire_server.handlers["ModelInfer"] = lambda request, context: b"<html>no</html>"
    with pytest.raises(ClientError):
        sent(transport, request(1), timeout_s=10).result(10)


def test_refusals_are_translated_and_keep_the_servers_text(
    wire_server: WireServer, transport: GrpcTransport
) -> None:
    words = "inference request batch-size must be <= 8 for 'alexnet_int8'"
    wire_server.handlers["ModelInfer"] = _refuse(grpc.StatusCode.INVALID_ARGUMENT, words)
    with pytest.raises(BadRequest, match="batch-size must be <= 8") as caught:
        sent(transport, request(1), timeout_s=10).result(10)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    wire_server.handlers["ModelConfig"] = _refuse(
        grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' is not found"
    )
    with pytest.raises(ModelNotFound, match=f"{wire_server.url} x: got"):
        transport.model_config("x", timeout_s=10).result()


def test_a_request_that_a_stopping_server_cancels_is_sent_again(wire_server: WireServer) -> None:
    replies = [_refuse(grpc.StatusCode.CANCELLED, "CANCELLED"), infer]
    wire_server.handlers["ModelInfer"] = lambda request, context: replies.pop(0)(request, context)
    with Client(wire_server.url) as client:
        assert client.probabilities(request(1).images, model="alexnet_int8").shape == (1, 10)
    assert replies == []


def test_not_ready(wire_server: WireServer) -> None:
    wire_server.handlers["ServerReady"] = lambda request, context: service_pb2.ServerReadyResponse(
        ready=False
    )
    with pytest.raises(NotReady), Client(wire_server.url):
        pytest.fail("entered")


def test_another_grpc_server_is_a_foreign_server(wire_server: WireServer) -> None:
    wire_server.handlers.clear()
    with pytest.raises(ForeignServer, match="expected a Triton Inference Server"), Client(wire_server.url):
        pytest.fail("entered")


def test_a_closed_port_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="alexnet serve") as caught, Client("grpc://127.0.0.1:1"):
        pytest.fail("entered")
    assert "\n" not in str(caught.value)


def test_an_unknown_host_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="check the URL"), Client("grpc://nosuch.invalid:8001"):
        pytest.fail("entered")


def test_a_lost_connection_is_counted_before_its_request_fails(
    wire_server: WireServer, transport: GrpcTransport
) -> None:
    assert transport.ready(timeout_s=10).result(10)
    wire_server.handlers["ModelInfer"] = _refuse(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    before = transport.connections
    seen: list[int] = []
    future = sent(transport, request(1), timeout_s=10)
    future.add_done_callback(lambda future: seen.append(transport.connections))
    assert isinstance(future.exception(10), ConnectionLost)
    assert seen == [before + 1]


def test_a_server_that_was_replaced_between_requests_is_counted() -> None:
    with served() as (first, _):
        transport = GrpcTransport(ServerUrl.parse(first.url))
        for _ in range(3):
            assert transport.ready(timeout_s=10).result(10)
        assert transport.connections == 1
    # gRPC notices the end of a connection a moment later; until then a request over it would be lost.
    state = transport._channel._channel.check_connectivity_state
    wait_until(lambda: state(False) != transport._ready_state, "the client notices the server's end")
    with served(port=first.port):
        before = transport.connections
        assert transport.ready(timeout_s=10).result(10)
        assert transport.connections == before + 1
        assert transport.ready(timeout_s=10).result(10)
        assert transport.connections == before + 1
    transport.close()


def test_the_deadline_ends_a_request(wire_server: WireServer, transport: GrpcTransport) -> None:
    release = threading.Event()

    def never(request: Any, context: Any) -> Any:
        release.wait(30)
        return service_pb2.ModelInferResponse()

    wire_server.handlers.update(ModelInfer=never, ServerReady=never, ModelConfig=never)
    with pytest.raises(DeadlineExceeded, match="timeout_s"):
        sent(transport, request(1), timeout_s=0.05).result(10)
    with pytest.raises(DeadlineExceeded):
        transport.ready(timeout_s=0.05).result()
    with pytest.raises(DeadlineExceeded):
        transport.model_config("x", timeout_s=0.05).result()
    release.set()


def test_cancelling_the_future_cancels_the_request(wire_server: WireServer, transport: GrpcTransport) -> None:
    arrived, ended = threading.Event(), threading.Event()

    def never(request: Any, context: Any) -> Any:
        context.add_callback(ended.set)
        arrived.set()
        ended.wait(30)
        return service_pb2.ModelInferResponse()

    wire_server.handlers["ModelInfer"] = never
    future = sent(transport, request(1), timeout_s=30)
    assert arrived.wait(10)
    assert future.cancel()
    assert ended.wait(10)
    with pytest.raises(CancelledError):
        future.result(10)


def test_closing_fails_open_and_later_requests(wire_server: WireServer, transport: GrpcTransport) -> None:
    arrived, release = threading.Event(), threading.Event()

    def never(request: Any, context: Any) -> Any:
        arrived.set()
        release.wait(30)
        return service_pb2.ModelInferResponse()

    wire_server.handlers["ModelInfer"] = never
    future = sent(transport, request(1), timeout_s=30)
    assert arrived.wait(10)
    transport.close()
    with pytest.raises(ClientError, match="got a client that is closed"):
        future.result(10)
    release.set()
    with pytest.raises(ClientError, match="closed"):
        sent(transport, request(1), timeout_s=10).result(10)
    with pytest.raises(ClientError, match="closed"):
        transport.ready(timeout_s=10).result()


def test_many_requests_are_open_at_a_time(wire_server: WireServer, transport: GrpcTransport) -> None:
    together = threading.Barrier(4, timeout=10)

    def meet(request: Any, context: Any) -> Any:
        together.wait()
        return infer(request, context)

    wire_server.handlers["ModelInfer"] = meet
    waiting = [sent(transport, request(1), timeout_s=10) for _ in range(4)]
    assert [future.result(10).outputs["probabilities"].shape for future in waiting] == [(1, 10)] * 4


def test_a_failed_connection_does_not_affect_the_next_client() -> None:
    running = grpc.server(futures.ThreadPoolExecutor(1), handlers=[WireServer({"ServerReady": ready})])
    with socket.socket() as taken:  # keeps the port from other processes; gRPC's server binds it too
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        early = transport_from_url(ServerUrl.parse(f"grpc://127.0.0.1:{port}"))
        with pytest.raises(Unreachable):
            early.ready(timeout_s=10).result()
        assert running.add_insecure_port(f"127.0.0.1:{port}") == port
        running.start()
        try:
            with Client(f"grpc://127.0.0.1:{port}"):
                pass
        finally:
            early.close()
            running.stop(grace=None).wait()


def test_one_classify_call_crosses_at_most_nine_files(wire_server: WireServer) -> None:
    """Counted over the packages clients/ and model/, in all threads, without connecting."""

    def classes(request: Any, context: Any) -> Any:
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name="probabilities", datatype="BYTES", shape=[1, 1])
        response.raw_output_contents.append(len(b"0.9:0:0").to_bytes(4, "little") + b"0.9:0:0")
        return response

    wire_server.handlers["ModelInfer"] = classes
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if re.search("/alexnet_(clients|model)/", frame.f_code.co_filename):
            files.add(frame.f_code.co_filename)

    image = io.BytesIO()
    Image.new("RGB", (64, 64)).save(image, "JPEG")
    with Client(wire_server.url) as client:
        threading.setprofile(note)  # for the threads that decode
        try:
            client.classify(image.getvalue(), top=1)
            files.clear()
            sys.setprofile(note)
            (prediction,) = client.classify(image.getvalue(), top=1)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert prediction.best.label == "0"
    assert len(files) <= 9, "\n".join(sorted(files))
    assert any(name.endswith("/contract.py") for name in files)


def test_closing_twice_is_allowed(transport: GrpcTransport) -> None:
    assert transport.ready(timeout_s=10).result()
    transport.close()
    transport.close()


@pytest.mark.parametrize("closed", [False, True])
def test_the_thread_ends_with_the_transport(wire_server: WireServer, closed: bool) -> None:
    before = set(threading.enumerate())  # others, of earlier tests, may end at any time

    def ours() -> list[str]:
        started = set(threading.enumerate()) - before
        return [thread.name for thread in started if thread.name == "alexnet-grpc"]

    transport = GrpcTransport(ServerUrl.parse(wire_server.url))
    assert transport.ready(timeout_s=10).result()
    assert ours() == ["alexnet-grpc"]
    if closed:
        transport.close()
    del transport
    gc.collect()
    wait_until(lambda: not ours(), "the thread ends")
