"""Slow and cut networks: every call ends by its deadline, and nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from alexnet_clients import Client
from alexnet_model.errors import ClientError, ConnectionLost, DeadlineExceeded, Unreachable

from ..waiting import wait_until
from .http_transport.http_server import HttpServer, Reply, config, infer
from .tcp_proxy import TcpProxy
from .wire_server import served

IMAGE = np.zeros((1, 224, 224, 3), np.uint8)
MODEL = "alexnet_int8"
CALLS = 8
LATE_S = 15  # after a deadline of 1.5 s on a busy machine; without a deadline, a call takes 60 s


def slow(proxy: TcpProxy) -> None:
    proxy.delay_s = 60


def silent(proxy: TcpProxy) -> None:
    proxy.stall()


def cut(proxy: TcpProxy) -> None:
    slow(proxy)  # so that the calls are under way
    threading.Timer(0.2, proxy.drop).start()


Fault = Callable[[TcpProxy], None]


@contextmanager
def connected(protocol: str, timeout_s: float) -> Iterator[tuple[Client, TcpProxy]]:
    """A client that knows its model, connected through a proxy."""
    http = HttpServer({"config": config, "ready": lambda _: Reply(), "infer": infer})
    with served() as (grpc, _), http.running():
        port = grpc.port if protocol == "grpc" else http.port
        with (
            TcpProxy(port).running() as proxy,
            Client(f"{protocol}://127.0.0.1:{proxy.port}", timeout_s=30) as client,
        ):
            client.probabilities(IMAGE, model=MODEL)
            client.timeout_s = timeout_s
            yield client, proxy


def outcome_of(client: Client) -> tuple[type[BaseException] | None, float]:
    """The error of a call, and how long it took, seconds."""
    started = time.monotonic()
    try:
        client.probabilities(IMAGE, model=MODEL)
    except ClientError as error:
        return type(error), time.monotonic() - started
    return None, time.monotonic() - started


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("fault", [slow, silent, cut])
def test_every_call_ends_by_its_deadline(fault: Fault, protocol: str) -> None:
    with connected(protocol, timeout_s=1.5) as (client, proxy), ThreadPoolExecutor(CALLS) as pool:
        fault(proxy)
        outcomes = list(pool.map(outcome_of, [client] * CALLS))
        assert max(took_s for _, took_s in outcomes) < LATE_S
        expected: set[type[BaseException] | None] = {DeadlineExceeded}
        if fault is cut:
            expected |= {ConnectionLost, Unreachable}
        if fault is silent and protocol == "http":  # new connections of the same client work
            expected |= {None}
        assert {kind for kind, _ in outcomes} <= expected
        proxy.delay_s, client.timeout_s = 0.0, 30
        proxy.drop()
        wait_until(lambda: outcome_of(client)[0] is None, "it connects again")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_threads_and_no_files_are_left(protocol: str) -> None:
    def fail_by(fault: Fault) -> None:
        with connected(protocol, timeout_s=0.3) as (client, proxy):
            fault(proxy)
            outcome_of(client)

    fail_by(cut)  # leaves what gRPC makes once for a process
    files, threads = settled()
    for fault in (cut, silent, slow, cut):
        fail_by(fault)
        wait_until(lambda: open_files() <= files, "the files are closed")
        wait_until(lambda: threading.active_count() <= threads, "the threads end")


def open_files() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def settled() -> tuple[int, int]:
    """Open files and Python's threads of this process, once they have been the same for half a second."""
    found, since, deadline = (-1, -1), time.monotonic(), time.monotonic() + 10
    while time.monotonic() < min(since + 0.5, deadline):
        now = open_files(), threading.active_count()
        if now != found:
            found, since = now, time.monotonic()
        time.sleep(0.05)
    return found
