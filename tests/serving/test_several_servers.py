"""One client of two real servers: balance, one that hangs, a restart under load, and one that is killed.

This is one test, because each server that it starts takes seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from alexnet_clients import Client
from alexnet_clients.transports.transport import FloatArray
from alexnet_model.contract import Uint8Array
from alexnet_serving import EmbeddedServer

from .conftest import ENCODED

pytestmark = pytest.mark.slow

MODEL = "alexnet_fp32"
THREADS = 4


class Load:
    """What the threads of `load` have seen."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.errors: list[BaseException] = []
        self.wrong = 0


@contextmanager
def load(url: str, images: Uint8Array, expected: FloatArray) -> Iterator[Load]:
    """Send single images from several threads through one client, and compare each reply."""
    seen, stop = Load(), threading.Event()

    def send(client: Client) -> None:
        while not stop.is_set():
            started = time.perf_counter()
            try:
                reply = client.probabilities(images, model=MODEL)
            except Exception as error:  # the assertion below shows it
                seen.errors.append(error)
                return
            seen.latencies_s.append(time.perf_counter() - started)
            seen.wrong += not np.allclose(reply, expected, atol=1e-4)

    with Client(url, timeout_s=20) as client:
        threads = [threading.Thread(target=send, args=(client,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not seen.errors
    assert not seen.wrong


def wait_for_replies(seen: Load, count: int) -> None:
    until, wanted = time.monotonic() + 20, len(seen.latencies_s) + count
    while len(seen.latencies_s) < wanted and not seen.errors:
        time.sleep(0.02)
        assert time.monotonic() < until


def requests_of(server: EmbeddedServer) -> int:
    with Client(server.grpc_url) as client:
        return client.statistics(MODEL).requests


@pytest.fixture
def one_model(repository: Path) -> Path:
    for folder in ("alexnet_int8", *ENCODED):
        shutil.rmtree(repository / folder)
    return repository


def url_of(protocol: str, *servers: EmbeddedServer) -> str:
    urls = [str(getattr(server, f"{protocol}_url")) for server in servers]
    return f"{protocol}://" + ",".join(url.partition("://")[2] for url in urls)


def test_two_servers(server: EmbeddedServer, one_model: Path, images: Uint8Array) -> None:
    image = images[:1]
    with Client(server.grpc_url) as client:
        expected = client.probabilities(image, model=MODEL)
    with EmbeddedServer(one_model) as second:
        for protocol in ("http", "grpc"):
            before = requests_of(server), requests_of(second)
            with load(url_of(protocol, server, second), image, expected) as seen:
                wait_for_replies(seen, 100)
            shares = np.subtract((requests_of(server), requests_of(second)), before)
            assert 0.45 < shares[0] / shares.sum() < 0.55, (protocol, shares)

        ports = {f"{name}_port": port for name, port in second._ports.items()}
        with load(url_of("grpc", server, second), image, expected) as seen:
            wait_for_replies(seen, 40)
            os.kill(second._process.pid, signal.SIGSTOP)
            wait_for_replies(seen, 40)
            os.kill(second._process.pid, signal.SIGCONT)
            second.stop()  # by SIGTERM
            wait_for_replies(seen, 40)
            with EmbeddedServer(one_model, **ports) as again:  # type: ignore[arg-type]
                until = time.monotonic() + 20
                while requests_of(again) < 20:
                    assert time.monotonic() < until, "it gets its share again"
                    time.sleep(0.1)
                os.killpg(again._process.pid, signal.SIGKILL)
                wait_for_replies(seen, 40)
