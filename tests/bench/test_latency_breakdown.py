from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from alexnet_bench import latency_breakdown
from alexnet_bench.engines import selection
from alexnet_bench.engines.selection import served_engine
from alexnet_bench.engines.specs import EngineSpec
from alexnet_bench.latency_breakdown import (
    IMAGE_SIZE,
    BreakdownOptions,
    Route,
    bench_latency_breakdown,
    steps_from_routes,
)
from alexnet_bench.schema import EngineLabel, Report
from alexnet_bench.synthetic_images import synthetic_jpegs
from alexnet_cli.main import run
from alexnet_clients import Backoff, Client, FakeTransport, InferRequest, ModelConfig, ModelStatistics
from alexnet_export import FloatArray, Outputs, Runner
from alexnet_model.class_names import DIGITS
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import ClientError, ConnectionLost, EngineError, Overloaded, UsageError
from alexnet_model.gpus import Gpu, GpuSurvey
from alexnet_model.manifest import RuntimeInfo
from alexnet_serving import EmbeddedServer

from ..conftest import Exported
from ..serving.conftest import Artifacts
from ..serving.recorded_engines import H200, with_engines
from .sweep_fakes import spec

L4, T4 = (
    Gpu(index=index, name=name, compute_capability="8.9", driver="580.95.05", memory_mib=23034)
    for index, name in enumerate(("NVIDIA L4", "NVIDIA T4"))
)
ENGINE = EngineLabel(runtime="openvino", device="CPU", computes_in="i8", precision="int8")


def route(name: str, *took_ms: float, request_bytes: int = 0) -> Route:
    made = Route(name, "client", request_bytes, list)
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


def test_each_step_adds_to_the_step_before_it() -> None:
    routes = [
        route("engine", 3.0, 2.0, 90.0),
        route("gRPC", 7.0, 6.0, 6.5, request_bytes=150_609),
        route("HTTP", 8.0),
        route("shared memory", 5.5),
        route("JPEG, decoded here", 9.0),
    ]
    inside = [counted(4.0, 0.5, 0.25), counted(4.2, 0.5, 0.25), counted(99.0, 9.0, 9.0)]
    found = steps_from_routes(routes, inside, ENGINE, of="int8, batch 1")
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
def test_options_out_of_range_are_an_error(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        BreakdownOptions(**options)  # type: ignore[arg-type]
    assert str(refused.value) == words


class OnDevice(FakeTransport):
    """Reports a device and a backend for every model."""

    def __init__(self, device: str, backend: str = "fake") -> None:
        super().__init__()
        self.device = device
        self.backend = backend

    def _config(self, model: str) -> ModelConfig:
        return replace(super()._config(model), device=self.device, backend=self.backend)


class Opened(Exception):
    """Raised instead of opening an engine."""


@pytest.fixture
def opened_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Artifacts, OnDevice], EngineSpec]:
    """Start a breakdown on a machine with two GPUs, and return the engine that it opens in process."""

    def runner(spec: EngineSpec) -> Runner:
        raise Opened(spec)

    def opened(artifacts: Artifacts, transport: OnDevice) -> EngineSpec:
        monkeypatch.setattr(latency_breakdown, "Client", lambda url: Client(url, transport=transport))
        with pytest.raises(Opened) as caught:
            bench_latency_breakdown(
                artifacts.manifest, artifacts.folder, grpc_url="grpc://fake:1", http_url="http://fake:1"
            )
        spec: EngineSpec = caught.value.args[0]
        return spec

    monkeypatch.setattr(selection, "gpus_here", lambda: GpuSurvey(gpus=(L4, T4)))
    monkeypatch.setattr(latency_breakdown, "runner_from_spec", runner)
    return opened


