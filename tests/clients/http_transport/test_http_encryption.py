"""TLS certificates, and proxies between client and server."""

from __future__ import annotations

import socket
import threading

import pytest

from alexnet_clients import ClientTls
from alexnet_model.errors import BadRequest, ConnectionLost, ForeignServer, Unreachable, Untrusted, UsageError

from ...certificates import Certificates
from .http_server import HttpServer, encrypted, is_ready, opened, request, sent


def test_only_a_server_of_the_given_ca_is_trusted(certificates: Certificates) -> None:
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


def test_mutual_tls(certificates: Certificates) -> None:
    with encrypted(certificates, mutual=True) as server:
        own, other = certificates.client, certificates.other_client
        known = ClientTls(ca=certificates.ca, certificate=own.certificate, key=own.key)
        with opened(server.url, tls=known) as transport:
            assert is_ready(transport)
        unknown = ClientTls(ca=certificates.ca, certificate=other.certificate, key=other.key)
        for tls in (unknown, ClientTls(ca=certificates.ca)):
            with opened(server.url, tls=tls) as transport, pytest.raises(Untrusted, match="alert"):
                is_ready(transport)


def test_tls_on_one_side_only(certificates: Certificates, http_server: HttpServer) -> None:
    with (
        opened(http_server.url.replace("http", "https")) as transport,
        pytest.raises(Untrusted, match="expected a server that speaks TLS"),
    ):
        is_ready(transport)
    with (
        encrypted(certificates) as server,
        opened(server.url.replace("https", "http")) as transport,
        pytest.raises((ForeignServer, ConnectionLost)),
    ):
        is_ready(transport)


def test_a_connection_closed_in_the_handshake_is_reported() -> None:
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


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_a_remote_server_is_reached_through_the_proxy(
    http_server: HttpServer, no_proxy: pytest.MonkeyPatch
) -> None:
    no_proxy.setenv("http_proxy", f"http://m%65:p%40ss@127.0.0.1:{http_server.port}")
    with opened("http://triton.example:8000") as transport:
        assert is_ready(transport)
    (received,) = http_server.received
    assert received.path == "http://triton.example:8000/v2/health/ready"
    assert received.headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss


def test_loopback_and_no_proxy_hosts_are_reached_directly(
    http_server: HttpServer, no_proxy: pytest.MonkeyPatch
) -> None:
    no_proxy.setenv("http_proxy", "http://127.0.0.1:1")
    with opened(http_server.url) as transport:
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


def test_a_proxy_that_opens_no_tunnel(http_server: HttpServer, no_proxy: pytest.MonkeyPatch) -> None:
    no_proxy.setenv("https_proxy", f"http://me:secret@127.0.0.1:{http_server.port}")
    http_server.reply("triton.example:443", b"", 407)
    with (
        opened("https://triton.example", headers={"Authorization": "Bearer x"}) as transport,
        pytest.raises(BadRequest, match="a client that the proxy knows"),
    ):
        is_ready(transport)
    (received,) = http_server.received
    assert (received.verb, received.path) == ("CONNECT", "triton.example:443")
    assert "Proxy-Authorization" in received.headers
    assert "Authorization" not in received.headers  # which is for the server


def test_a_proxy_of_another_protocol(no_proxy: pytest.MonkeyPatch) -> None:
    no_proxy.setenv("http_proxy", "socks5://127.0.0.1:1080")
    words = "HTTP_PROXY: got a proxy of the scheme 'socks5'"
    with pytest.raises(UsageError, match=words), opened("http://triton.example:8000"):
        pytest.fail("opened")
