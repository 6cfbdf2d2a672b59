"""The benchmark of the clients runs on a real server. No test depends on how fast this machine is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_bench import ClientBenchOptions, measure_clients, write_client_images
from alexnet_bench.client_figures import classified_per_s, raw_grpc_per_s
from alexnet_model.contract import Contract
from alexnet_model.errors import BadResponse
from alexnet_serving import EmbeddedServer, write_repository

from ..serving.conftest import Artifacts

pytestmark = pytest.mark.slow

QUICK = ClientBenchOptions(rounds=1, slice_s=1.0, calls=20, imports=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jpegs")
    write_client_images(folder, 12)
    return folder


@pytest.fixture(scope="module")
def server(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("served") / "model_repository"
    write_repository(artifacts.manifest, artifacts.folder, repository)
    with EmbeddedServer(repository, shared_memory=True) as server:
        yield server


def test_the_images_can_be_read(folder: Path) -> None:
    paths = sorted(folder.glob("*.jpg"))
    assert len(paths) == 12
    assert {Contract().prepared(path).shape for path in paths} == {(224, 224, 3)}


def test_every_figure_is_measured_on_a_real_server(server: EmbeddedServer, folder: Path) -> None:
    stages: list[str] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        stages.append(stage)

    rows = list(measure_clients(server.grpc_url, folder, options=QUICK, progress=progress))
    assert [(row.name, row.target) for row in rows] == [
        ("decode alone", ""),
        ("serve alone", ""),
        ("folder", ""),
        ("folder / the slower of decode and serve alone", "at least 0.9"),
        ("folder / decode and serve in sequence", "at least 0.9"),
        ("raw gRPC", ""),
        ("AsyncClient", ""),
        ("AsyncClient / raw gRPC", "at least 0.95"),
        ("shared memory / gRPC, latency", ""),
        ("shared memory / gRPC, latency", ""),
        ("Client.probabilities, batch 1", "at most 150"),
        ("import alexnet_clients", "at most 150"),
    ]
    assert all(row.figure.value > 0 and len(row.figure.repeats) == 1 for row in rows)
    assert "12 JPEGs" in rows[0].of
    assert [row.engine is not None and row.engine.precision == "int8" for row in rows] == [True] * 10 + [
        False
    ] * 2
    assert len(set(stages)) == 2 + 2 + 2


def test_a_folder_with_a_broken_image_is_an_error(
    server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    with pytest.raises(BadResponse, match="got 12 classified images, expected 13"):
        classified_per_s(server.grpc_url, "alexnet_int8", sorted(tmp_path.glob("*.jpg")))


def test_a_failed_raw_request_is_an_error(server: EmbeddedServer) -> None:
    with pytest.raises(BadResponse, match=r"NOT_FOUND.*a reply to every request"):
        raw_grpc_per_s(server.grpc_url, "no_such_model", Contract(), 1.0)
    with pytest.raises(BadResponse, match=r"no reply in 1e-06 s.*a reply to every request"):
        raw_grpc_per_s(server.grpc_url, "alexnet_int8", Contract(), 1e-6)
