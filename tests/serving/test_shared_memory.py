"""Shared memory on a real server: open if it is enabled, and no other interface with it."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from alexnet_serving import EmbeddedServer, write_repository

from ..waiting import wait_until
from .conftest import Artifacts

pytestmark = pytest.mark.slow

MODEL = "alexnet_int8"


@pytest.fixture(scope="module")
def opened(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    path = tmp_path_factory.mktemp("served") / "model_repository"
    write_repository(artifacts.manifest, artifacts.folder, path)
    shutil.rmtree(path / "alexnet_fp32")
    with EmbeddedServer(path, shared_memory=True) as server:
        yield server


@pytest.fixture
def client(opened: EmbeddedServer) -> Iterator[Any]:
    with InferenceServerClient(opened.grpc_url.removeprefix("grpc://")) as client:
        yield client


def status_over_http(server: EmbeddedServer, path: str, method: str = "GET") -> int:
    request = urllib.request.Request(f"{server.http_url}/v2/{path}", method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_an_image_passes_in_shared_memory(client: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    sent = InferInput("image", list(image.shape), "UINT8")
    sent.set_data_from_numpy(image)
    expected = client.infer(MODEL, [sent]).as_numpy("logits")
    region = SharedMemory(create=True, size=image.nbytes)
    try:
        np.ndarray(image.shape, image.dtype, region.buf)[:] = image
        client.register_system_shared_memory("images", f"/{region.name}", image.nbytes)
        assert list(client.get_system_shared_memory_status().regions) == ["images"]
        named = InferInput("image", list(image.shape), "UINT8")
        named.set_shared_memory("images", image.nbytes)
        np.testing.assert_array_equal(client.infer(MODEL, [named]).as_numpy("logits"), expected)
        wait_until(lambda: is_unregistered(client), "Triton lets go of the memory of a request it replied to")
    finally:
        region.close()
        region.unlink()


def is_unregistered(client: Any) -> bool:
    try:
        client.unregister_system_shared_memory("images")
    except InferenceServerException as error:
        if "it is currently in use" in str(error):
            return False
        raise
    return True


def test_it_is_open_over_http_too(opened: EmbeddedServer) -> None:
    assert status_over_http(opened, "systemsharedmemory/status") == 200


@pytest.mark.parametrize(
    "forbidden", ["get_log_settings", "get_trace_settings", "get_model_repository_index"]
)
def test_the_others_stay_locked(forbidden: str, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="restricted"):
        getattr(client, forbidden)()


def test_the_others_stay_locked_over_http(opened: EmbeddedServer) -> None:
    for path in ("logging", "trace/setting"):
        assert status_over_http(opened, path) == 403
    assert status_over_http(opened, "repository/index", "POST") == 403


def test_without_the_option_it_is_locked(server: EmbeddedServer) -> None:
    with (
        InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        client.get_system_shared_memory_status()
    assert status_over_http(server, "systemsharedmemory/status") == 403
