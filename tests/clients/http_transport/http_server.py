"""A real HTTP server with Triton's messages and replies chosen by the test, and requests to it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message as Headers
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_clients import Credentials, InferReply, InferRequest, ServerUrl, Transport, transport_from_url
from alexnet_clients.transports.http_transport import HttpTransport
from alexnet_model.class_names import DIGITS
from alexnet_model.contract import Contract

from ...certificates import Certificates

CONTRACT = Contract()
PAGE = b"<!DOCTYPE html>" + b"<p>Please log in.</p>" * 1000


@dataclass(frozen=True)
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False
    raw: bytes | None = None  # sent instead of an HTTP response


@dataclass(frozen=True)
class Received:
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
        """Wait for the client to close the connection."""
        self.socket.settimeout(10)
        return self.socket.recv(1) == b""


Handler = Callable[[Received], Reply]


@dataclass
class HttpServer:
    """An HTTP server whose `handlers`, by a path's last part, make the replies."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def reply(self, name: str, body: bytes = b"", status: int = 200, **more: Any) -> None:
        self.handlers[name] = lambda received: Reply(body, status, **more)

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[HttpServer]:
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
                received = Received(self.command, self.path, self.headers, body, self.connection)
                wire.received.append(received)
                handler = wire.handlers.get(self.path.rpartition("/")[2])
                reply = handler(received) if handler is not None else Reply(b'{"error":"Not Found"}', 404)
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
                        _drain_and_close(connection)
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


def _drain_and_close(connection: ssl.SSLSocket) -> None:
    """Read everything before closing: otherwise the TLS alert with the reason is lost."""
    plain = socket.socket(fileno=connection.detach())
    with plain, suppress(OSError):
        plain.shutdown(socket.SHUT_WR)
        plain.settimeout(10)
        while plain.recv(65536):
            pass


def config(received: Received) -> Reply:
    parameters = {
        "contract": CONTRACT.to_json(),
        "contract_digest": CONTRACT.digest,
        "labels": json.dumps(DIGITS),
        "precision": "int8",
    }
    return as_json(
        {
            "name": received.path.split("/")[-2],
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
    return Reply(
        header + content,
        headers={"Inference-Header-Content-Length": str(len(header) if length is None else length)},
    )


def infer(received: Received) -> Reply:
    batch = received.json["inputs"][0]["shape"][0]
    content = np.full((batch, 10), 0.1, "<f4").tobytes()
    return as_tensors(
        *((output["name"], "FP32", [batch, 10], content) for output in received.json["outputs"])
    )


def held(server: HttpServer) -> tuple[threading.Event, threading.Event]:
    """Reply to no inference. Returns events: a request arrived, and its client closed the connection."""
    arrived, ended = threading.Event(), threading.Event()

    def never(received: Received) -> Reply:
        arrived.set()
        if received.left():
            ended.set()
        return Reply(hang_up=True)

    server.handlers["infer"] = never
    return arrived, ended


@contextmanager
def opened(url: str, **credentials: Any) -> Iterator[HttpTransport]:
    transport = transport_from_url(ServerUrl.parse(url), Credentials(**credentials))
    assert isinstance(transport, HttpTransport)
    try:
        yield transport
    finally:
        transport.close()


@contextmanager
def encrypted(
    certificates: Certificates, pair: str = "server", *, mutual: bool = False
) -> Iterator[HttpServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own = getattr(certificates, pair)
    context.load_cert_chain(own.certificate, own.key)
    if mutual:
        context.load_verify_locations(certificates.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    server = HttpServer({"config": config, "infer": infer, "ready": lambda received: Reply()})
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
