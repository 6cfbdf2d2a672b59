"""Shared memory with a real embedded server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alexnet_clients import Client, SharedImages, remove_orphans
from alexnet_model.errors import BadRequest
from alexnet_serving import EmbeddedServer

from .conftest import Exported
from .test_server_restarted import port_of

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def sharing(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = exported.repository(tmp_path_factory.mktemp("sharing") / "model_repository")
    with EmbeddedServer(repository, shared_memory=True) as server:
        yield server


@pytest.fixture(params=["grpc_url", "http_url"])
def client(request: pytest.FixtureRequest, sharing: EmbeddedServer) -> Iterator[Client]:
    with Client(getattr(sharing, request.param)) as client:
        yield client


def test_outputs_equal_those_over_the_network(client: Client) -> None:
    model = "alexnet_int8"
    with SharedImages(client, capacity=8, model=model) as shared:
        shared.images[:] = IMAGES
        for count in (1, 3, 8):
            assert np.array_equal(
                shared.probabilities(count), client.probabilities(IMAGES[:count], model=model)
            )
        shared.images[0] = IMAGES[7]  # the new content is used
        assert np.array_equal(shared.probabilities(1), client.probabilities(IMAGES[7:], model=model))
    assert client.transport.regions(timeout_s=10).result() == ()


def test_shared_memory_is_refused_by_default(server: EmbeddedServer) -> None:
    with (
        Client(server.grpc_url) as client,
        pytest.raises(BadRequest, match="restricted"),
        SharedImages(client, capacity=1),
    ):
        pytest.fail("entered")


def test_memory_of_a_killed_client_is_removed(sharing: EmbeddedServer, client: Client) -> None:
    code = (
        "import sys, os, signal\n"
        "from alexnet_clients import Client, SharedImages\n"
        "client = Client(sys.argv[1])\n"
        "shared = SharedImages(client, capacity=1).__enter__()\n"
        "print(shared.region.name, flush=True)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, "-c", code, sharing.grpc_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert name in {region.name for region in client.transport.regions(timeout_s=10).result()}
        assert name not in remove_orphans(client)
        os.kill(process.pid, signal.SIGKILL)
    assert name in remove_orphans(client)  # among others, of tests in other processes
    assert not (Path("/dev/shm") / name).exists()
    assert client.transport.regions(timeout_s=10).result() == ()


@pytest.mark.parametrize("protocol", ["grpc_url", "http_url"])
def test_memory_is_registered_again_after_a_restart(
    exported: Exported, tmp_path: Path, protocol: str
) -> None:
    repository = exported.repository_of_fp32(tmp_path / "model_repository")
    with EmbeddedServer(repository, shared_memory=True) as first:
        client = Client(getattr(first, protocol), timeout_s=60)
        shared = SharedImages(client, capacity=2).__enter__()
        shared.images[:] = IMAGES[:2]
        before = shared.probabilities(2)
        os.kill(first._process.pid, signal.SIGKILL)  # SIGTERM would wait for its HTTP connections
    grpc_port, http_port = port_of(first.grpc_url), port_of(first.http_url)
    with EmbeddedServer(repository, shared_memory=True, grpc_port=grpc_port, http_port=http_port):
        try:
            for _ in range(2):
                assert np.array_equal(shared.probabilities(2), before)
        finally:
            shared.__exit__(None, None, None)
        assert client.transport.regions(timeout_s=10).result() == ()
        client.close()