@pytest.mark.parametrize(("device", "expected"), [("GPU", L4), ("CPU", None)])
def test_the_engine_in_process_is_on_the_device_of_the_server(
    artifacts: Artifacts,
    opened_engine: Callable[[Artifacts, OnDevice], EngineSpec],
    device: str,
    expected: Gpu | None,
) -> None:
    spec = opened_engine(artifacts, OnDevice(device))
    assert (spec.runtime, spec.gpu) == ("onnxruntime", expected)


def test_the_tensorrt_engine_that_is_served_is_timed(
    artifacts: Artifacts, tmp_path: Path, opened_engine: Callable[[Artifacts, OnDevice], EngineSpec]
) -> None:
    export = with_engines(artifacts, tmp_path / "export", L4)
    spec = opened_engine(export, OnDevice("GPU", "tensorrt"))
    assert (spec.runtime, spec.gpu) == ("tensorrt", L4)
    assert spec.file == export.folder / "alexnet_fp32.sm89.plan"


def test_an_engine_for_another_gpu_than_the_servers_is_an_error(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200)
    monkeypatch.setattr(selection, "gpus_here", lambda: GpuSurvey(gpus=(L4,)))
    config = OnDevice("GPU", "tensorrt").model_config("alexnet_fp32", timeout_s=1).result()
    with pytest.raises(EngineError, match=r"alexnet_fp32 on TensorRT: got .*built for"):
        served_engine(config, export.manifest, export.folder)


def test_a_server_on_a_gpu_is_not_compared_with_the_cpu_if_no_gpu_is_here(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "gpus_here", lambda: GpuSurvey(problem="no NVIDIA driver"))
    config = OnDevice("GPU").model_config("alexnet_fp32", timeout_s=1).result()
    with pytest.raises(EngineError, match="no GPU here: no NVIDIA driver"):
        served_engine(config, artifacts.manifest, artifacts.folder)


class FakeRunner:
    """Computes what the fake server computes."""

    runtime = RuntimeInfo(name="openvino", device="CPU", computes_in="f32", options={})

    def infer(self, images: Uint8Array) -> Outputs:
        request = InferRequest(model="", inputs={"image": images}, outputs=())
        probabilities = FakeTransport().brightness_as_class(request)
        return Outputs(probabilities=probabilities, logits=np.log(probabilities))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class OneServer:
    """The server behind every transport.

    `fails` returns the error of the n-th request, or None. Outputs of requests that are `wrong` have the
    classes in another order. `error` is the share of each probability that another class gets.
    """

    def __init__(
        self,
        fails: Callable[[int], ClientError | None] = lambda number: None,
        wrong: Callable[[InferRequest], bool] = lambda request: False,
        class_names: tuple[str, ...] = DIGITS,
        max_batch: int = 32,
        backend: str = "openvino_dynamic",
        error: float = 0.0,
    ) -> None:
        self.backend = backend
        self.error = error
        self.fails = fails
        self.wrong = wrong
        self.class_names = class_names
        self.max_batch = max_batch
        self.received = 0

    def client(self, url: str, *, backoff: Backoff | None = None) -> Client:
        transport = OnDevice("CPU", self.backend)
        transport.class_names = self.class_names
        transport.parameters["labels"] = json.dumps(self.class_names)
        transport.max_batch = self.max_batch
        transport.predict = lambda request: self._answer(transport, request)
        transport.parameters["precision"] = "int8"  # so that one case decodes on the server
        return Client(url, transport=transport, backoff=backoff)

    def _answer(self, transport: FakeTransport, request: InferRequest) -> FloatArray:
        self.received += 1
        failure = self.fails(self.received)
        if failure is not None:
            raise failure
        probabilities = transport.brightness_as_class(request)
        probabilities += np.float32(self.error) * (np.roll(probabilities, 1, axis=1) - probabilities)
        return np.roll(probabilities, 1, axis=1) if self.wrong(request) else probabilities


