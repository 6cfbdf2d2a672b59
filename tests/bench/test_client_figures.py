"""The clients' benchmark runs and says what it found; how fast this machine is, nobody asks here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_bench import client_figures, client_loops
from alexnet_bench.client_figures import ClientFigure, write_jpegs
from alexnet_bench.client_figures import client_figures as measure_clients
from alexnet_model.contract import Contract
from alexnet_model.errors import BadResponse
from alexnet_serving import EmbeddedServer

from ..conftest import Exported


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jpegs")
    write_jpegs(folder, 12)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROUNDS": 1, "SLICE_S": 0.5, "CALLS": 20, "IMPORTS": 1}.items():
        monkeypatch.setattr(client_figures, name, value)


@pytest.fixture(scope="module")
def server(exported: Exported) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(exported.repository, shared_memory=True) as server:
        yield server


def figure(value: float, bound: float | None, must_be: Any = "at least") -> ClientFigure:
    return ClientFigure(
        name="a", value=value, low=value, high=value, unit="", bound=bound, must_be=must_be, rounds=1
    )


def test_a_figure_is_held_to_its_bound() -> None:
    assert figure(0.9, 0.9).holds
    assert not figure(0.89, 0.9).holds
    assert figure(150, 150, "at most").holds
    assert not figure(151, 150, "at most").holds
    assert figure(0.1, None).holds


def test_the_images_are_whole(folder: Path) -> None:
    paths = sorted(folder.glob("*.jpg"))
    assert len(paths) == 12
    assert {Contract().prepared(path).shape for path in paths} == {(224, 224, 3)}


@pytest.mark.usefixtures("quick")
def test_every_figure_is_measured_on_a_real_server(server: EmbeddedServer, folder: Path) -> None:
    reports: list[str] = []
    progress: Callable[..., None] = lambda stage, *_: reports.append(stage)  # noqa: E731
    found = measure_clients(server.grpc_url, "int8", folder, progress=progress)
    assert [figure.bound for figure in found.figures] == [0.9, 0.9, 0.95, None, None, None, 150, 150]
    assert all(0 < figure.low <= figure.value <= figure.high for figure in found.figures)
    assert set(found.rates_per_s) == {
        "decode alone",
        "serve alone",
        "folder",
        "raw requests",
        "AsyncClient",
    }
    assert min(found.rates_per_s.values()) > 0
    assert "12 JPEGs" in found.images
    assert len(set(reports)) == 2 + 3 + 2


def test_a_folder_that_was_not_all_answered_is_no_figure(
    server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    with pytest.raises(BadResponse, match="12 answers, expected 13"):
        client_loops.classified_per_s(server.grpc_url, "alexnet_int8", tmp_path, 13)


def test_a_raw_request_that_fails_is_no_figure(server: EmbeddedServer) -> None:
    with pytest.raises(BadResponse, match=r"NOT_FOUND.*an answer to every request"):
        client_loops.plain_grpc_per_s(server.grpc_url, "no_such_model", in_flight=2, seconds=0.1)
