from __future__ import annotations

import json
import queue
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message as Headers
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from alexnet_clients import (
    Client,
    ClientTls,
    InferReply,
    InferRequest,
    ModelConfig,
    ModelStatistics,
    Region,
    ServerUrl,
    TensorSpec,
    Transport,
    transport_from_url,
)
from alexnet_clients.access import Access
from alexnet_clients.transports import http_transport
from alexnet_clients.transports.http_transport import HttpTransport
from alexnet_model.class_names import DIGITS
from alexnet_model.contract import Contract
from alexnet_model.errors import (
    BadRequest,
    BadResponse,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    ForeignServer,
    InvalidUrl,
    ModelNotFound,
    NotReady,
    Unreachable,
    Untrusted,
    UsageError,
)

from ..certificates import Certificates, make_certificates

CONTRACT = Contract()
PAGE = b"<!DOCTYPE html>" + b"<p>Please log in.</p>" * 1000


@dataclass(frozen=True)
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False
    raw: bytes | None = None  # instead of all of it


@dataclass(frozen=True)
class Asked:
    verb: str
    path: str
    headers: Headers
    body: bytes
    socket: socket.socket

    @property
    def json(self) -> Any:
        return json.loads(self.body[: int(self.headers["Inference-Header-Content-Length"])])

    @property
    def tensors(self) -> bytes:
        return self.body[int(self.headers["Inference-Header-Content-Length"]) :]

    def left(self) -> bool:
        """Whether the client has hung up, waiting for it."""
        self.socket.settimeout(10)
        return self.socket.recv(1) == b""


Handler = Callable[[Asked], Reply]


