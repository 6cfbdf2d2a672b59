"""Certificates and headers, against a real gRPC server with TLS."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_clients import Client, ClientTls, Credentials, Headers, ServerUrl, Transport, transport_from_url
from alexnet_model.errors import BadRequest, ClientError, Unreachable, Untrusted, UsageError

from ..certificates import Certificates, Pair, make_certificates
from .wire_server import served

IMAGE = np.zeros((1, 224, 224, 3), np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def opened(url: str, headers: Any) -> Transport:
    return transport_from_url(ServerUrl.parse(url), Credentials(headers=headers))


def own(pair: Pair, ca: Path) -> ClientTls:
    return ClientTls(ca=ca, certificate=pair.certificate, key=pair.key)


def test_a_server_with_a_certificate_of_the_given_ca_is_used(made: Certificates) -> None:
    with (
        served(made.server) as (_, address),
        Client(f"grpcs://{address}", tls=ClientTls(ca=made.ca)) as client,
    ):
        assert client.probabilities(IMAGE).shape == (1, 10)


@pytest.mark.parametrize(
    ("server", "ca", "words"),
    [
        ("server", "other_ca", "CERTIFICATE_VERIFY_FAILED"),
        ("other_server", "ca", "CERTIFICATE_VERIFY_FAILED"),
        ("server", None, "CERTIFICATE_VERIFY_FAILED"),
        ("expired", "ca", "certificate has expired"),
        ("misnamed", "ca", "Hostname Verification Check failed"),
    ],
)
def test_a_server_with_a_wrong_certificate_is_untrusted(
    made: Certificates, server: str, ca: str | None, words: str
) -> None:
    tls = ClientTls(ca=getattr(made, ca)) if ca else None
    with (
        served(getattr(made, server)) as (wire, address),
        pytest.raises(Untrusted, match=words) as caught,
        Client(f"grpcs://{address}", tls=tls),
    ):
        pytest.fail("entered")
    assert "Check the CA, the host's name in the URL, and the dates" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert wire.received == []


def test_mutual_tls_accepts_a_client_certificate_of_the_ca(made: Certificates) -> None:
    with (
        served(made.server, client_ca=made.ca) as (_, address),
        Client(f"grpcs://{address}", tls=own(made.client, made.ca)) as client,
    ):
        assert client.probabilities(IMAGE).shape == (1, 10)


@pytest.mark.parametrize("client", ["none", "stranger"])
def test_mutual_tls_refuses_other_clients(made: Certificates, client: str) -> None:
    tls = ClientTls(ca=made.ca) if client == "none" else own(made.other_client, made.ca)
    with (
        served(made.server, client_ca=made.ca) as (wire, address),
        pytest.raises(ClientError, match="certificate") as caught,
        Client(f"grpcs://{address}", tls=tls),
    ):
        pytest.fail("entered")
    assert isinstance(caught.value, Unreachable | Untrusted)
    assert wire.received == []


def test_tls_on_one_side_only_is_reported(made: Certificates) -> None:
    with (
        served(made.server) as (_, address),
        pytest.raises(Unreachable, match="grpcs:// if the server needs TLS"),
        Client(f"grpc://{address}"),
    ):
        pytest.fail("entered")
    with (
        served(None) as (_, address),
        pytest.raises(Untrusted, match="or use grpc:// or http:// without TLS"),
        Client(f"grpcs://{address}", tls=ClientTls(ca=made.ca)),
    ):
        pytest.fail("entered")


def test_unusable_certificates_are_usage_errors(made: Certificates, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="grpcs://127"):
        Client("grpc://127.0.0.1:8001", tls=ClientTls(ca=made.ca))
    with pytest.raises(UsageError, match="certificate without its key"):
        ClientTls(certificate=made.client.certificate)
    with pytest.raises(UsageError, match="no such file"):
        ClientTls(ca=tmp_path / "missing.pem")
    (tmp_path / "no.pem").write_text("no certificate")
    for tls in (
        ClientTls(ca=tmp_path / "no.pem"),
        ClientTls(certificate=tmp_path / "no.pem", key=made.client.key),
        ClientTls(certificate=made.client.certificate, key=made.server.key),
    ):
        for scheme in ("grpcs", "https"):
            with pytest.raises(UsageError, match="PEM"):
                Client(f"{scheme}://127.0.0.1:8001", tls=tls)


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer 1"}, lambda: {"Authorization": "Bearer 1"}])
def test_headers_are_sent_with_every_request(headers: Headers) -> None:
    with served(None) as (wire, address), Client(f"grpc://{address}", headers=headers) as client:
        client.probabilities(IMAGE)
    seen = [sent.get("authorization") for sent in wire.metadata]
    assert seen == ["Bearer 1"] * 3


def test_a_headers_function_is_called_for_each_request() -> None:
    number = itertools.count()
    with (
        served(None) as (wire, address),
        Client(f"grpc://{address}", headers=lambda: {"x-number": str(next(number))}) as client,
    ):
        client.probabilities(IMAGE)
    assert [sent["x-number"] for sent in wire.metadata] == ["0", "1", "2"]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_error_of_the_headers_function_fails_the_request(scheme: str) -> None:
    def fails() -> dict[str, str]:
        raise KeyError("no token")

    with closing(opened(f"{scheme}://127.0.0.1:1", fails)) as transport:
        error = transport.ready(timeout_s=10).exception(10)
    assert type(error) is ClientError
    assert "KeyError from the function that gives the headers: 'no token'" in str(error)
    assert isinstance(error.__cause__, KeyError)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"x-token": "s\u00e9cret"}, "the header x-token with more than printable ASCII"),
        ({"x-token": "one\r\nx-other: s\u00e9cret"}, "the header x-token with more"),
        ({"x-token": 1}, "the header x-token as int"),
        ({"x-token": b"s\xe9cret"}, "the header x-token as bytes"),
        ({"x-bin": "eA=="}, "a header of the name 'x-bin'"),
        ({"X-Bin": "eA=="}, "a header of the name 'X-Bin'"),
        ({"x token": "x"}, "a header of the name 'x token'"),
        ({"x-\u00e9\n": "x"}, "a header of the name"),
        ({"": "x"}, "a header of the name ''"),
        ({1: "x"}, "a header of the name 1"),
    ],
)
def test_invalid_headers_fail_the_request_without_repeating_their_value(
    scheme: str, headers: Any, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for given in (headers, lambda: headers):
        with closing(opened(f"{scheme}://127.0.0.1:1", given)) as transport:
            error = transport.ready(timeout_s=10).exception(10)
        assert type(error) is BadRequest
        assert words in str(error)
        assert "\n" not in str(error)
        assert "cret" not in str(error)  # it may be a secret
    assert capfd.readouterr().err == ""
