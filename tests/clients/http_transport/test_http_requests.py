"""What is sent."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from alexnet_clients import (
    InferRequest,
    Region,
)
from alexnet_clients.transports.http_transport import HttpTransport
from alexnet_model.errors import (
    BadRequest,
    BadResponse,
    ClientError,
    ForeignServer,
)

from .playing import (
    PAGE,
    WireServer,
    is_ready,
    opened,
    pixels,
    request,
    sent,
)


@pytest.mark.parametrize("top", [0, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_message_is_the_one_that_tritonclient_sends(
    wire_server: WireServer, transport: HttpTransport, batch: int, top: int
) -> None:
    ours = request(batch, outputs=("probabilities", "logits"), top=top)
    sent(transport, ours).result(10)
    tensor = InferInput("image", list(ours.images.shape), "UINT8")
    tensor.set_data_from_numpy(ours.images)
    outputs = [InferRequestedOutput(name, class_count=top) for name in ours.outputs]
    body, length = InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    (asked,) = wire_server.received
    assert asked.json == json.loads(body[:length])
    assert asked.tensors == body[length:] == ours.images.tobytes()
    assert (asked.verb, asked.path) == ("POST", "/v2/models/alexnet_int8/infer")


def test_encoded_images_are_sent_as_tritonclient_sends_them(transport: HttpTransport) -> None:
    images = np.array([[b"\xff\xd8jpeg"], [b""]], dtype=np.object_)  # (2, 1)
    ours = InferRequest(model="alexnet", inputs={"encoded": images}, outputs=("probabilities",), top=3)
    message = transport.prepare(ours)
    tensor = InferInput("encoded", [2, 1], "BYTES")
    tensor.set_data_from_numpy(images)
    outputs = [InferRequestedOutput("probabilities", class_count=3)]
    body, length = InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    assert json.loads(message.wire[: message.header_bytes]) == json.loads(body[:length])
    assert message.wire[message.header_bytes :] == body[length:]


def test_images_in_shared_memory_are_named_as_tritonclient_names_them(transport: HttpTransport) -> None:
    images = pixels(2)
    ours = InferRequest(model="alexnet_int8", inputs={"image": images}, outputs=("logits",), region="images")
    message = transport.prepare(ours)
    tensor = InferInput("image", list(images.shape), "UINT8")
    tensor.set_shared_memory("images", images.nbytes)
    body, _ = InferenceServerClient.generate_request_body([tensor], outputs=[InferRequestedOutput("logits")])
    assert json.loads(message.wire) == json.loads(body)
    assert message.header_bytes == len(message.wire)


def test_shared_memory_is_told_and_listed(wire_server: WireServer, transport: HttpTransport) -> None:
    region = Region(name="our images", key="/images", size_bytes=1000)
    wire_server.answers("register")
    wire_server.answers("unregister")
    wire_server.answers("status", b'[{"name":"our images","key":"/images","offset":0,"byte_size":1000}]')
    assert transport.register(region, timeout_s=10).result(10) is None
    assert transport.regions(timeout_s=10).result(10) == (region,)
    assert transport.unregister(region.name, timeout_s=10).result(10) is None
    told, _, untold = wire_server.received
    assert (told.verb, told.path) == ("POST", "/v2/systemsharedmemory/region/our%20images/register")
    assert json.loads(told.body) == {"key": "/images", "offset": 0, "byte_size": 1000}
    assert "Inference-Header-Content-Length" not in told.headers
    assert (untold.verb, untold.path) == ("POST", "/v2/systemsharedmemory/region/our%20images/unregister")
    assert untold.headers["Content-Length"] == "0"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"error":"This API is restricted, expecting header \'alexnet\'"}', 403, BadRequest),
        (b'{"error":"Unable to open shared memory region: \'/images\'"}', 500, BadRequest),
        (PAGE, 200, ForeignServer),
        (b"[7]", 200, BadResponse),
        (b'[{"name": "x"', 200, BadResponse),
    ],
)
def test_shared_memory_that_is_refused(
    wire_server: WireServer, transport: HttpTransport, body: bytes, status: int, kind: type[ClientError]
) -> None:
    for name in ("register", "unregister", "status"):
        wire_server.answers(name, body, status)
    assert type(transport.regions(timeout_s=10).exception(10)) is kind
    told = kind if kind is not BadResponse else ForeignServer  # to which nothing but nothing is an answer
    region = Region(name="images", key="/images", size_bytes=1000)
    assert type(transport.register(region, timeout_s=10).exception(10)) is told
    assert type(transport.unregister("images", timeout_s=10).exception(10)) is told


def test_the_body_is_announced_whole_and_uncompressed(
    wire_server: WireServer, transport: HttpTransport
) -> None:
    message = transport.prepare(request(8))  # more than a mebibyte, of which aiohttp would warn
    transport.submit(message, timeout_s=10).result(10)
    (asked,) = wire_server.received
    assert asked.body == message.wire
    assert asked.headers["Content-Length"] == str(len(message.wire))
    assert asked.headers["Content-Type"] == "application/octet-stream"
    assert asked.headers["Accept-Encoding"] == "identity"
    assert {"Transfer-Encoding", "Content-Encoding", "Expect"}.isdisjoint(asked.headers.keys())


@pytest.mark.parametrize("batch", [1, 8])
def test_an_image_costs_its_pixels_and_less_than_a_kibibyte(
    wire_server: WireServer, transport: HttpTransport, batch: int
) -> None:
    reply = sent(transport, request(batch, top=5)).result(10)
    (asked,) = wire_server.received
    assert reply.request_bytes == len(asked.body)
    assert 150_528 * batch < len(asked.body) < 150_528 * batch + 1024
    assert 0 < reply.latency_ms < 10_000


def test_a_message_can_be_sent_again(wire_server: WireServer, transport: HttpTransport) -> None:
    message = transport.prepare(request())
    for _ in range(2):
        transport.submit(message, timeout_s=10).result(10)
    first, second = wire_server.received
    assert first.body == second.body


def test_a_path_in_the_url_goes_first_and_names_are_quoted(wire_server: WireServer) -> None:
    with opened(f"{wire_server.url}/behind/triton/") as transport:
        assert is_ready(transport)
        for model in ("a b/ü?#%", ".."):
            transport.model_config(model, timeout_s=10).result(10)
    assert [asked.path for asked in wire_server.received] == [
        "/behind/triton/v2/health/ready",
        "/behind/triton/v2/models/a%20b%2F%C3%BC%3F%23%25/config",
        "/behind/triton/v2/models/../config",
    ]


def test_headers_are_asked_for_before_each_request(wire_server: WireServer) -> None:
    tokens = iter(["one", "two"])

    def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {next(tokens)}", "Accept-Encoding": "gzip", "Content-Type": "x/y"}

    with opened(wire_server.url, headers=headers) as transport:
        assert is_ready(transport)
        sent(transport, request()).result(10)
    health, question = wire_server.received
    assert health.headers.get_all("Authorization") == ["Bearer one"]
    assert question.headers.get_all("Authorization") == ["Bearer two"]
    assert question.headers.get_all("Accept-Encoding") == ["identity"]
    assert question.headers.get_all("Content-Type") == ["application/octet-stream"]


def test_headers_that_cannot_be_had_or_sent_are_the_futures_error(wire_server: WireServer) -> None:
    def headers() -> dict[str, str]:
        raise OSError("the vault is closed")

    with opened(wire_server.url, headers=headers) as transport:
        error = transport.ready(timeout_s=10).exception(10)
    assert type(error) is ClientError
    assert "OSError from the function that gives the headers: the vault is closed" in str(error)
    with opened(wire_server.url, headers={"x-token": "one\r\nx-other: two"}) as transport:
        error = transport.ready(timeout_s=10).exception(10)
    assert type(error) is BadRequest
    assert "two" not in str(error)  # it may be a secret
    assert wire_server.received == []
