"""Cold start: what is started, requested and timed, on fakes and once on real servers."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from alexnet_bench import bench_cold_start, cold_start
from alexnet_bench.cold_start import repository_of_one
from alexnet_bench.reports.files import report_from_file
from alexnet_bench.runs import report_of_run
from alexnet_bench.schema import Report
from alexnet_cli.main import run
from alexnet_clients import FakeTransport, InferReply, Message, ModelConfig, ServerUrl, TensorSpec
from alexnet_model.contract import Contract
from alexnet_model.errors import RepositoryError, ServerError, UsageError
from alexnet_serving import config_from_text, models_of_repository, write_repository

from ..serving.conftest import MAX_BATCH, Artifacts
from .sweep_fakes import FakeClock

READY_S = {True: 3.0, False: 1.0}  # with warm-up and without
FP32, INT8 = ("alexnet_fp32",), ("alexnet_int8",)


@pytest.fixture
def repository(artifacts: Artifacts, tmp_path: Path) -> Path:
    path = tmp_path / "it's a repository"
    write_repository(artifacts.manifest, artifacts.folder, path)
    return path


def config_of(repository: Path, model: str) -> str:
    return (repository / model / "config.pbtxt").read_text()


class FakeServer:
    """A server whose start advances the clock, and which records what it was started on."""

    grpc_url, http_url, metrics_url = "grpc://127.0.0.1:8001", "http://127.0.0.1:8000", ""

    def __init__(self, repository: Path, starts: Starts) -> None:
        self._repository = repository
        self._starts = starts

    @property
    def models(self) -> tuple[str, ...]:
        return models_of_repository(self._repository)

    def check(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def __enter__(self) -> Self:
        is_warm = any("model_warmup" in config_of(self._repository, model) for model in self.models)
        self._starts.seen.append((self.models, is_warm))
        slower = 1 + 0.1 * (
            len(self._starts.seen) - 1
        )  # each start is slower, so that no two repeats are equal
        self._starts.clock.spend(READY_S[is_warm] * slower)
        self._starts.failing(len(self._starts.seen))
        return self

    def __exit__(self, *_: object) -> None:
        self._starts.stopped += 1


class SlowAtFirst(FakeTransport):
    """A transport on which the first request of each batch takes 50 ms, and later ones 5 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        contract = Contract()
        future: Future[ModelConfig] = Future()
        future.set_result(
            ModelConfig(
                name=model,
                backend="openvino_dynamic",
                max_batch=16,
                inputs={contract.input_name: TensorSpec(datatype="UINT8", shape=contract.image_shape)},
                outputs={contract.probabilities_name: TensorSpec(datatype="FP32", shape=(10,))},
                parameters={
                    "contract": contract.to_json(),
                    "contract_digest": contract.digest,
                    "precision": "int8",
                    "computes_in": "i8",
                },
                device="CPU",
            )
        )
        return future

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        batch = len(message.request.images)
        latency_ms = 5.0 if batch in self.batches else 50.0
        self.batches.append(batch)
        future: Future[InferReply] = Future()
        future.set_result(InferReply(outputs={}, latency_ms=latency_ms, request_bytes=1))
        return future


class Starts:
    """Runs the benchmark on fakes, and records what was started."""

    def __init__(self, failing: Callable[[int], None] = lambda number: None) -> None:
        self.clock = FakeClock()
        self.failing = failing
        self.seen: list[tuple[tuple[str, ...], bool]] = []
        self.stopped = 0
        self.transports: list[SlowAtFirst] = []

    def run(self, repository: Path, models: tuple[str, ...] | None = None, repeats: int = 1) -> Report:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cold_start, "EmbeddedServer", lambda path: FakeServer(path, self))
            patch.setattr(cold_start, "transport_from_url", self._transport)
            patch.setattr(cold_start, "time", SimpleNamespace(perf_counter=self.clock))
            patch.setattr(cold_start, "report_of_run", partial(report_of_run, calibration=lambda: 100.0))
            return bench_cold_start(repository, models, repeats=repeats, command="alexnet bench")

    def _transport(self, url: ServerUrl) -> SlowAtFirst:
        self.transports.append(SlowAtFirst())
        return self.transports[-1]