@dataclass
class WireServer:
    """A real HTTP server that speaks Triton's messages and answers as it is told, by a path's last part."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    received: list[Asked] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def answers(self, name: str, body: bytes = b"", status: int = 200, **more: Any) -> None:
        self.handlers[name] = lambda asked: Reply(body, status, **more)

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[WireServer]:
        wire = self

        class Connection(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                with suppress(OSError, ValueError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(self.command, self.path, self.headers, body, self.connection)
                wire.received.append(asked)
                handler = wire.handlers.get(self.path.rpartition("/")[2])
                reply = handler(asked) if handler is not None else Reply(b'{"error":"Not Found"}', 404)
                self.close_connection |= reply.hang_up or reply.raw is not None
                if reply.raw is not None:
                    self.wfile.write(reply.raw)
                    return
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def do_POST(self) -> None:
                self.do_GET()

            def do_CONNECT(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def get_request(self) -> tuple[socket.socket, Any]:
                connection, address = super().get_request()
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                return connection, address

            def finish_request(self, connection: Any, address: Any) -> None:
                if tls is not None:
                    try:
                        connection.do_handshake()
                    except OSError:
                        _leave_politely(connection)
                        return
                super().finish_request(connection, address)

        server = Server(("127.0.0.1", 0), Connection)
        self.port = server.server_address[1]
        self.scheme = "http" if tls is None else "https"
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield self
        finally:
            server.shutdown()
            serving.join()
            server.server_close()


def _leave_politely(connection: ssl.SSLSocket) -> None:
    """A connection that is closed with something unread takes the alert with it that says why."""
    plain = socket.socket(fileno=connection.detach())
    with plain, suppress(OSError):
        plain.shutdown(socket.SHUT_WR)
        plain.settimeout(10)
        while plain.recv(65536):
            pass


def config(asked: Asked) -> Reply:
    parameters = {
        "contract": CONTRACT.to_json(),
        "contract_digest": CONTRACT.digest,
        "labels": json.dumps(DIGITS),
        "precision": "int8",
    }
    return as_json(
        {
            "name": asked.path.split("/")[-2],
            "platform": "",
            "backend": "openvino_dynamic",
            "max_batch_size": 8,
            "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": [224, 224, 3]}],
            "output": [
                {"name": name, "data_type": "TYPE_FP32", "dims": [10]} for name in ("probabilities", "logits")
            ],
            "parameters": {name: {"string_value": value} for name, value in parameters.items()},
        }
    )


def as_json(value: Any) -> Reply:
    return Reply(json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def as_tensors(*tensors: tuple[str, str, list[int], bytes]) -> Reply:
    outputs = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}}
        for name, datatype, shape, content in tensors
    ]
    return in_parts(json.dumps({"outputs": outputs}).encode(), b"".join(content for *_, content in tensors))


def in_parts(header: bytes, content: bytes, length: object = None) -> Reply:
    said = len(header) if length is None else length
    return Reply(header + content, headers={"Inference-Header-Content-Length": str(said)})


def infer(asked: Asked) -> Reply:
    batch = asked.json["inputs"][0]["shape"][0]
    content = np.full((batch, 10), 0.1, "<f4").tobytes()
    return as_tensors(*((output["name"], "FP32", [batch, 10], content) for output in asked.json["outputs"]))


@pytest.fixture
def wire_server() -> Iterator[WireServer]:
    server = WireServer({"config": config, "infer": infer, "ready": lambda asked: Reply()})
    with server.running():
        yield server


@pytest.fixture
def transport(wire_server: WireServer) -> Iterator[HttpTransport]:
    with opened(wire_server.url) as transport:
        yield transport


@contextmanager
def opened(url: str, **access: Any) -> Iterator[HttpTransport]:
    transport = transport_from_url(ServerUrl.parse(url), Access(**access))
    assert isinstance(transport, HttpTransport)
    try:
        yield transport
    finally:
        transport.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def encrypted(
    certificates: Certificates, pair: str = "server", *, mutual: bool = False
) -> Iterator[WireServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own = getattr(certificates, pair)
    context.load_cert_chain(own.certificate, own.key)
    if mutual:
        context.load_verify_locations(certificates.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    server = WireServer({"config": config, "infer": infer, "ready": lambda asked: Reply()})
    with server.running(context):
        yield server


def pixels(batch: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(batch).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)


def request(batch: int = 1, *, outputs: tuple[str, ...] = ("probabilities",), top: int = 0) -> InferRequest:
    return InferRequest(model="alexnet_int8", inputs={"image": pixels(batch)}, outputs=outputs, top=top)


def sent(transport: Transport, request: InferRequest, *, timeout_s: float = 10) -> Future[InferReply]:
    return transport.submit(transport.prepare(request), timeout_s=timeout_s)


def is_ready(transport: Transport) -> bool:
    return transport.ready(timeout_s=10).result(10)


# What is sent


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


def test_encoded_pictures_are_sent_as_tritonclient_sends_them(transport: HttpTransport) -> None:
    pictures = np.array([[b"\xff\xd8jpeg"], [b""]], dtype=np.object_)  # (2, 1)
    ours = InferRequest(model="alexnet", inputs={"encoded": pictures}, outputs=("probabilities",), top=3)
    message = transport.prepare(ours)
    tensor = InferInput("encoded", [2, 1], "BYTES")
    tensor.set_data_from_numpy(pictures)
    outputs = [InferRequestedOutput("probabilities", class_count=3)]
    body, length = InferenceServerClient.generate_request_body([tensor], outputs=outputs)
    assert json.loads(message.wire[: message.header_bytes]) == json.loads(body[:length])
    assert message.wire[message.header_bytes :] == body[length:]


def test_pictures_in_shared_memory_are_named_as_tritonclient_names_them(transport: HttpTransport) -> None:
    images = pixels(2)
    ours = InferRequest(
        model="alexnet_int8", inputs={"image": images}, outputs=("logits",), region="pictures"
    )
    message = transport.prepare(ours)
    tensor = InferInput("image", list(images.shape), "UINT8")
    tensor.set_shared_memory("pictures", images.nbytes)
    body, _ = InferenceServerClient.generate_request_body([tensor], outputs=[InferRequestedOutput("logits")])
    assert json.loads(message.wire) == json.loads(body)
    assert message.header_bytes == len(message.wire)


def test_shared_memory_is_told_and_listed(wire_server: WireServer, transport: HttpTransport) -> None:
    region = Region(name="our pictures", key="/pictures", size_bytes=1000)
    wire_server.answers("register")
    wire_server.answers("unregister")
    wire_server.answers("status", b'[{"name":"our pictures","key":"/pictures","offset":0,"byte_size":1000}]')
    assert transport.register(region, timeout_s=10).result(10) is None
    assert transport.regions(timeout_s=10).result(10) == (region,)
    assert transport.unregister(region.name, timeout_s=10).result(10) is None
    told, _, untold = wire_server.received
    assert (told.verb, told.path) == ("POST", "/v2/systemsharedmemory/region/our%20pictures/register")
    assert json.loads(told.body) == {"key": "/pictures", "offset": 0, "byte_size": 1000}
    assert "Inference-Header-Content-Length" not in told.headers
    assert (untold.verb, untold.path) == ("POST", "/v2/systemsharedmemory/region/our%20pictures/unregister")
    assert untold.headers["Content-Length"] == "0"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"error":"This API is restricted, expecting header \'alexnet\'"}', 403, BadRequest),
        (b'{"error":"Unable to open shared memory region: \'/pictures\'"}', 500, BadRequest),
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
    region = Region(name="pictures", key="/pictures", size_bytes=1000)
    assert type(transport.register(region, timeout_s=10).exception(10)) is told
    assert type(transport.unregister("pictures", timeout_s=10).exception(10)) is told


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
def test_a_picture_costs_its_pixels_and_less_than_a_kibibyte(
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


# What is read


def test_the_models_configuration_is_read(wire_server: WireServer, transport: HttpTransport) -> None:
    with Client(wire_server.url) as client:
        served = client.model("alexnet_int8")
    assert (served.precision, served.backend, served.max_batch) == ("int8", "openvino_dynamic", 8)
    wire_server.answers(
        "config",
        as_json(
            {
                "name": "alexnet",
                "platform": "ensemble",
                "backend": "",
                "max_batch_size": 4,
                "input": [{"name": "encoded", "data_type": "TYPE_STRING", "dims": ["1"]}],
                "output": [{"name": "logits", "data_type": "TYPE_FP16", "dims": [-1, "10"]}],
                "parameters": {"precision": {"string_value": "fp16"}},
            }
        ).body,
    )
    found = transport.model_config("alexnet", timeout_s=10).result(10)
    assert found == ModelConfig(
        name="alexnet",
        backend="ensemble",
        max_batch=4,
        inputs={"encoded": TensorSpec(datatype="BYTES", shape=(1,))},
        outputs={"logits": TensorSpec(datatype="FP16", shape=(-1, 10))},
        parameters={"precision": "fp16"},
    )


def test_space_before_the_json_is_allowed(wire_server: WireServer, transport: HttpTransport) -> None:
    wire_server.handlers["infer"] = lambda asked: Reply(b'\r\n {"outputs": []}')
    assert sent(transport, request()).result(10).outputs == {}


def test_the_statistics_are_read(wire_server: WireServer, transport: HttpTransport) -> None:
    times = {
        name: {"count": count, "ns": 100 * count}
        for count, name in enumerate(
            ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"), start=1
        )
    }
    batches = [
        {"batch_size": size, "compute_infer": {"count": count, "ns": 1}} for size, count in ((1, 5), (8, 6))
    ]
    version = {
        "inference_count": 53,
        "execution_count": 11,
        "inference_stats": times,
        "batch_stats": batches,
    }
    wire_server.answers("stats", as_json({"model_stats": [version]}).body)
    assert transport.statistics("alexnet_int8", timeout_s=10).result(10) == ModelStatistics(
        requests=1,
        pictures=53,
        executions=11,
        queue_ns=300,
        compute_input_ns=400,
        compute_infer_ns=500,
        compute_output_ns=600,
        failed=2,
        executions_by_batch={1: 5, 8: 6},
    )
    assert wire_server.received[0].path == "/v2/models/alexnet_int8/stats"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{}", id="nothing"),
        pytest.param(b'{"name": "x"', id="torn"),
        pytest.param(b'{"model_stats": [7], "name": "x", "max_batch_size": "many"}', id="wrong types"),
        pytest.param(b'{"model_stats": 7, "name": "x", "max_batch_size": 1, "input": 7}', id="no lists"),
        pytest.param(b'{"a":' * 100_000, id="without end"),
    ],
)
def test_json_of_another_form_is_a_bad_response(
    wire_server: WireServer, transport: HttpTransport, body: bytes
) -> None:
    wire_server.answers("config", body)
    wire_server.answers("stats", body)
    for future in (
        transport.model_config("x", timeout_s=10),
        transport.statistics("x", timeout_s=10),
    ):
        error = future.exception(10)
        assert type(error) is BadResponse
        assert len(str(error)) < 500


def test_numbers_and_strings_come_back(wire_server: WireServer, transport: HttpTransport) -> None:
    reply = sent(transport, request(2, outputs=("probabilities", "logits"))).result(10)
    assert set(reply.outputs) == {"probabilities", "logits"}
    assert reply.outputs["logits"].shape == (2, 10)
    assert reply.outputs["logits"].dtype == np.float32
    assert (reply.outputs["logits"] == np.float32(0.1)).all()
    texts = [b"0.9:1:na\xc3\xafve", b"0.1:2:b"]
    content = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    wire_server.handlers["infer"] = lambda asked: as_tensors(("probabilities", "BYTES", [1, 2], content))
    reply = sent(transport, request(1, top=2)).result(10)
    assert reply.outputs["probabilities"].tolist() == [["0.9:1:naïve", "0.1:2:b"]]


def test_a_server_without_the_binary_extension_is_understood(
    wire_server: WireServer, transport: HttpTransport
) -> None:
    numbers = {"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, 3, -4]}
    nested = {"name": "more", "datatype": "INT64", "shape": [1, 2], "data": [[5, 6]]}
    strings = {"name": "probabilities", "datatype": "BYTES", "shape": [1, 2], "data": ["0.9:1:a", "0.1:2:b"]}
    wire_server.handlers["infer"] = lambda asked: as_json({"outputs": [numbers, nested, strings]})
    outputs = sent(transport, request()).result(10).outputs
    assert outputs["logits"].tolist() == [[1, 2.5], [3, -4]]
    assert outputs["logits"].dtype == np.float32
    assert outputs["more"].tolist() == [[5, 6]]
    assert outputs["probabilities"].tolist() == [["0.9:1:a", "0.1:2:b"]]


def _said(**tensor: Any) -> Reply:
    whole = {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], **tensor}
    return in_parts(json.dumps({"outputs": [whole]}).encode(), b"" if "data" in tensor else b"\0" * 40)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(as_tensors(("probabilities", "FP32", [1, 10], b"\0" * 36)), id="too short"),
        pytest.param(as_tensors(("probabilities", "FP32", [1, 10], b"\0" * 41)), id="no whole numbers"),
        pytest.param(as_tensors(("probabilities", "FP64", [1, 10], b"\0" * 40)), id="another type"),
        pytest.param(as_tensors(("probabilities", "XY", [1, 10], b"\0" * 40)), id="unknown type"),
        pytest.param(as_tensors(("probabilities", "BYTES", [1, 1], b"\xff\0\0\0abc")), id="torn strings"),
        pytest.param(as_tensors(("probabilities", "FP32", [-1, 10], b"\0" * 40)), id="negative shape"),
        pytest.param(_said(parameters={"binary_data_size": 44}), id="more announced than there"),
        pytest.param(_said(parameters={"binary_data_size": 36}), id="less announced than needed"),
        pytest.param(
            _said(parameters={"binary_data_size": 36}, shape=[1, 9]), id="less announced than there"
        ),
        pytest.param(_said(parameters={"binary_data_size": -40}), id="negative size"),
        pytest.param(_said(parameters={"binary_data_size": "40"}), id="size as text"),
        pytest.param(_said(parameters={"binary_data_size": True}), id="size as truth"),
        pytest.param(_said(), id="no size"),
        pytest.param(_said(data=[0.1]), id="too little data"),
        pytest.param(_said(data=["a"] * 10), id="no numbers"),
        pytest.param(_said(datatype="BYTES", data=[1] * 10), id="no strings"),
        pytest.param(_said(shape="10", parameters={"binary_data_size": 40}), id="shape as text"),
        pytest.param(in_parts(b'{"outputs": [', b"", 13), id="torn header"),
        pytest.param(in_parts(b'{"outputs": []}', b"", 99), id="header longer than the body"),
        pytest.param(in_parts(b'{"outputs": []}', b"", 0), id="no header"),
        pytest.param(in_parts(b'{"outputs": []}', b"", "-1"), id="negative header"),
        pytest.param(in_parts(b'{"outputs": []}', b"", "Â²"), id="odd digits"),
        pytest.param(Reply(b'{"outputs": []}\0\0\0\0'), id="no length of the header"),
        pytest.param(Reply(b'{"outputs": 7}'), id="no list"),
        pytest.param(Reply(b'{"error": "odd"}'), id="no outputs"),
    ],
)
def test_answers_that_do_not_add_up_are_bad_responses(
    wire_server: WireServer, transport: HttpTransport, reply: Reply
) -> None:
    wire_server.handlers["infer"] = lambda asked: reply
    error = sent(transport, request()).exception(10)
    assert type(error) is BadResponse
    assert str(error).startswith(f"{wire_server.url} alexnet_int8")
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PAGE, "got an HTML page, expected a Triton Inference Server"),
        (b"\n<html></html>", "got an HTML page"),
        (b"", "got an empty answer"),
        (b"It works! " * 1000, "got the text 'It works! It works!"),
        (b'[{"name": "x"}]', "got the text"),
    ],
)
def test_an_answer_of_somebody_else_is_named(
    wire_server: WireServer, transport: HttpTransport, body: bytes, words: str
) -> None:
    for name in ("config", "stats", "infer"):
        wire_server.answers(name, body)
    for future in (
        transport.model_config("x", timeout_s=10),
        transport.statistics("x", timeout_s=10),
        sent(transport, request()),
    ):
        error = future.exception(10)
        assert type(error) is ForeignServer
        assert words in str(error)
        assert len(str(error)) < 500


def test_an_answer_without_end_is_not_read(
    wire_server: WireServer, transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_transport, "LONGEST_ANSWER", 1000)
    wire_server.answers("config", b"{" + b" " * 998 + b"}")
    assert "a model's configuration" in str(transport.model_config("x", timeout_s=10).exception(10))
    wire_server.answers("config", b"{" + b" " * 999 + b"}")
    error = transport.model_config("x", timeout_s=10).exception(10)
    assert type(error) is BadResponse
    assert "expected at most 1000" in str(error)


# Whether it is ready


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("body", [b"", b'{"error": "Server is not ready"}'])
def test_not_ready(wire_server: WireServer, transport: HttpTransport, status: int, body: bytes) -> None:
    assert is_ready(transport)
    wire_server.answers("ready", body, status)
    assert not is_ready(transport)
    with pytest.raises(NotReady), Client(wire_server.url):
        pytest.fail("entered")


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"no healthy upstream", 503, Unreachable),
        (PAGE, 503, Unreachable),
        (PAGE, 200, ForeignServer),
        (b"OK", 200, ForeignServer),
        (b"", 404, ForeignServer),
        (b"", 401, BadRequest),
        (b"", 500, ClientError),
    ],
)
def test_somebody_else_says_whether_it_is_ready(
    wire_server: WireServer, transport: HttpTransport, body: bytes, status: int, kind: type[ClientError]
) -> None:
    wire_server.answers("ready", body, status)
    error = transport.ready(timeout_s=10).exception(10)
    assert type(error) is kind
    assert str(error).startswith(f"{wire_server.url}: got ")


# Refusals and faults


def test_refusals_are_translated_with_the_servers_words(
    wire_server: WireServer, transport: HttpTransport
) -> None:
    words = "inference request batch-size must be <= 8 for 'alexnet_int8'"
    wire_server.answers("infer", json.dumps({"error": words}).encode(), 400)
    with pytest.raises(BadRequest, match="batch-size must be <= 8"):
        sent(transport, request()).result(10)
    wire_server.answers("config", b'{"error":"Request for unknown model: \'x\' is not found"}', 404)
    with pytest.raises(ModelNotFound, match=f"{wire_server.url} x: got"):
        transport.model_config("x", timeout_s=10).result(10)


def test_a_redirect_is_not_followed(wire_server: WireServer, transport: HttpTransport) -> None:
    goal = f"{wire_server.url}/elsewhere"
    wire_server.answers("infer", b"", 307, headers={"Location": goal})
    with pytest.raises(ForeignServer, match=rf"a redirect to {goal}.*Give the final URL"):
        sent(transport, request()).result(10)
    assert len(wire_server.received) == 1


def test_a_server_that_is_no_triton(wire_server: WireServer) -> None:
    wire_server.handlers.clear()
    with pytest.raises(ForeignServer, match="expected a Triton Inference Server"), Client(wire_server.url):
        pytest.fail("entered")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\0\0\x18\x04\0\0\0\0\0\0\x04\0@\0\0\0\x05\0@\0\0", id="HTTP/2, as gRPC has it"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="SSH"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", id="a broken header"),
    ],
)
def test_what_is_no_http_is_foreign(wire_server: WireServer, transport: HttpTransport, raw: bytes) -> None:
    wire_server.handlers["infer"] = lambda asked: Reply(raw=raw)
    error = sent(transport, request()).exception(10)
    assert type(error) is ForeignServer
    assert error.__cause__ is not None
    assert "not HTTP" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="no answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a header"),
        pytest.param(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"outputs"', id="half a body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{", id="half a chunk"),
    ],
)
def test_a_server_that_goes_away_in_the_middle(
    wire_server: WireServer, transport: HttpTransport, raw: bytes
) -> None:
    wire_server.handlers["infer"] = lambda asked: Reply(raw=raw)
    error = sent(transport, request()).exception(10)
    assert type(error) is ConnectionLost
    assert error.__cause__ is not None
    assert len(wire_server.received) == 1  # nobody asked again behind our back


def test_nobody_there() -> None:
    words = r"got connection refused, .*alexnet serve"
    with pytest.raises(Unreachable, match=words) as caught, Client("http://127.0.0.1:1"):
        pytest.fail("entered")
    assert "\n" not in str(caught.value)


def test_no_such_host() -> None:
    with opened("http://no-such-host.invalid:8000") as transport:
        assert type(transport.ready(timeout_s=10).exception(10)) is Unreachable
    with opened(f"http://{'x' * 64}.invalid:8000") as transport:  # longer than DNS can carry
        assert type(transport.ready(timeout_s=10).exception(10)) in (Unreachable, InvalidUrl)
    with pytest.raises(InvalidUrl), opened("http://ex\u2100mple.invalid"):
        pytest.fail("opened")


def test_the_deadline_ends_a_request(wire_server: WireServer, transport: HttpTransport) -> None:
    release = threading.Event()

    def never(asked: Asked) -> Reply:
        release.wait(30)
        return Reply()

    def half(asked: Asked) -> Reply:
        asked.socket.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"outputs": ')
        return never(asked)

    wire_server.handlers.update(infer=never, ready=never, config=never, stats=half)
    for future in (
        sent(transport, request(), timeout_s=0.05),
        transport.ready(timeout_s=0.05),
        transport.model_config("x", timeout_s=0.05),
        transport.statistics("x", timeout_s=0.2),
    ):
        with pytest.raises(DeadlineExceeded, match=r"no answer in 0\.\d+ s.*timeout_s"):
            future.result(10)
    release.set()


# Futures and connections


def test_cancelling_the_future_cancels_the_request(wire_server: WireServer, transport: HttpTransport) -> None:
    arrived, ended = threading.Event(), threading.Event()

    def never(asked: Asked) -> Reply:
        arrived.set()
        if asked.left():
            ended.set()
        return Reply(hang_up=True)

    wire_server.handlers["infer"] = never
    future = sent(transport, request(), timeout_s=30)
    assert arrived.wait(10)
    assert future.cancel()
    assert ended.wait(10)
    with pytest.raises(CancelledError):
        future.result(10)
    assert is_ready(transport)


def test_closing_ends_what_is_in_flight_and_what_comes_after(
    wire_server: WireServer, transport: HttpTransport
) -> None:
    arrived, ended = threading.Event(), threading.Event()

    def never(asked: Asked) -> Reply:
        arrived.set()
        if asked.left():
            ended.set()
        return Reply(hang_up=True)

    wire_server.handlers["infer"] = never
    future = sent(transport, request(), timeout_s=30)
    assert arrived.wait(10)
    just_begun = [transport.ready(timeout_s=30) for _ in range(20)]
    transport.close()
    assert ended.wait(10)
    for ending in (future, sent(transport, request()), transport.ready(timeout_s=10)):
        assert type(ending.exception(10)) is ClientError
        assert "got a client that is closed" in str(ending.exception())
    for begun in just_begun:
        assert begun.done()
        assert not begun.cancelled()
        assert begun.exception() is None or "closed" in str(begun.exception())


def test_closing_again_and_unused_is_allowed(transport: HttpTransport) -> None:
    threads = threading.active_count()
    transport.close()
    transport.close()
    assert threading.active_count() <= threads


def test_closing_ends_the_thread(wire_server: WireServer) -> None:
    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "alexnet-client"]

    before = len(ours())
    with opened(wire_server.url) as transport:
        assert is_ready(transport)
        assert len(ours()) == before + 1
    assert len(ours()) == before


def test_closing_from_a_futures_own_thread(wire_server: WireServer, transport: HttpTransport) -> None:
    closed = threading.Event()

    def close(future: Future[bool]) -> None:
        transport.close()
        closed.set()

    transport.ready(timeout_s=10).add_done_callback(close)
    assert closed.wait(10)
    with pytest.raises(ClientError, match="closed"):
        transport.ready(timeout_s=10).result(10)


def test_many_requests_are_open_at_a_time(wire_server: WireServer, transport: HttpTransport) -> None:
    together = threading.Barrier(120, timeout=30)

    def meet(asked: Asked) -> Reply:
        together.wait()
        return Reply()

    wire_server.handlers["ready"] = meet
    waiting = [transport.ready(timeout_s=30) for _ in range(120)]
    assert all(future.result(30) for future in waiting)


def test_a_connection_is_kept_and_counted_when_it_is_made(
    wire_server: WireServer, transport: HttpTransport
) -> None:
    seen: queue.Queue[int] = queue.Queue()

    def asked() -> int:
        future = transport.ready(timeout_s=10)
        future.add_done_callback(lambda future: seen.put(transport.connections))
        assert future.result(10)
        return seen.get(timeout=10)

    assert transport.connections == 0
    assert [asked(), asked()] == [1, 1]
    gone = threading.Event()

    def leave(asked: Asked) -> Reply:
        gone.set()
        return Reply(hang_up=True)

    wire_server.handlers["ready"] = leave
    assert asked() == 1
    assert asked() == 2  # over a new one, whether or not the client had heard of the old one's end


def test_a_client_that_found_nobody_finds_the_server_once_it_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with opened(url) as transport:
            assert type(transport.ready(timeout_s=10).exception(10)) is Unreachable
            taken.listen()
            answering = threading.Thread(target=_answer_once, args=(taken,))
            answering.start()
            assert is_ready(transport)
            answering.join()


def _answer_once(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


# Certificates


def test_a_server_is_believed_by_its_ca_alone(certificates: Certificates) -> None:
    with encrypted(certificates) as server:
        with opened(server.url, tls=ClientTls(ca=certificates.ca)) as transport:
            assert is_ready(transport)
            assert sent(transport, request(8)).result(10).outputs["probabilities"].shape == (8, 10)
        for tls in (ClientTls(ca=certificates.other_ca), None):
            with opened(server.url, tls=tls) as transport, pytest.raises(Untrusted, match="certificate"):
                is_ready(transport)


@pytest.mark.parametrize(
    ("pair", "words"), [("misnamed", "not valid for '127.0.0.1'"), ("expired", "expired")]
)
def test_a_server_with_a_wrong_certificate(certificates: Certificates, pair: str, words: str) -> None:
    with (
        encrypted(certificates, pair) as server,
        opened(server.url, tls=ClientTls(ca=certificates.ca)) as transport,
        pytest.raises(Untrusted, match=words),
    ):
        is_ready(transport)


def test_a_server_that_wants_to_know_its_clients(certificates: Certificates) -> None:
    with encrypted(certificates, mutual=True) as server:
        own, other = certificates.client, certificates.other_client
        known = ClientTls(ca=certificates.ca, certificate=own.certificate, key=own.key)
        with opened(server.url, tls=known) as transport:
            assert is_ready(transport)
        unknown = ClientTls(ca=certificates.ca, certificate=other.certificate, key=other.key)
        for tls in (unknown, ClientTls(ca=certificates.ca)):
            with opened(server.url, tls=tls) as transport, pytest.raises(Untrusted, match="alert"):
                is_ready(transport)


def test_tls_on_one_side_only(certificates: Certificates, wire_server: WireServer) -> None:
    with (
        opened(wire_server.url.replace("http", "https")) as transport,
        pytest.raises(Untrusted, match="expected a server that speaks TLS"),
    ):
        is_ready(transport)
    with (
        encrypted(certificates) as server,
        opened(server.url.replace("https", "http")) as transport,
        pytest.raises((ForeignServer, ConnectionLost)),
    ):
        is_ready(transport)


def test_a_server_that_hangs_up_in_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)

        leaving = threading.Thread(target=hang_up)
        leaving.start()
        with (
            opened(f"https://127.0.0.1:{listening.getsockname()[1]}") as transport,
            pytest.raises(Untrusted, match="the connection closed in the middle of the handshake"),
        ):
            is_ready(transport)
        leaving.join()


def test_files_that_are_no_certificates_are_told_on_opening(
    certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "odd.pem").write_text("no certificate")
    own = certificates.client
    for tls in (
        ClientTls(ca=tmp_path / "odd.pem"),
        ClientTls(certificate=tmp_path / "odd.pem", key=own.key),
        ClientTls(certificate=own.certificate, key=tmp_path / "odd.pem"),
        ClientTls(certificate=own.certificate, key=certificates.other_client.key),
    ):
        with pytest.raises(UsageError, match="PEM"), opened("https://127.0.0.1:1", tls=tls):
            pytest.fail("opened")


# Proxies


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_a_server_elsewhere_is_asked_through_the_proxy(
    wire_server: WireServer, no_proxy: pytest.MonkeyPatch
) -> None:
    no_proxy.setenv("http_proxy", f"http://m%65:p%40ss@127.0.0.1:{wire_server.port}")
    with opened("http://triton.example:8000") as transport:
        assert is_ready(transport)
    (asked,) = wire_server.received
    assert asked.path == "http://triton.example:8000/v2/health/ready"
    assert asked.headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss


def test_a_server_here_or_named_is_asked_directly(
    wire_server: WireServer, no_proxy: pytest.MonkeyPatch
) -> None:
    no_proxy.setenv("http_proxy", "http://127.0.0.1:1")
    with opened(wire_server.url) as transport:
        assert is_ready(transport)
    with (
        opened("http://triton.example:8000") as transport,
        pytest.raises(Unreachable, match="a proxy that listens there"),
    ):
        is_ready(transport)
    no_proxy.setenv("no_proxy", "triton.invalid")
    with (
        opened("http://triton.invalid:8000") as transport,
        pytest.raises(Unreachable, match="a server that listens there"),
    ):
        is_ready(transport)


def test_a_proxy_that_opens_no_tunnel(wire_server: WireServer, no_proxy: pytest.MonkeyPatch) -> None:
    no_proxy.setenv("https_proxy", f"http://me:secret@127.0.0.1:{wire_server.port}")
    wire_server.answers("triton.example:443", b"", 407)
    with (
        opened("https://triton.example", headers={"Authorization": "Bearer x"}) as transport,
        pytest.raises(BadRequest, match="a caller that the proxy knows"),
    ):
        is_ready(transport)
    (asked,) = wire_server.received
    assert (asked.verb, asked.path) == ("CONNECT", "triton.example:443")
    assert "Proxy-Authorization" in asked.headers
    assert "Authorization" not in asked.headers  # which is for the server


def test_a_proxy_of_another_protocol(no_proxy: pytest.MonkeyPatch) -> None:
    no_proxy.setenv("http_proxy", "socks5://127.0.0.1:1080")
    words = "HTTP_PROXY: got a proxy of the scheme 'socks5'"
    with pytest.raises(UsageError, match=words), opened("http://triton.example:8000"):
        pytest.fail("opened")


# Leaving nothing behind


def test_importing_the_module_brings_nothing_heavy() -> None:
    code = "import sys, alexnet_clients.transports.http_transport; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("tls", [False, True])
def test_closing_leaves_nothing_open(certificates: Certificates, wire_server: WireServer, tls: bool) -> None:
    arrived = threading.Event()

    def never(asked: Asked) -> Reply:
        arrived.set()
        asked.left()
        return Reply(hang_up=True)

    code = """
import sys, time
from pathlib import Path
from alexnet_clients import ClientTls, ServerUrl, transport_from_url
from alexnet_clients.access import Access

url, ca = sys.argv[1:]
access = Access(tls=ClientTls(ca=Path(ca))) if ca else Access()
transport = transport_from_url(ServerUrl.parse(url), access)
assert transport.ready(timeout_s=10).result()
waiting = [transport.model_config("x", timeout_s=30) for _ in range(3)]
cancelled = transport.model_config("x", timeout_s=30)
while transport.connections < 4:  # the first is used again
    time.sleep(0.01)
cancelled.cancel()
transport.close()
print([type(future.exception(10)).__name__ for future in waiting])
"""
    with encrypted(certificates) if tls else WireServer().running() as server:
        server.handlers.update(ready=lambda asked: Reply(), config=never)
        arguments = [server.url, str(certificates.ca) if tls else ""]
        command = [sys.executable, "-W", "always", "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert arrived.wait(10)
    assert (done.stdout.strip(), done.stderr, done.returncode) == (str(["ClientError"] * 3), "", 0)
