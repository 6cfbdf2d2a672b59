"""Refusals and connection faults become this project's errors."""

from __future__ import annotations

import json
import threading

import pytest

from alexnet_clients import Client
from alexnet_clients.transports.http_transport import HttpTransport
from alexnet_model.errors import (
    BadRequest,
    ConnectionLost,
    DeadlineExceeded,
    ForeignServer,
    InvalidUrl,
    ModelNotFound,
    Unreachable,
)

from .http_server import HttpServer, Received, Reply, opened, request, sent


def test_refusals_are_translated_and_keep_the_servers_text(
    http_server: HttpServer, transport: HttpTransport
) -> None:
    words = "inference request batch-size must be <= 8 for 'alexnet_int8'"
    http_server.reply("infer", json.dumps({"error": words}).encode(), 400)
    with pytest.raises(BadRequest, match="batch-size must be <= 8"):
        sent(transport, request()).result(10)
    http_server.reply("config", b'{"error":"Request for unknown model: \'x\' is not found"}', 404)
    with pytest.raises(ModelNotFound, match=f"{http_server.url} x: got"):
        transport.model_config("x", timeout_s=10).result(10)


def test_a_redirect_is_not_followed(http_server: HttpServer, transport: HttpTransport) -> None:
    goal = f"{http_server.url}/elsewhere"
    http_server.reply("infer", b"", 307, headers={"Location": goal})
    with pytest.raises(ForeignServer, match=rf"a redirect to {goal}.*Give the final URL"):
        sent(transport, request()).result(10)
    assert len(http_server.received) == 1


def test_another_server_is_foreign(http_server: HttpServer) -> None:
    http_server.handlers.clear()
    with pytest.raises(ForeignServer, match="expected a Triton Inference Server"), Client(http_server.url):
        pytest.fail("entered")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\0\0\x18\x04\0\0\0\0\0\0\x04\0@\0\0\0\x05\0@\0\0", id="HTTP/2, as gRPC has it"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="SSH"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", id="a broken header"),
    ],
)
def test_a_reply_without_http_is_foreign(
    http_server: HttpServer, transport: HttpTransport, raw: bytes
) -> None:
    http_server.handlers["infer"] = lambda received: Reply(raw=raw)
    error = sent(transport, request()).exception(10)
    assert type(error) is ForeignServer
    assert error.__cause__ is not None
    assert "not HTTP" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="no reply"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a header"),
        pytest.param(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"outputs"', id="half a body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{", id="half a chunk"),
    ],
)
def test_a_connection_lost_in_the_middle_is_reported(
    http_server: HttpServer, transport: HttpTransport, raw: bytes
) -> None:
    http_server.handlers["infer"] = lambda received: Reply(raw=raw)
    error = sent(transport, request()).exception(10)
    assert type(error) is ConnectionLost
    assert error.__cause__ is not None
    assert len(http_server.received) == 1  # the client did not retry by itself


def test_a_closed_port_is_unreachable() -> None:
    words = r"got connection refused, .*alexnet serve"
    with pytest.raises(Unreachable, match=words) as caught, Client("http://127.0.0.1:1"):
        pytest.fail("entered")
    assert "\n" not in str(caught.value)


def test_no_such_host() -> None:
    with opened("http://no-such-host.invalid:8000") as transport:
        assert type(transport.ready(timeout_s=60).exception(60)) is Unreachable
    with opened(f"http://{'x' * 64}.invalid:8000") as transport:  # longer than DNS can carry
        assert type(transport.ready(timeout_s=60).exception(60)) in (Unreachable, InvalidUrl)
    with pytest.raises(InvalidUrl), opened("http://ex\u2100mple.invalid"):
        pytest.fail("opened")


def test_the_deadline_ends_a_request(http_server: HttpServer, transport: HttpTransport) -> None:
    release = threading.Event()

    def never(received: Received) -> Reply:
        release.wait(30)
        return Reply()

    def half(received: Received) -> Reply:
        received.socket.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"outputs": ')
        return never(received)

    http_server.handlers.update(infer=never, ready=never, config=never, stats=half)
    for future in (
        sent(transport, request(), timeout_s=0.05),
        transport.ready(timeout_s=0.05),
        transport.model_config("x", timeout_s=0.05),
        transport.statistics("x", timeout_s=0.2),
    ):
        with pytest.raises(DeadlineExceeded, match=r"no reply in 0\.\d+ s.*timeout_s"):
            future.result(10)
    release.set()
