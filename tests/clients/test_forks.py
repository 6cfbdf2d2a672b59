"""A process that has used a client and forks: its children may use clients of their own, but not this one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_clients import AsyncClient, Client, FakeTransport, SharedImages

from .http_transport.http_server import HttpServer, Reply, config, infer
from .wire_server import WireServer

IMAGE = np.zeros((1, 224, 224, 3), np.uint8)

# In a process of its own, because gRPC servers have threads in that of pytest. Prints how the children ended.
FORKS = """
import collections, json, os, signal, sys, threading, time

import numpy as np

from alexnet_clients import Client
from alexnet_model.errors import ClientError

url = sys.argv[1]
IMAGE = np.zeros((1, 224, 224, 3), np.uint8)


def use(client):
    return client.probabilities(IMAGE, model="alexnet_int8").shape


def refused(client):
    try:
        use(client)
    except ClientError as error:
        assert "Make one in each process" in str(error) and "\\n" not in str(error), error
        return
    raise AssertionError("the client was used")


def new(client):
    with Client(url, timeout_s=60) as own:
        use(own)


CHILDREN = {
    "does nothing": lambda client: time.sleep(0.2),
    "uses it": refused,
    "closes it": lambda client: client.close(),
    "exits": None,
    "makes its own": new,
}


def fork(do, client):
    pid = os.fork()
    if pid:
        return pid
    if do is None:
        sys.exit(0)  # with the handlers and finalizers of a normal exit
    try:
        do(client)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def status_of(pid):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"


client = Client(url, timeout_s=60)
use(client)
client.classify(b"not an image", model="alexnet_int8")  # starts a thread that decodes
stopped = threading.Event()


def keep_using():
    while not stopped.is_set():
        use(client)


threads = [threading.Thread(target=keep_using) for _ in range(3)]
for thread in threads:
    thread.start()
ends = {}
for name, do in CHILDREN.items():
    pids = []
    for _ in range(6):
        use(client)
        pids.append(fork(do, client))
    ends[name] = dict(collections.Counter(map(status_of, pids)))
use(client)
stopped.set()
for thread in threads:
    thread.join()
client.close()
print(json.dumps(ends))
"""


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_children_of_a_process_that_uses_a_client(wire_server: WireServer, protocol: str) -> None:
    over_http = HttpServer({"config": config, "infer": infer, "ready": lambda received: Reply()})
    with over_http.running():
        url = wire_server.url if protocol == "grpc" else over_http.url
        command = [sys.executable, "-c", FORKS, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    kinds = ["does nothing", "uses it", "closes it", "exits", "makes its own"]
    assert done.stderr == ""
    assert json.loads(done.stdout) == {kind: {"0": 6} for kind in kinds}, done.stderr


def run_in_child(do: Callable[[], object]) -> str:
    """Run a function in a forked child; return the error that it raised."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            do()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def test_an_asynchronous_client_is_refused_and_not_closed(fake: FakeTransport) -> None:
    client = AsyncClient("grpc://127.0.0.1", transport=fake)
    asyncio.run(client.classify(IMAGE))
    assert "Make one in each process" in run_in_child(lambda: asyncio.run(client.classify(IMAGE)))
    assert run_in_child(lambda: asyncio.run(client.close())) == ""


def test_a_stream_that_the_parent_began_is_refused(client: Client) -> None:
    stream = client.classify_each([IMAGE[0]] * 100)
    next(stream)
    assert run_in_child(lambda: list(stream)).startswith(
        "ClientError: client grpc://127.0.0.1:8001: got a use"
    )
    assert len(list(stream)) == 99


def test_shared_memory_of_the_parent_is_kept(fake: FakeTransport, client: Client) -> None:
    with SharedImages(client, capacity=1) as shared:
        assert run_in_child(lambda: shared.__exit__()) == ""
        assert "Make one in each process" in run_in_child(lambda: shared.probabilities(1))
        assert Path(f"/dev/shm/{shared.region.name}").exists()
        assert fake.known_regions
        assert shared.probabilities(1).shape == (1, 10)
