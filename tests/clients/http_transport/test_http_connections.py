"""Cancelled futures, closed transports, and lost connections."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future

import pytest

from alexnet_clients.transports.http_transport import HttpTransport
from alexnet_model.errors import ClientError, Unreachable

from ...certificates import Certificates
from .http_server import HttpServer, Received, Reply, encrypted, held, is_ready, opened, request, sent


def test_cancelling_the_future_cancels_the_request(http_server: HttpServer, transport: HttpTransport) -> None:
    arrived, ended = held(http_server)
    future = sent(transport, request(), timeout_s=30)
    assert arrived.wait(10)
    assert future.cancel()
    assert ended.wait(10)
    with pytest.raises(CancelledError):
        future.result(10)
    assert is_ready(transport)


def test_closing_fails_open_and_later_requests(http_server: HttpServer, transport: HttpTransport) -> None:
    arrived, ended = held(http_server)
    future = sent(transport, request(), timeout_s=30)
    assert arrived.wait(10)
    just_begun = [transport.ready(timeout_s=30) for _ in range(20)]
    transport.close()
    assert ended.wait(10)
    for ending in (future, sent(transport, request()), transport.ready(timeout_s=10)):
        assert type(ending.exception(10)) is ClientError
        assert "got a client that is closed" in str(ending.exception())
    for begun in just_begun:
        assert begun.done()
        assert not begun.cancelled()
        assert begun.exception() is None or "closed" in str(begun.exception())


def test_closing_twice_or_unused_is_allowed(transport: HttpTransport) -> None:
    threads = threading.active_count()
    transport.close()
    transport.close()
    assert threading.active_count() <= threads


def test_closing_ends_the_thread(http_server: HttpServer) -> None:
    before = set(threading.enumerate())  # others, of earlier tests, may end at any time

    def ours() -> list[str]:
        started = set(threading.enumerate()) - before
        return [thread.name for thread in started if thread.name == "alexnet-client"]

    with opened(http_server.url) as transport:
        assert is_ready(transport)
        assert ours() == ["alexnet-client"]
    assert ours() == []


def test_closing_from_a_futures_own_thread(http_server: HttpServer, transport: HttpTransport) -> None:
    closed = threading.Event()

    def close(future: Future[bool]) -> None:
        transport.close()
        closed.set()

    transport.ready(timeout_s=10).add_done_callback(close)
    assert closed.wait(10)
    with pytest.raises(ClientError, match="closed"):
        transport.ready(timeout_s=10).result(10)


def test_many_requests_are_open_at_a_time(http_server: HttpServer, transport: HttpTransport) -> None:
    together = threading.Barrier(120, timeout=60)

    def meet(received: Received) -> Reply:
        together.wait()
        return Reply()

    http_server.handlers["ready"] = meet
    waiting = [transport.ready(timeout_s=60) for _ in range(120)]
    assert all(future.result(60) for future in waiting)


def test_a_connection_is_kept_and_counted_when_it_is_made(
    http_server: HttpServer, transport: HttpTransport
) -> None:
    seen: queue.Queue[int] = queue.Queue()

    def received() -> int:
        future = transport.ready(timeout_s=10)
        future.add_done_callback(lambda future: seen.put(transport.connections))
        assert future.result(10)
        return seen.get(timeout=10)

    assert transport.connections == 0
    assert [received(), received()] == [1, 1]
    gone = threading.Event()

    def leave(received: Received) -> Reply:
        gone.set()
        return Reply(hang_up=True)

    http_server.handlers["ready"] = leave
    assert received() == 1
    assert received() == 2  # over a new one, whether or not the client has noticed the end of the old one


def test_a_client_reconnects_once_the_server_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with opened(url) as transport:
            assert type(transport.ready(timeout_s=10).exception(10)) is Unreachable
            taken.listen()
            replying = threading.Thread(target=_reply_once, args=(taken,))
            replying.start()
            assert is_ready(transport)
            replying.join()


def _reply_once(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_importing_the_module_imports_nothing_heavy() -> None:
    code = "import sys, alexnet_clients.transports.http_transport; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("tls", [False, True])
def test_closing_leaves_nothing_open(certificates: Certificates, http_server: HttpServer, tls: bool) -> None:
    arrived = threading.Event()

    def never(received: Received) -> Reply:
        arrived.set()
        received.left()
        return Reply(hang_up=True)

    code = """
import sys, time
from pathlib import Path
from alexnet_clients import ClientTls, Credentials, ServerUrl, transport_from_url

url, ca = sys.argv[1:]
credentials = Credentials(tls=ClientTls(ca=Path(ca))) if ca else Credentials()
transport = transport_from_url(ServerUrl.parse(url), credentials)
assert transport.ready(timeout_s=10).result()
waiting = [transport.model_config("x", timeout_s=30) for _ in range(3)]
cancelled = transport.model_config("x", timeout_s=30)
while transport.connections < 4:  # the first is used again
    time.sleep(0.01)
cancelled.cancel()
transport.close()
print([type(future.exception(10)).__name__ for future in waiting])
"""
    with encrypted(certificates) if tls else HttpServer().running() as server:
        server.handlers.update(ready=lambda received: Reply(), config=never)
        arguments = [server.url, str(certificates.ca) if tls else ""]
        command = [sys.executable, "-W", "always", "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert arrived.wait(10)
    assert (done.stdout.strip(), done.stderr, done.returncode) == (str(["ClientError"] * 3), "", 0)