def test_a_repository_of_one_links_everything_but_the_configuration(repository: Path) -> None:
    with repository_of_one(repository, "alexnet_int8", warm_up=False) as alone:
        assert models_of_repository(alone) == ("alexnet_int8",)
        model = alone / "alexnet_int8"
        assert {path.name for path in model.iterdir() if path.is_symlink()} == {"1", "labels.txt"}
        onnx = Path("alexnet_int8") / "1" / "model.onnx"
        assert (alone / onnx).samefile(repository / onnx)
        changed = config_from_text(config_of(alone, "alexnet_int8"))
        original = config_from_text(config_of(repository, "alexnet_int8"))
        assert not changed.model_warmup
        assert original.model_warmup
        original.ClearField("model_warmup")
        assert changed == original
    assert not alone.exists()
    assert (repository / "alexnet_int8" / "1" / "model.onnx").is_file()


def test_an_ensemble_comes_with_the_models_that_it_consists_of(repository: Path) -> None:
    with repository_of_one(repository, "alexnet", warm_up=True) as alone:
        assert models_of_repository(alone) == ("alexnet", "alexnet_decode", "alexnet_int8")
        assert config_from_text(config_of(alone, "alexnet_int8")).model_warmup
    with repository_of_one(repository, "alexnet", warm_up=False) as alone:
        assert not config_from_text(config_of(alone, "alexnet_int8")).model_warmup


def test_every_model_is_started_alone_with_its_warm_up_and_without(repository: Path) -> None:
    starts = Starts()
    report = starts.run(repository)
    parts = ("alexnet", "alexnet_decode", "alexnet_int8")
    assert starts.seen == [
        *((parts, True), (parts, False)),
        *((FP32, True), (FP32, False)),
        *((INT8, True), (INT8, False)),
    ]
    assert starts.stopped == 6
    assert [(row.model, row.warmed_up) for row in report.cold_starts[:2]] == [
        ("alexnet", True),
        ("alexnet", False),
    ]
    assert [row.ready_ms.value for row in report.cold_starts[:2]] == pytest.approx([3000, 1100])
    assert report.verdict.is_valid


def test_models_are_started_in_turn_and_every_other_round_backwards(repository: Path) -> None:
    starts = Starts()
    report = starts.run(repository, ("alexnet_fp32", "alexnet_int8"), repeats=3)
    forth = [(FP32, True), (FP32, False), (INT8, True), (INT8, False)]
    assert starts.seen == [*forth, *reversed(forth), *forth]
    assert [(row.model, row.warmed_up) for row in report.cold_starts] == [(of[0], warm) for of, warm in forth]
    ready = report.cold_starts[0].ready_ms  # starts 1, 8 and 9
    assert ready.repeats == pytest.approx([3000, 5100, 5400])
    assert ready.value == pytest.approx(5100)
    assert ready.unit == "ms"
    assert 3000 <= min(ready.repeats) < ready.value < max(ready.repeats)
    with pytest.raises(UsageError, match="repeats: got 0, expected at least 1"):
        starts.run(repository, repeats=0)


def test_two_requests_of_each_batch_are_sent_the_smallest_first(repository: Path) -> None:
    starts = Starts()
    (row,) = [row for row in starts.run(repository, ("alexnet_int8",)).cold_starts if row.warmed_up]
    assert starts.transports[0].batches == [1, 1, 8, 8, 16, 16]
    assert {batch: figure.value for batch, figure in row.first_ms.items()} == {1: 50.0, 8: 50.0, 16: 50.0}
    assert {batch: figure.value for batch, figure in row.second_ms.items()} == {1: 5.0, 8: 5.0, 16: 5.0}
    assert (row.engine.precision, row.engine.computes_in, row.engine.device) == ("int8", "i8", "CPU")


def test_a_model_without_warm_up_is_started_once_a_round(repository: Path) -> None:
    path = repository / "alexnet_int8" / "config.pbtxt"
    config = config_from_text(path.read_text())
    config.ClearField("model_warmup")
    path.write_text(str(config))
    starts = Starts()
    starts.run(repository, ("alexnet_int8",))
    assert starts.seen == [(("alexnet_int8",), False)]


