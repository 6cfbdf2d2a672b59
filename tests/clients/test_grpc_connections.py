"""gRPC connections that are slow, or that end without a word, through a proxy on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest

from alexnet_clients import Client, ClientTls
from alexnet_clients.transports import grpc_transport
from alexnet_model.errors import ClientError, Unreachable

from ..certificates import Certificates, make_certificates
from ..waiting import wait_until
from .tcp_proxy import TcpProxy
from .wire_server import WireServer, served

IMAGE = np.zeros((1, 224, 224, 3), np.uint8)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("delay_s", [0.01, 0.05, 0.15])
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_distant_server_is_reached_by_the_first_attempt(
    certificates: Certificates, encrypted: bool, delay_s: float
) -> None:
    with ExitStack() as opened:
        server, _ = opened.enter_context(served(certificates.server if encrypted else None))
        proxy = opened.enter_context(TcpProxy(server.port, delay_s=delay_s).running())
        url = f"{'grpcs' if encrypted else 'grpc'}://127.0.0.1:{proxy.port}"
        tls = ClientTls(ca=certificates.ca) if encrypted else None
        with Client(url, tls=tls, timeout_s=60) as client:
            assert client.model("alexnet_int8").classes == 10
        assert proxy.connections == 1


def test_a_connection_that_died_silently_is_replaced(
    wire_server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With shorter times than the clients', which are tens of seconds."""
    options = dict(grpc_transport._OPTIONS) | {
        "grpc.keepalive_time_ms": 300,
        "grpc.keepalive_timeout_ms": 1000,
        "grpc.http2.ping_timeout_ms": 1000,
    }
    assert options.keys() == dict(grpc_transport._OPTIONS).keys()
    monkeypatch.setattr(grpc_transport, "_OPTIONS", tuple(options.items()))
    with (
        TcpProxy(wire_server.port).running() as proxy,
        Client(f"grpc://127.0.0.1:{proxy.port}", timeout_s=60) as client,
    ):
        client.probabilities(IMAGE, model="alexnet_int8")
        proxy.stall()
        client.timeout_s = 0.5

        def is_answered() -> bool:
            try:
                return client.probabilities(IMAGE, model="alexnet_int8").shape == (1, 10)
            except ClientError:
                return False

        wait_until(is_answered, "a reply over a new connection")
        assert proxy.connections >= 2


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    client = Client("grpc://triton.example:8001", timeout_s=60)
    with pytest.raises(Unreachable, match=f"Check the proxy in {variable}, or name the host in no_proxy"):
        client.connect()
    client.close()


@pytest.mark.parametrize("excepted", ["no_grpc_proxy", "no_proxy"])
def test_a_server_that_the_proxy_is_not_for(monkeypatch: pytest.MonkeyPatch, excepted: str) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv(excepted, "other.example,triton.invalid")
    client = Client("grpc://triton.invalid:8001", timeout_s=60)
    with pytest.raises(Unreachable, match="alexnet serve"):
        client.connect()
    client.close()


def test_a_server_on_this_machine_needs_no_proxy(
    wire_server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Client(wire_server.url):
        pass


def test_grpc_writes_nothing_of_its_own_to_standard_error() -> None:
    code = """
import os
from alexnet_clients import Client
try:
    Client("grpc://triton.example:8001").connect()
except Exception as error:
    print("proxy" in str(error), os.environ.get("GRPC_VERBOSITY"))
"""
    with TcpProxy(1).running() as closes_at_once:
        proxied = os.environ | {"http_proxy": f"http://127.0.0.1:{closes_at_once.port}"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=proxied)
    assert (done.stdout.split(), done.stderr) == (["True", "None"], "")
