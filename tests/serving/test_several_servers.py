"""One client of two real servers: balance, one that hangs, a restart under load, and one that is killed.

This is one test, because each server that it starts takes seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_clients import Client
from alexnet_clients.transports.transport import FloatArray
from alexnet_model.contract import Uint8Array
from alexnet_serving import EmbeddedServer

from ..waiting import wait_until
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

    with Client(url, timeout_s=60) as client:
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
    wanted = len(seen.latencies_s) + count
    wait_until(lambda: len(seen.latencies_s) >= wanted or seen.errors, "more replies")


def requests_of(server: EmbeddedServer) -> int:
    with Client(server.grpc_url) as client:
        return client.statistics(MODEL).requests


def shares_of(servers: Sequence[EmbeddedServer], before: Sequence[int], replies: int) -> NDArray[np.int_]:
    """How many requests each server got since `before`, once they have counted all that they replied to."""

    def counted() -> NDArray[np.int_]:
        return np.subtract([requests_of(server) for server in servers], before)

    wait_until(lambda: counted().sum() >= replies, "the servers count all requests")
    return counted()


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
            shares = shares_of((server, second), before, len(seen.latencies_s))
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
                wait_until(lambda: requests_of(again) >= 20, "it gets its share again")
                os.killpg(again._process.pid, signal.SIGKILL)
                wait_for_replies(seen, 40)
