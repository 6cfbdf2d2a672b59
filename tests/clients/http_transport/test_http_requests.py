"""The requests that HttpTransport sends."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from alexnet_clients import InferRequest, Region
from alexnet_clients.transports.http_transport import HttpTransport
from alexnet_model.errors import BadRequest, BadResponse, ClientError, ForeignServer

from .http_server import PAGE, HttpServer, is_ready, opened, pixels, request, sent


@pytest.mark.parametrize("top", [0, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_messages_equal_those_of_tritonclient(
    http_server: HttpServer, transport: HttpTransport, batch: int, top: int
) -> None:
    ours = request(batch, outputs=("probabilities", "logits"), top=top)
    sent(transport, ours).result(10)
    tensor = InferInput("image", list(ours.images.shape), "UINT8")
    tensor.set_data_from_numpy(ours.images)
    outputs = [InferRequestedOutput(name, class_count=top) for name in ours.outputs]
    body, length = InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    (received,) = http_server.received
    assert received.json == json.loads(body[:length])
    assert received.tensors == body[length:] == ours.images.tobytes()
    assert (received.verb, received.path) == ("POST", "/v2/models/alexnet_int8/infer")


def test_encoded_messages_equal_those_of_tritonclient(transport: HttpTransport) -> None:
    images = np.array([[b"\xff\xd8jpeg"], [b""]], dtype=np.object_)  # (2, 1)
    ours = InferRequest(model="alexnet", inputs={"encoded": images}, outputs=("probabilities",), top=3)
    message = transport.prepare(ours)
    tensor = InferInput("encoded", [2, 1], "BYTES")
    tensor.set_data_from_numpy(images)
    outputs = [InferRequestedOutput("probabilities", class_count=3)]
    body, length = InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    assert json.loads(message.wire[: message.header_bytes]) == json.loads(body[:length])
    assert message.wire[message.header_bytes :] == body[length:]


def test_shared_memory_messages_equal_those_of_tritonclient(transport: HttpTransport) -> None:
    images = pixels(2)
    ours = InferRequest(model="alexnet_int8", inputs={"image": images}, outputs=("logits",), region="images")
    message = transport.prepare(ours)
    tensor = InferInput("image", list(images.shape), "UINT8")
    tensor.set_shared_memory("images", images.nbytes)
    body, _ = InferenceServerClient.generate_request_body([tensor], outputs=[InferRequestedOutput("logits")])
    assert json.loads(message.wire) == json.loads(body)
    assert message.header_bytes == len(message.wire)


def test_shared_memory_is_registered_and_listed(http_server: HttpServer, transport: HttpTransport) -> None:
    region = Region(name="our images", key="/images", size_bytes=1000)
    http_server.reply("register")
    http_server.reply("unregister")
    http_server.reply("status", b'[{"name":"our images","key":"/images","offset":0,"byte_size":1000}]')
    assert transport.register(region, timeout_s=10).result(10) is None
    assert transport.regions(timeout_s=10).result(10) == (region,)
    assert transport.unregister(region.name, timeout_s=10).result(10) is None
    register, _, unregister = http_server.received
    assert (register.verb, register.path) == ("POST", "/v2/systemsharedmemory/region/our%20images/register")
    assert json.loads(register.body) == {"key": "/images", "offset": 0, "byte_size": 1000}
    assert "Inference-Header-Content-Length" not in register.headers
    assert (unregister.verb, unregister.path) == (
        "POST",
        "/v2/systemsharedmemory/region/our%20images/unregister",
    )
    assert unregister.headers["Content-Length"] == "0"


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
def test_refused_shared_memory_is_a_bad_request(
    http_server: HttpServer, transport: HttpTransport, body: bytes, status: int, kind: type[ClientError]
) -> None:
    for name in ("register", "unregister", "status"):
        http_server.reply(name, body, status)
    assert type(transport.regions(timeout_s=10).exception(10)) is kind
    # A successful registration has an empty body, so Triton sends no JSON to misread.
    changed = kind if kind is not BadResponse else ForeignServer
    region = Region(name="images", key="/images", size_bytes=1000)
    assert type(transport.register(region, timeout_s=10).exception(10)) is changed
    assert type(transport.unregister("images", timeout_s=10).exception(10)) is changed


def test_the_body_has_its_length_and_no_compression(
    http_server: HttpServer, transport: HttpTransport
) -> None:
    message = transport.prepare(request(8))  # more than a mebibyte, of which aiohttp would warn
    transport.submit(message, timeout_s=10).result(10)
    (received,) = http_server.received
    assert received.body == message.wire
    assert received.headers["Content-Length"] == str(len(message.wire))
    assert received.headers["Content-Type"] == "application/octet-stream"
    assert received.headers["Accept-Encoding"] == "identity"
    assert {"Transfer-Encoding", "Content-Encoding", "Expect"}.isdisjoint(received.headers.keys())


@pytest.mark.parametrize("batch", [1, 8])
def test_a_request_is_its_pixels_and_less_than_a_kibibyte(
    http_server: HttpServer, transport: HttpTransport, batch: int
) -> None:
    reply = sent(transport, request(batch, top=5)).result(10)
    (received,) = http_server.received
    assert reply.request_bytes == len(received.body)
    assert 150_528 * batch < len(received.body) < 150_528 * batch + 1024
    assert 0 < reply.latency_ms < 10_000


def test_a_message_can_be_sent_again(http_server: HttpServer, transport: HttpTransport) -> None:
    message = transport.prepare(request())
    for _ in range(2):
        transport.submit(message, timeout_s=10).result(10)
    first, second = http_server.received
    assert first.body == second.body


def test_a_url_path_is_a_prefix_and_names_are_quoted(http_server: HttpServer) -> None:
    with opened(f"{http_server.url}/behind/triton/") as transport:
        assert is_ready(transport)
        for model in ("a b/ü?#%", ".."):
            transport.model_config(model, timeout_s=10).result(10)
    assert [received.path for received in http_server.received] == [
        "/behind/triton/v2/health/ready",
        "/behind/triton/v2/models/a%20b%2F%C3%BC%3F%23%25/config",
        "/behind/triton/v2/models/../config",
    ]


def test_a_headers_function_is_called_before_each_request(http_server: HttpServer) -> None:
    tokens = iter(["one", "two"])

    def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {next(tokens)}", "Accept-Encoding": "gzip", "Content-Type": "x/y"}

    with opened(http_server.url, headers=headers) as transport:
        assert is_ready(transport)
        sent(transport, request()).result(10)
    ready, infer = http_server.received
    assert ready.headers.get_all("Authorization") == ["Bearer one"]
    assert infer.headers.get_all("Authorization") == ["Bearer two"]
    assert infer.headers.get_all("Accept-Encoding") == ["identity"]
    assert infer.headers.get_all("Content-Type") == ["application/octet-stream"]
