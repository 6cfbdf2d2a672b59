from __future__ import annotations

from collections.abc import Iterator

import pytest

from alexnet_clients.transports.http_transport import HttpTransport

from ...certificates import Certificates, make_certificates
from .http_server import HttpServer, Reply, config, infer, opened


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    server = HttpServer({"config": config, "infer": infer, "ready": lambda received: Reply()})
    with server.running():
        yield server


@pytest.fixture
def transport(http_server: HttpServer) -> Iterator[HttpTransport]:
    with opened(http_server.url) as transport:
        yield transport


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
