"""Ctrl-C at any moment ends the work of a client in the main thread, and closing the client then ends too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .http_transport.http_server import HttpServer, Reply, config, infer
from .wire_server import WireServer

INTERRUPTED = """
import faulthandler, random, signal, sys, threading, time

import numpy as np

from alexnet_clients import Client

IMAGE = np.zeros((1, 224, 224, 3), np.uint8)
random.seed(0)


def interrupt(delay_s, received):
    time.sleep(delay_s)
    while not received.is_set():  # Python loses an exception in a finalizer, once in 1,000 times
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        received.wait(10)


for _ in range(60):
    faulthandler.dump_traceback_later(60, exit=True)
    client = Client(sys.argv[1], timeout_s=50)
    client.connect()
    received = threading.Event()
    interrupting = threading.Thread(target=interrupt, args=(random.uniform(0.002, 0.015), received))
    try:
        interrupting.start()
        while True:
            client.probabilities(IMAGE, model="alexnet_int8")
    except KeyboardInterrupt:
        received.set()
    client.close()
    interrupting.join()
print("every client was closed")
"""


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_interrupted_client_can_be_closed(wire_server: WireServer, protocol: str) -> None:
    over_http = HttpServer({"config": config, "infer": infer, "ready": lambda received: Reply()})
    with over_http.running():
        url = wire_server.url if protocol == "grpc" else over_http.url
        command = [sys.executable, "-c", INTERRUPTED, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "every client was closed", done.stderr
