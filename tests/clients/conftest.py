from __future__ import annotations

from collections.abc import Iterator

import pytest

from alexnet_clients import Client, FakeTransport

from .wire_server import WireServer, served


@pytest.fixture
def fake() -> Iterator[FakeTransport]:
    transport = FakeTransport()
    yield transport
    transport.close()


@pytest.fixture
def client(fake: FakeTransport) -> Iterator[Client]:
    with Client("grpc://127.0.0.1:8001", transport=fake) as client:
        yield client


@pytest.fixture
def wire_server() -> Iterator[WireServer]:
    with served() as (server, _):
        yield server
