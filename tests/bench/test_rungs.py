from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_bench import rungs
from alexnet_bench.reports.schema import Engine
from alexnet_bench.rungs import (
    RungOptions,
    Way,
    bench_rungs,
    device_of_server,
    encoded_pictures,
    rungs_from_ways,
)
from alexnet_clients import Client, FakeTransport, ModelConfig, ModelStatistics
from alexnet_export import artifacts as export_artifacts
from alexnet_export.runners import Runner
from alexnet_model.contract import Contract
from alexnet_model.errors import EngineError, UsageError
from alexnet_model.gpus import Gpu, GpuSurvey
from alexnet_serving import EmbeddedServer

from ..conftest import Exported
from ..serving.conftest import Artifacts

L4, T4 = (
    Gpu(index=index, name=name, compute_capability="8.9", driver="580.95.05", memory_mib=23034)
    for index, name in enumerate(("NVIDIA L4", "NVIDIA T4"))
)
ENGINE = Engine(runtime="openvino", device="CPU", computes_in="i8", precision="int8")


def way(name: str, *took_ms: float, request_bytes: int = 0) -> Way:
    made = Way(name, "client", request_bytes, lambda: None)
    made.medians_ms.extend(took_ms)
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
    assert (found[4].total.low, found[4].total.high) == (6.0, 7.0)


@pytest.mark.parametrize("options", [{"batches": ()}, {"batches": (0,)}, {"rounds": 0}, {"requests": 0}])
def test_options_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="rungs"):
        RungOptions(**options)  # type: ignore[arg-type]


def test_the_pictures_are_jpegs_of_a_photographs_size() -> None:
    pictures = encoded_pictures(2)
    assert len({*pictures}) == 2
    assert all(20_000 < len(picture) < 200_000 for picture in pictures)
    assert Contract().prepared(pictures[0]).shape == (224, 224, 3)


class FakeCuda:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu


class OnDevice(FakeTransport):
    """Says of every model that it is computed there."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def _config(self, model: str) -> ModelConfig:
        return replace(super()._config(model), device=self.device)


@pytest.mark.parametrize(("device", "expected"), [("GPU", L4), ("CPU", None)])
def test_the_engine_in_process_is_where_the_server_computes(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, device: str, expected: Gpu | None
) -> None:
    class Asked(Exception):
        pass

    def runner(_: Path, on: FakeCuda | None = None) -> Runner:
        raise Asked(on and on.gpu)

    monkeypatch.setattr(rungs, "gpus_here", lambda: GpuSurvey(gpus=(L4, T4)))
    monkeypatch.setattr(rungs, "CudaDevice", FakeCuda)
    monkeypatch.setattr(export_artifacts, "OnnxRunner", runner)
    monkeypatch.setattr(rungs, "Client", lambda url: Client(url, transport=OnDevice(device)))
    with pytest.raises(Asked) as asked:
        bench_rungs(artifacts.manifest, artifacts.folder, grpc_url="grpc://fake:1", http_url="http://fake:1")
    assert asked.value.args == (expected,)


@pytest.mark.parametrize(
    ("survey", "words"),
    [
        (GpuSurvey(problem="no NVIDIA driver"), "no NVIDIA driver"),
        (GpuSurvey(gpus=(replace(L4, name="NVIDIA Nothing"),)), "PyTorch"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_not_the_cpu_in_silence(
    monkeypatch: pytest.MonkeyPatch, survey: GpuSurvey, words: str
) -> None:
    monkeypatch.setattr(rungs, "gpus_here", lambda: survey)
    with pytest.raises(EngineError, match=words):
        device_of_server(OnDevice("GPU").model_config("alexnet_fp32", timeout_s=1).result())


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
