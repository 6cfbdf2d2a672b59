"""A client of a server that is restarted, replaced by another, or has a full queue."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_clients import Client
from alexnet_model.contract import Contract
from alexnet_model.errors import ContractMismatch, Overloaded
from alexnet_serving import EmbeddedServer

from .conftest import Exported

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_client_works_after_a_restart(exported: Exported, tmp_path: Path, protocol: str) -> None:
    repository = exported.repository_of_fp32(tmp_path / "model_repository")
    server = EmbeddedServer(repository)
    with server:
        url = server.grpc_url if protocol == "grpc" else server.http_url
        client = Client(url, timeout_s=180)
        before = client.probabilities(IMAGES)
        connections = client.transport.connections
        os.kill(server._process.pid, signal.SIGKILL)
        server._process.wait(60)
    again = EmbeddedServer(repository, grpc_port=port_of(server.grpc_url), http_port=port_of(server.http_url))
    starting = threading.Timer(1.0, again.__enter__)
    starting.start()
    try:
        started = time.monotonic()
        after = client.probabilities(IMAGES)  # sent while no server listens: it is retried
        assert time.monotonic() - started > 0.9
        assert np.array_equal(before, after)
        assert client.transport.connections > connections
        assert len(client.classify(IMAGES)) == len(IMAGES)
    finally:
        starting.join()
        client.close()
        again.stop()


def test_another_export_in_its_place_is_refused(exported: Exported, tmp_path: Path) -> None:
    first = EmbeddedServer(exported.repository_of_fp32(tmp_path / "first"))
    contract = Contract(resize=232)
    exported.repository_of_fp32(tmp_path / "other", contract=contract, contract_digest=contract.digest)
    with first:
        client = Client(first.grpc_url, timeout_s=60)
        client.probabilities(IMAGES)
    with EmbeddedServer(tmp_path / "other", grpc_port=port_of(first.grpc_url)):
        with pytest.raises(ContractMismatch, match="resize: 256 here, 232 there"):
            client.probabilities(IMAGES)
        with pytest.raises(ContractMismatch):
            client.classify(IMAGES)
    client.close()


def test_requests_are_retried_while_the_queue_is_full(exported: Exported, tmp_path: Path) -> None:
    """A queue of one request refuses those of 32 threads many times, and serves all in the end."""
    repository = exported.repository_of_fp32(tmp_path / "model_repository", queue_size=1)
    with EmbeddedServer(repository) as server:
        with Client(server.grpc_url, timeout_s=60) as patient:
            expected = patient.probabilities(IMAGES[:1])
            answers: list[Any] = []
            threads = [
                threading.Thread(target=lambda: answers.append(patient.probabilities(IMAGES[:1])))
                for _ in range(32)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(answers) == 32
            assert all(np.array_equal(answer, expected) for answer in answers)
        transport = Client(server.grpc_url).transport
        full = [transport.submit(_message(transport), timeout_s=60) for _ in range(64)]
        errors = [future.exception(60) for future in full]
        assert any(isinstance(error, Overloaded) for error in errors), "the queue was never full"
        transport.close()


def _message(transport: Any) -> Any:
    from alexnet_clients import InferRequest

    request = InferRequest(model="alexnet_fp32", inputs={"image": IMAGES[:1]}, outputs=("probabilities",))
    return transport.prepare(request)