def test_a_server_that_does_not_start_leaves_out_its_row_only(repository: Path) -> None:
    def second(number: int) -> None:
        if number == 2:
            raise ServerError("embedded server", got="not ready after 120 s")

    report = Starts(second).run(repository, ("alexnet_fp32", "alexnet_int8"))
    assert [(row.model, row.warmed_up) for row in report.cold_starts] == [
        ("alexnet_fp32", True),
        ("alexnet_int8", True),
        ("alexnet_int8", False),
    ]
    (left_out,) = report.left_out
    assert left_out.what == "alexnet_fp32, without warm-up"
    assert left_out.why == "embedded server: got not ready after 120 s"


def test_a_model_that_fails_is_not_started_again_and_keeps_its_earlier_starts(repository: Path) -> None:
    def fourth(number: int) -> None:
        if number == 4:
            raise ServerError("embedded server", got="not ready after 120 s")

    starts = Starts(fourth)
    report = starts.run(repository, ("alexnet_int8",), repeats=3)
    assert starts.seen == [(INT8, True), (INT8, False), (INT8, False), (INT8, True), (INT8, False)]
    assert [len(row.ready_ms.repeats) for row in report.cold_starts] == [1, 3]
    assert [left_out.what for left_out in report.left_out] == ["alexnet_int8, with warm-up, from start 2 on"]


def test_ctrl_c_keeps_the_repeats_so_far(repository: Path) -> None:
    def fourth(number: int) -> None:
        if number == 4:
            raise KeyboardInterrupt

    report = Starts(fourth).run(repository, ("alexnet_int8",), repeats=3)
    assert [len(row.ready_ms.repeats) for row in report.cold_starts] == [1, 2]
    assert [len(row.first_ms[16].repeats) for row in report.cold_starts] == [1, 2]
    assert [reason.rule for reason in report.reasons] == ["interrupted"]


def test_ctrl_c_keeps_the_rows_so_far(repository: Path) -> None:
    def third(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    starts = Starts(third)
    report = starts.run(repository, ("alexnet_fp32", "alexnet_int8"))
    assert [row.model for row in report.cold_starts] == ["alexnet_fp32", "alexnet_fp32"]
    assert [reason.rule for reason in report.reasons] == ["interrupted"]


def test_unknown_models_and_broken_configurations_are_refused_before_anything_starts(
    repository: Path,
) -> None:
    starts = Starts()
    with pytest.raises(UsageError, match="alexnet_fp16: got no such model, expected some of alexnet"):
        starts.run(repository, ("alexnet_fp16",))
    (repository / "alexnet_int8" / "config.pbtxt").write_text("max_batch_size: many")
    with pytest.raises(RepositoryError, match=r"alexnet_int8/config\.pbtxt: got .*alexnet lint"):
        starts.run(repository)
    with pytest.raises(RepositoryError, match="no such folder"):
        starts.run(repository / "nowhere")
    assert starts.seen == []


def test_the_command_starts_real_servers(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "cold.json"
    command = ["bench", "cold-start", str(repository), "--model", "alexnet", "--repeats", "2"]
    assert run([*command, "--output", str(path)]) == 0
    assert all(len(line.rstrip()) <= 80 for line in capsys.readouterr().out.splitlines())
    report = report_from_file(path)
    assert report.command == shlex.join(["alexnet", *command])
    assert [(row.model, row.warmed_up) for row in report.cold_starts] == [
        ("alexnet", True),
        ("alexnet", False),
    ]
    for row in report.cold_starts:
        assert (row.engine.runtime, row.engine.computes_in) == ("openvino_dynamic", "i8")
        assert set(row.first_ms) == set(row.second_ms) == {1, MAX_BATCH}
        figures = (row.ready_ms, *row.first_ms.values(), *row.second_ms.values())
        assert all(min(figure.repeats) > 0 and len(figure.repeats) == 2 for figure in figures)
    assert report.left_out == ()
