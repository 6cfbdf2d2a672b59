from __future__ import annotations

import pytest

from alexnet_clients import Endpoints, ServerUrl
from alexnet_model.errors import InvalidUrl


@pytest.mark.parametrize(
    ("text", "host", "port", "address"),
    [
        ("grpc://127.0.0.1:8001", "127.0.0.1", 8001, "127.0.0.1:8001"),
        ("grpc://localhost", "localhost", 8001, "localhost:8001"),
        ("grpc://triton.example:9000/", "triton.example", 9000, "triton.example:9000"),
        ("grpc://[::1]:8001", "::1", 8001, "[::1]:8001"),
        ("GRPC://Host:1", "host", 1, "host:1"),
    ],
)
def test_grpc_urls_parse(text: str, host: str, port: int, address: str) -> None:
    url = ServerUrl.parse(text)
    assert (url.scheme, url.host, url.port) == ("grpc", host, port)
    assert url.address == address
    assert str(url) == f"grpc://{address}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8001",
        "localhost:8001",
        "grpc:127.0.0.1:8001",
        "grpc://",
        "grpc://:8001",
        "grpc://host:port",
        "grpc://host:65536",
        "grpc://host:0",
        "grpc://a,b",
        "grpc://host:-1",
        "grpc://[::1:8001",
        "grpc://host/models",
        "grpc://host?a=b",
        "grpc://user:secret@host",
        "grpc://two words",
        "ftp://host",
    ],
)
def test_invalid_urls_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidUrl, match=r"grpc://127\.0\.0\.1:8001") as caught:
        ServerUrl.parse(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("scheme", "port", "is_encrypted", "speaks_http"),
    [
        ("grpc", 8001, False, False),
        ("grpcs", 8001, True, False),
        ("http", 8000, False, True),
        ("https", 443, True, True),
    ],
)
def test_schemes_have_default_ports(scheme: str, port: int, is_encrypted: bool, speaks_http: bool) -> None:
    url = ServerUrl.parse(f"{scheme}://host")
    assert (url.port, url.is_encrypted, url.speaks_http) == (port, is_encrypted, speaks_http)
    assert ServerUrl.parse(str(url)) == url


def test_a_proxys_path_is_kept_for_http() -> None:
    url = ServerUrl.parse("https://example.org/triton/")
    assert (url.path, str(url)) == ("/triton", "https://example.org:443/triton")


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidUrl, match="as a header") as caught:
        ServerUrl.parse("https://user:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        *[(host, True) for host in ("127.0.0.1", "[::1]", "localhost", "LOCALHOST.", "triton.localhost")],
        *[(host, False) for host in ("10.0.0.1", "notlocalhost", "localhost.example")],
    ],
)
def test_loopback_is_recognised(host: str, is_loopback: bool) -> None:
    assert ServerUrl.parse(f"grpc://{host}").is_loopback is is_loopback


@pytest.mark.parametrize(
    ("text", "addresses", "by_dns"),
    [
        ("grpc://a:8001,b:9001", ["a:8001", "b:9001"], False),
        ("grpcs://a,[::1]:8001", ["a:8001", "[::1]:8001"], False),
        ("http://a:8000,b:8000/models", ["a:8000", "b:8000"], False),
        ("dns:///alexnet.default.svc:8001", ["alexnet.default.svc:8001"], True),
        ("grpc://a:8001", ["a:8001"], False),
    ],
)
def test_several_servers_parse(text: str, addresses: list[str], by_dns: bool) -> None:
    endpoints = Endpoints.parse(text)
    assert [server.address for server in endpoints.servers] == addresses
    assert endpoints.by_dns == by_dns
    assert endpoints.is_one == (len(addresses) == 1 and not by_dns)
    assert Endpoints.parse(str(endpoints)) == endpoints


@pytest.mark.parametrize(
    "text",
    ["grpc://a:1,", "grpc://a:1,a:1", "grpc://a,b/path", "dns:name:8001", "dns://8.8.8.8/name", "dns:///a,b"],
)
def test_other_texts_for_several_servers_are_refused(text: str) -> None:
    with pytest.raises(InvalidUrl):
        Endpoints.parse(text)
