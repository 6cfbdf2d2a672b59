"""TLS on a real server: who is answered, who is not, and what gRPC then says."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from alexnet_serving import EmbeddedServer, ServerTls, write_repository

from ..certificates import Certificates, Pair, make_certificates
from .conftest import Artifacts
from .test_embedded import eventually

pytestmark = pytest.mark.slow

NO_ISSUER = r"^UNAVAILABLE: .*CERTIFICATE_VERIFY_FAILED: (unable to get local issuer|self signed) certificate"
CLOSED = (
    r"^UNAVAILABLE: .*(Socket closed|Connection reset|Broken pipe)"  # which of them depends on who is faster
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    # Names that a shell would read otherwise.
    return make_certificates(tmp_path_factory.mktemp("made") / "it's a folder; $HOME")


@pytest.fixture(scope="module")
def small(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model_repository"
    write_repository(artifacts.manifest, artifacts.folder, path)
    shutil.rmtree(path / "alexnet_fp32")
    return path


@pytest.fixture(scope="module")
def one_way(small: Path, made: Certificates) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(small, tls=ServerTls(made.server.certificate, made.server.key)) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(small: Path, made: Certificates) -> Iterator[EmbeddedServer]:
    tls = ServerTls(made.server.certificate, made.server.key, client_ca=made.ca)
    with EmbeddedServer(small, tls=tls) as server:
        yield server


def credentials(ca: Path, client: Pair | None = None) -> grpc.ChannelCredentials:
    pair = (client.key.read_bytes(), client.certificate.read_bytes()) if client else ()
    return grpc.ssl_channel_credentials(ca.read_bytes(), *pair)


def answer(url: str, trust: grpc.ChannelCredentials | None) -> str:
    """`ready`, or gRPC's message; without `trust` the request is not encrypted."""
    target = url.removeprefix("grpcs://")
    with grpc.secure_channel(target, trust) if trust else grpc.insecure_channel(target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            said = stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=30)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return "ready" if said.ready else "not ready"


def test_a_client_that_knows_the_ca_is_answered(one_way: EmbeddedServer, made: Certificates) -> None:
    assert one_way.grpc_url.startswith("grpcs://127.0.0.1:")
    assert answer(one_way.grpc_url, credentials(made.ca)) == "ready"
    assert answer(one_way.grpc_url.replace("127.0.0.1", "localhost"), credentials(made.ca)) == "ready"
    assert answer(one_way.grpc_url, credentials(made.ca, made.client)) == "ready", "an optional certificate"


def test_another_ca_is_refused(one_way: EmbeddedServer, made: Certificates) -> None:
    assert re.search(NO_ISSUER, answer(one_way.grpc_url, credentials(made.other_ca)))


def test_plaintext_is_refused(one_way: EmbeddedServer, mutual: EmbeddedServer) -> None:
    assert re.search(CLOSED, answer(one_way.grpc_url, None))
    assert re.search(CLOSED, answer(mutual.grpc_url, None))


def test_http_and_metrics_stay_as_they_were(one_way: EmbeddedServer) -> None:
    assert one_way.http_url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{one_way.http_url}/v2") as response:
        assert json.load(response)["name"] == "triton"
    with urllib.request.urlopen(one_way.metrics_url) as response:
        assert response.status == 200


def test_mutual_tls_answers_who_has_a_certificate_of_the_ca(
    mutual: EmbeddedServer, made: Certificates
) -> None:
    assert mutual.grpc_url.startswith("grpcs://127.0.0.1:")
    assert answer(mutual.grpc_url, credentials(made.ca, made.client)) == "ready"


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (None, "peer did not return a certificate"),
        ("other_client", "certificate verify failed"),
        ("expired", "certificate verify failed"),
    ],
)
def test_mutual_tls_refuses_everybody_else(
    client: str | None, reason: str, mutual: EmbeddedServer, made: Certificates
) -> None:
    before = mutual._log.last(400).count(reason)
    trust = credentials(made.ca, getattr(made, client) if client else None)
    assert re.search(CLOSED, answer(mutual.grpc_url, trust))
    assert eventually(lambda: mutual._log.last(400).count(reason) > before)
    assert answer(mutual.grpc_url, credentials(made.ca, made.client)) == "ready", "and answers others still"


def test_the_client_of_mutual_tls_checks_the_server_too(mutual: EmbeddedServer, made: Certificates) -> None:
    assert re.search(NO_ISSUER, answer(mutual.grpc_url, credentials(made.other_ca, made.client)))


def test_a_certificate_for_another_name_is_refused(small: Path, made: Certificates) -> None:
    """The server starts: by which name it is reached only its clients know."""
    tls = ServerTls(made.misnamed.certificate, made.misnamed.key)
    with EmbeddedServer(small, tls=tls) as server:
        assert re.search("Hostname Verification Check failed", answer(server.grpc_url, credentials(made.ca)))


def test_a_certificate_that_expires_while_it_is_served_is_refused(small: Path, made: Certificates) -> None:
    server = EmbeddedServer(small, tls=ServerTls(made.server.certificate, made.server.key))
    server._tls = ServerTls(made.expired.certificate, made.expired.key)  # years go by
    with server:
        assert re.search(
            "CERTIFICATE_VERIFY_FAILED: certificate has expired",
            answer(server.grpc_url, credentials(made.ca)),
        )