@pytest.fixture
def measured(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Measure FP32 and INT8 on a fake server, one request a round."""
    monkeypatch.setattr(latency_breakdown, "runner_from_spec", lambda spec: FakeRunner())
    monkeypatch.setattr(latency_breakdown, "served_engine", lambda *_: spec())

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
    """Leave out that the machine was busy with other tests."""
    return [reason.rule for reason in report.reasons if reason.rule != "machine busy"]


def cases_of(report: Report) -> list[str]:
    return list(dict.fromkeys(step.of for step in report.breakdown))


def requests_of_a_case(measured: Callable[..., Report]) -> int:
    whole = OneServer()
    assert cases_of(measured(whole)) == ["fp32, batch 1", "int8, batch 1"]
    return whole.received // 2


def test_a_server_that_ends_costs_its_case_and_all_that_follow(
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
    assert server.received == of_a_case - before_last + of_a_case
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
def test_a_route_whose_outputs_differ_from_the_engines_is_wrong(
    measured: Callable[..., Report], way: str, wrong: Callable[[InferRequest], bool]
) -> None:
    report = measured(OneServer(wrong=wrong), batches=(2,))
    found = [reason.found for reason in report.reasons if reason.rule == "wrong answers"]
    ways = ("gRPC", "HTTP") if way == "HTTP" else (way,)
    of_both = [f"{precision}, batch 2, {name}" for precision in ("fp32", "int8") for name in ways]
    assert [
        words.partition(": probabilities that differ from the engine's by up to 0.")[0] for words in found
    ] == of_both
    assert "probabilities that differ" in found[0]
    assert cases_of(report) == ["fp32, batch 2", "int8, batch 2"]


@pytest.mark.parametrize(
    ("backend", "error", "rules"),
    [
        ("openvino_dynamic", 0.01, ["wrong answers"]),
        ("tensorrt", 0.01, []),
        ("tensorrt", 0.3, ["wrong answers"]),
    ],
)
def test_engines_may_differ_as_far_as_under_load(
    measured: Callable[..., Report], backend: str, error: float, rules: list[str]
) -> None:
    """TensorRT rounds elsewhere; `bench server` allows it the same difference."""
    assert list(dict.fromkeys(rules_of(measured(OneServer(backend=backend, error=error))))) == rules


def test_a_server_of_other_classes_is_wrong(measured: Callable[..., Report]) -> None:
    report = measured(OneServer(class_names=tuple(f"class {number}" for number in range(40))))
    found = {reason.found for reason in report.reasons if reason.rule == "wrong answers"}
    assert "fp32, batch 1, gRPC: probabilities (1, 40) instead of (1, 10)" in found
    assert "fp32, batch 1, JPEG, decoded there: class numbers above the engine's 10 classes" in found


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
    assert server.received == 0
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


def test_every_route_is_measured_on_a_real_server(exported: Exported, tmp_path: Path) -> None:
    with EmbeddedServer(exported.repository, shared_memory=True) as server:
        report = bench_latency_breakdown(
            exported.manifest,
            exported.folder,
            grpc_url=server.grpc_url,
            http_url=server.http_url,
            options=BreakdownOptions(batches=(2,), rounds=1, requests=2),
        )
    assert rules_of(report) == []  # the server predicts what the engine in process does
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
    pixels = 2 * 3 * exported.manifest.contract.size**2
    files = sum(map(len, synthetic_jpegs(2, size=IMAGE_SIZE, noise_cell_px=6, quality=85)))
    assert pixels < sizes["gRPC"] == sizes["JPEG, decoded here"] < pixels + 1024
    assert sizes["JPEG, decoded there"] == files
    assert {step.of for step in found} == {f"{p}, batch 2" for p in ("fp32", "fp16", "int8")}


def test_rungs_is_a_hidden_alias_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "rungs", "--batch", "one"]) == 2
    assert "--batch: got 'one'" in capsys.readouterr().err
    assert run(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "breakdown" in shown
    assert "rungs" not in shown
