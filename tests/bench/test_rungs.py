from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_bench.reports.schema import Engine
from alexnet_bench.rungs import RungOptions, Way, bench_rungs, encoded_pictures, rungs_from_ways
from alexnet_clients import ModelStatistics
from alexnet_model.contract import Contract
from alexnet_model.errors import UsageError
from alexnet_serving import EmbeddedServer

from ..conftest import Exported

ENGINE = Engine(runtime="openvino", device="CPU", computes_in="i8", precision="int8")


def way(name: str, *took_ms: float, request_bytes: int = 0) -> Way:
    made = Way(name, "client's clock", request_bytes, lambda: None)
    made.took_ms.extend(took_ms)
    return made


def counted(compute_ms: float, copies_ms: float, queue_ms: float) -> ModelStatistics:
    """Of four requests."""
    ns = 4 * 10**6
    return ModelStatistics(
        requests=4,
        compute_infer_ns=round(compute_ms * ns),
        compute_input_ns=round(copies_ms * ns / 2),
        compute_output_ns=round(copies_ms * ns / 2),
        queue_ns=round(queue_ms * ns),
    )


def test_each_rung_stands_on_the_one_below() -> None:
    ways = [
        way("engine", 3.0, 2.0, 90.0),
        way("gRPC", 7.0, 6.0, 6.5, request_bytes=150_609),
        way("HTTP", 8.0),
        way("shared memory", 5.5),
        way("JPEG, decoded here", 9.0),
    ]
    inside = [counted(4.0, 0.5, 0.25), counted(4.2, 0.5, 0.25), counted(99.0, 9.0, 9.0)]
    found = rungs_from_ways(ways, inside, ENGINE, of="int8, batch 1")
    assert [(rung.name, rung.total_ms, rung.added_ms) for rung in found] == [
        ("engine", 3.0, 3.0),
        ("Triton's compute", pytest.approx(4.2), pytest.approx(1.2)),
        ("+ copies in Triton", pytest.approx(4.7), pytest.approx(0.5)),
        ("+ queue", pytest.approx(4.95), pytest.approx(0.25)),
        ("gRPC", 6.5, pytest.approx(1.55)),
        ("HTTP", 8.0, pytest.approx(3.05)),
        ("shared memory", 5.5, pytest.approx(0.55)),
        ("JPEG, decoded here", 9.0, pytest.approx(2.5)),
    ]
    assert found[4].request_bytes == 150_609


@pytest.mark.parametrize("options", [{"batches": ()}, {"batches": (0,)}, {"rounds": 0}, {"requests": 0}])
def test_options_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="rungs"):
        RungOptions(**options)  # type: ignore[arg-type]


def test_the_pictures_are_jpegs_of_a_photographs_size() -> None:
    pictures = encoded_pictures(2)
    assert len({*pictures}) == 2
    assert all(20_000 < len(picture) < 200_000 for picture in pictures)
    assert Contract().prepared(pictures[0]).shape == (224, 224, 3)


def test_on_a_real_server_every_way_is_measured(exported: Exported, tmp_path: Path) -> None:
    with EmbeddedServer(exported.repository, shared_memory=True) as server:
        report = bench_rungs(
            exported.manifest,
            exported.folder,
            grpc_url=server.grpc_url,
            http_url=server.http_url,
            options=RungOptions(batches=(2,), rounds=1, requests=2),
        )
    found = report.rungs
    of_int8 = [rung for rung in found if rung.of == "int8, batch 2"]
    assert [rung.name for rung in of_int8] == [
        "engine",
        "Triton's compute",
        "+ copies in Triton",
        "+ queue",
        "gRPC",
        "HTTP",
        "shared memory",
        "JPEG, decoded here",
        "JPEG, decoded there",
    ]
    assert all(rung.total_ms > 0 for rung in found)
    sizes = {rung.name: rung.request_bytes for rung in of_int8}
    assert sizes["gRPC"] > 2 * 150_528 > sizes["JPEG, decoded there"]
    assert {rung.of for rung in found} == {f"{p}, batch 2" for p in ("fp32", "fp16", "int8")}
