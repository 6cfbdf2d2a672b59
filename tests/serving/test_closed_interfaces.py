"""What another user of the machine can learn from the server's command line and /dev/shm does not help."""

from __future__ import annotations

import http.client
import socket
import struct
from pathlib import Path

import pytest

from alexnet_serving import EmbeddedServer

pytestmark = pytest.mark.slow

SERVICE = "/inference.GRPCInferenceService/"


def header_on_command_line(server: EmbeddedServer, option: str) -> tuple[str, str]:
    """Name and value of the header that opens the interfaces, as every user can read them in /proc."""
    arguments = Path(f"/proc/{server._process.pid}/cmdline").read_text().split("\0")
    (lock,) = (argument for argument in arguments if argument.startswith(f"--{option}="))
    name, _, value = lock.partition(":")[2].partition("=")
    return name, value


def grpc_reply(server: EmbeddedServer, method: str, headers: dict[str, str]) -> bytes:
    """Call a method without gRPC's library, which refuses to send some headers. Returns the frames."""

    def text(value: str) -> bytes:  # of less than 127 bytes
        return bytes([len(value)]) + value.encode()

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": SERVICE + method,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **headers,
    }
    block = b"".join(b"\0" + text(name) + text(value) for name, value in fields.items())
    port = int(server.grpc_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        connection.sendall(frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5)))
        connection.settimeout(30)
        reply = b""
        while b"grpc-status" not in reply and (received := connection.recv(65536)):
            reply += received
        return reply


def test_the_header_on_the_command_line_opens_nothing_over_grpc(server: EmbeddedServer) -> None:
    ended_well = b"grpc-status\x010"
    assert ended_well in grpc_reply(server, "ServerLive", {})
    assert b"This protocol is restricted" in grpc_reply(server, "LogSettings", {})
    name, value = header_on_command_line(server, "grpc-restricted-protocol")
    assert ended_well not in grpc_reply(server, "LogSettings", {f"triton-grpc-protocol-{name}": value})


def test_nor_over_http(server: EmbeddedServer) -> None:
    name, value = header_on_command_line(server, "http-restricted-api")
    port = int(server.http_url.rpartition(":")[2])
    for header in (f"{name}: {value}", f"{name} : {value}"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            request = f"GET /v2/logging HTTP/1.1\r\nHost: localhost\r\n{header}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 403


def test_other_users_cannot_read_the_images_in_shared_memory(server: EmbeddedServer) -> None:
    regions = list(Path("/dev/shm").glob(f"{server._launch.shm_prefix}*"))
    assert len(regions) == 3, "two networks and the decoder"
    assert {oct(region.stat().st_mode & 0o777) for region in regions} == {"0o600"}
