from __future__ import annotations

from collections.abc import Iterator

import pytest

from alexnet_clients.transports.http_transport import HttpTransport

from ...certificates import Certificates, make_certificates
from .playing import (
    Reply,
    WireServer,
    config,
    infer,
    opened,
)


@pytest.fixture
def wire_server() -> Iterator[WireServer]:
    server = WireServer({"config": config, "infer": infer, "ready": lambda asked: Reply()})
    with server.running():
        yield server


@pytest.fixture
def transport(wire_server: WireServer) -> Iterator[HttpTransport]:
    with opened(wire_server.url) as transport:
        yield transport


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
