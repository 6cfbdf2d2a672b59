from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from alexnet_bench import latency_breakdown, reference_predictions
from alexnet_bench.latency_breakdown import (
    BreakdownOptions,
    Way,
    bench_latency_breakdown,
    steps_from_ways,
)
from alexnet_bench.reference_predictions import device_of_server
from alexnet_bench.schema import EngineLabel, Report
from alexnet_cli.main import run
from alexnet_clients import Backoff, Client, FakeTransport, InferRequest, ModelConfig, ModelStatistics
from alexnet_export import runner_factory
from alexnet_export.runners import FloatArray, Outputs, Runner
from alexnet_model.class_names import DIGITS
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import ClientError, ConnectionLost, EngineError, Overloaded, UsageError
from alexnet_model.gpus import Gpu, GpuSurvey
from alexnet_model.manifest import Runtime
from alexnet_serving import EmbeddedServer

from ..conftest import Exported
from ..serving.conftest import Artifacts

L4, T4 = (
    Gpu(index=index, name=name, compute_capability="8.9", driver="580.95.05", memory_mib=23034)
    for index, name in enumerate(("NVIDIA L4", "NVIDIA T4"))
)
ENGINE = EngineLabel(runtime="openvino", device="CPU", computes_in="i8", precision="int8")


def way(name: str, *took_ms: float, request_bytes: int = 0) -> Way:
    made = Way(name, "client", request_bytes, list)
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
    found = steps_from_ways(ways, inside, ENGINE, of="int8, batch 1")
    assert [(step.name, step.total_ms, step.added_ms) for step in found] == [
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
    assert (min(found[4].total.repeats), max(found[4].total.repeats)) == (6.0, 7.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batches": ()}, "batches: got none, expected at least one, each of 1 or more"),
        ({"batches": (8, 0)}, "batches: got 8,0, expected at least one, each of 1 or more"),
        ({"rounds": 0}, "rounds: got 0, expected at least 1"),
        ({"requests": -1}, "requests: got -1, expected at least 1"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        BreakdownOptions(**options)  # type: ignore[arg-type]
    assert str(refused.value) == words


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

    monkeypatch.setattr(reference_predictions, "gpus_here", lambda: GpuSurvey(gpus=(L4, T4)))
    monkeypatch.setattr(reference_predictions, "CudaDevice", FakeCuda)
    monkeypatch.setattr(runner_factory, "OnnxRunner", runner)
    monkeypatch.setattr(latency_breakdown, "Client", lambda url: Client(url, transport=OnDevice(device)))
    with pytest.raises(Asked) as asked:
        bench_latency_breakdown(
            artifacts.manifest, artifacts.folder, grpc_url="grpc://fake:1", http_url="http://fake:1"
        )
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
    monkeypatch.setattr(reference_predictions, "gpus_here", lambda: survey)
    with pytest.raises(EngineError, match=words):
        device_of_server(OnDevice("GPU").model_config("alexnet_fp32", timeout_s=1).result())


class FakeRunner:
    """Computes what the fake server does."""

    runtime = Runtime(name="openvino", device="CPU", computes_in="f32", options={})

    def infer(self, images: Uint8Array) -> Outputs:
        request = InferRequest(model="", inputs={"image": images}, outputs=())
        probabilities = FakeTransport().brightness_as_class(request)
        return Outputs(probabilities=probabilities, logits=np.log(probabilities))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class OneServer:
    """What answers every transport. `fails` says of the n-th request what it fails with, None where it does
    not; what is `wrong` has the classes in another order.
    """

    def __init__(
        self,
        fails: Callable[[int], ClientError | None] = lambda number: None,
        wrong: Callable[[InferRequest], bool] = lambda request: False,
        class_names: tuple[str, ...] = DIGITS,
        max_batch: int = 32,
    ) -> None:
        self.fails = fails
        self.wrong = wrong
        self.class_names = class_names
        self.max_batch = max_batch
        self.asked = 0

    def client(self, url: str, *, backoff: Backoff | None = None) -> Client:
        transport = FakeTransport(
            class_names=self.class_names,
            max_batch=self.max_batch,
            answer=lambda request: self._answer(transport, request),
        )
        transport.parameters["precision"] = "int8"  # so that one case decodes on the server
        return Client(url, transport=transport, backoff=backoff)

    def _answer(self, transport: FakeTransport, request: InferRequest) -> FloatArray:
        self.asked += 1
        failure = self.fails(self.asked)
        if failure is not None:
            raise failure
        probabilities = transport.brightness_as_class(request)
        return np.roll(probabilities, 1, axis=1) if self.wrong(request) else probabilities


@pytest.fixture
def measured(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Rungs of FP32 and INT8 on a fake server, one request a round."""
    monkeypatch.setattr(latency_breakdown, "runner_from_artifact", lambda *_: FakeRunner())

    def measure(server: OneServer, batches: tuple[int, ...] = (1,)) -> Report:
        monkeypatch.setattr(latency_breakdown, "Client", server.client)
        return bench_latency_breakdown(
            artifacts.manifest,
            artifacts.folder,
            grpc_url="grpc://127.0.0.1:1",
            http_url="http://127.0.0.1:1",
            options=BreakdownOptions(batches=batches, rounds=1, requests=1),
        )

    return measure


def rules_of(report: Report) -> list[str]:
    """But for what the machine that tests run on did meanwhile."""
    return [reason.rule for reason in report.reasons if reason.rule != "machine busy"]


def cases_of(report: Report) -> list[str]:
    return list(dict.fromkeys(step.of for step in report.breakdown))


def requests_of_a_case(measured: Callable[..., Report]) -> int:
    whole = OneServer()
    assert cases_of(measured(whole)) == ["fp32, batch 1", "int8, batch 1"]
    return whole.asked // 2


def test_a_server_that_dies_in_the_middle_costs_its_case_and_what_comes_after(
    measured: Callable[..., Report],
) -> None:
    lives = requests_of_a_case(measured) + 3
    died = ConnectionLost("grpc://127.0.0.1:1", got="the connection closed", next_step="See its log.")
    report = measured(OneServer(fails=lambda number: died if number > lives else None), batches=(1, 2))
    assert cases_of(report) == ["fp32, batch 1"]
    assert [step.name for step in report.breakdown][-2:] == ["JPEG, decoded here", "JPEG, decoded there"]
    assert [left_out.what for left_out in report.left_out] == [
        *("fp32, batch 2", "int8, batch 1", "int8, batch 2")
    ]
    assert all("the connection closed" in left_out.why for left_out in report.left_out)
    assert rules_of(report) == ["server gone"]
    reason = next(reason for reason in report.reasons if reason.rule == "server gone")
    assert reason.found == "grpc://127.0.0.1:1: got the connection closed. See its log"


@pytest.mark.parametrize("before_last", [4, 1])  # over gRPC, and of an image that is decoded here
def test_a_timed_request_that_fails_is_not_sent_again_and_costs_its_case_alone(
    measured: Callable[..., Report], before_last: int
) -> None:
    of_a_case = requests_of_a_case(measured)
    full = Overloaded("grpc://127.0.0.1:1", got="a full queue")
    server = OneServer(fails=lambda number: full if number == of_a_case - before_last else None)
    report = measured(server)
    assert cases_of(report) == ["int8, batch 1"]
    (left_out,) = report.left_out
    assert (left_out.what, "a full queue" in left_out.why) == ("fp32, batch 1", True)
    assert server.asked == of_a_case - before_last + of_a_case
    assert rules_of(report) == []


@pytest.mark.parametrize(
    ("way", "wrong"),
    [
        ("HTTP", lambda request: not request.top and not request.region),  # and gRPC: the fake is both
        ("shared memory", lambda request: bool(request.region)),
        ("JPEG, decoded here", lambda request: request.top and request.images.dtype == np.uint8),
        ("JPEG, decoded there", lambda request: request.images.dtype == np.object_),
    ],
)
def test_a_way_that_answers_otherwise_than_the_engine_is_wrong(
    measured: Callable[..., Report], way: str, wrong: Callable[[InferRequest], bool]
) -> None:
    report = measured(OneServer(wrong=wrong), batches=(2,))
    found = [reason.found for reason in report.reasons if reason.rule == "wrong answers"]
    ways = ("gRPC", "HTTP") if way == "HTTP" else (way,)
    of_both = [f"{precision}, batch 2, {name}" for precision in ("fp32", "int8") for name in ways]
    assert [words.partition(": probabilities up to 0.")[0] for words in found] == of_both
    assert found[0].endswith(" away from the engine's")
    assert cases_of(report) == ["fp32, batch 2", "int8, batch 2"]


def test_a_server_of_other_classes_is_wrong(measured: Callable[..., Report]) -> None:
    report = measured(OneServer(class_names=tuple(f"class {number}" for number in range(40))))
    found = {reason.found for reason in report.reasons if reason.rule == "wrong answers"}
    assert "fp32, batch 1, gRPC: probabilities (1, 40) instead of (1, 10)" in found
    assert "fp32, batch 1, JPEG, decoded there: classes beyond the engine's 10" in found


def test_batches_are_measured_once_and_within_what_export_and_server_take(
    measured: Callable[..., Report],
) -> None:
    assert cases_of(measured(OneServer(), batches=(2, 1, 2)))[:2] == ["fp32, batch 2", "fp32, batch 1"]
    assert len(measured(OneServer(), batches=(1, 1)).breakdown) == len(
        measured(OneServer(), batches=(1,)).breakdown
    )
    server = OneServer(max_batch=4)
    with pytest.raises(
        UsageError, match="batches: got 9, expected at most 8, the largest batch of this export"
    ):
        measured(server, batches=(1, 9))
    assert server.asked == 0
    report = measured(server, batches=(4, 8))
    assert cases_of(report) == ["fp32, batch 4", "int8, batch 4"]
    assert [(left_out.what, left_out.why) for left_out in report.left_out] == [
        (f"{precision}, batch 8", "the server takes at most 4 images a request")
        for precision in ("fp32", "int8")
    ]


def test_the_command_refuses_a_batch_that_is_too_large_before_it_starts_a_server(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(EmbeddedServer, "__enter__", lambda _: pytest.fail("started"))
    too_large = exported.manifest.max_batch + 1
    assert (
        run(["bench", "breakdown", "--repository", str(exported.repository), "--batch", str(too_large)]) == 2
    )
    words = " ".join(capsys.readouterr().err.split())
    assert f"batches: got {too_large}, expected at most {exported.manifest.max_batch}" in words


def test_on_a_real_server_every_way_is_measured(exported: Exported, tmp_path: Path) -> None:
    with EmbeddedServer(exported.repository, shared_memory=True) as server:
        report = bench_latency_breakdown(
            exported.manifest,
            exported.folder,
            grpc_url=server.grpc_url,
            http_url=server.http_url,
            options=BreakdownOptions(batches=(2,), rounds=1, requests=2),
        )
    assert rules_of(report) == []  # the server answers as the engine in process does
    found = report.breakdown
    of_int8 = [step for step in found if step.of == "int8, batch 2"]
    assert [step.name for step in of_int8] == [
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
    assert all(step.total_ms > 0 for step in found)
    sizes = {step.name: step.request_bytes for step in of_int8}
    assert sizes["gRPC"] > 2 * 150_528 > sizes["JPEG, decoded there"]
    assert {step.of for step in found} == {f"{p}, batch 2" for p in ("fp32", "fp16", "int8")}
