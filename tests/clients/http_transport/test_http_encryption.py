"""Certificates, and proxies on the way."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from alexnet_clients import (
    ClientTls,
)
from alexnet_model.errors import (
    BadRequest,
    ConnectionLost,
    ForeignServer,
    Unreachable,
    Untrusted,
    UsageError,
)

from ...certificates import Certificates
from .playing import (
    WireServer,
    encrypted,
    is_ready,
    opened,
    request,
    sent,
)


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
        pytest.raises(BadRequest, match="a client that the proxy knows"),
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
