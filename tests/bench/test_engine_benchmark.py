"""A whole run of the engine benchmark, from an export's folder to the report: mostly on fake engines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from alexnet_bench.engines import benchmark
from alexnet_bench.engines.benchmark import (
    DeviceProcess,
    EngineBenchOptions,
    bench_engines,
)
from alexnet_bench.engines.selection import EngineFilter
from alexnet_bench.engines.specs import EngineSpec
from alexnet_bench.engines.sweep import StartingEngine
from alexnet_bench.reports.files import report_from_file
from alexnet_bench.reports.names import calibration_in_words
from alexnet_bench.runs import report_of_run
from alexnet_bench.schema import Report, Roof
from alexnet_cli.main import run
from alexnet_model import runtimes as runtimes_module
from alexnet_model.errors import ExportError, UsageError
from alexnet_model.gpus import Gpu, GpuSurvey
from alexnet_model.manifest import write_manifest
from alexnet_model.runtimes import ENTRY_POINT_GROUP

from ..serving.conftest import Artifacts
from ..serving.recorded_engines import H200
from .sweep_fakes import ROOF, FakeProcess

NO_GPU = GpuSurvey(problem="no driver")
ONCE = EngineBenchOptions(batches=(1, 2), repeats=2)


@pytest.fixture(scope="module")
def export(artifacts: Artifacts) -> Path:
    write_manifest(artifacts.manifest, artifacts.folder)
    return artifacts.folder


class Fakes:
    """Fake engines and ceilings, with a calibration workload of the given rates."""

    def __init__(
        self,
        *rates: float,
        roofs: Callable[[], Sequence[Roof]] = lambda: [ROOF],
        gpus: GpuSurvey = NO_GPU,
        gpu_rates: Sequence[float] = (),
    ) -> None:
        self.log: list[str] = []
        self._rates = iter(rates or (100, 100))
        self._gpu_rates = iter(gpu_rates)
        self._gpus = gpus
        self.environments: list[object] = []
        self._roofs = roofs

    def run(self, export: Path, options: EngineBenchOptions = ONCE, *, processes: bool = False) -> Report:
        """Measure fake engines, or with `processes` real ones, each in its own process."""
        steady = partial(report_of_run, calibration=lambda: next(self._rates))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(benchmark, "gpus_here", lambda: self._gpus)
            patch.setattr(benchmark, "device_process", self._ceilings)
            patch.setattr(benchmark, "report_of_run", steady)
            if not processes:
                patch.setattr(benchmark, "EngineProcess", self._open)
            return bench_engines(export, options, command="alexnet bench engine")

    def _open(
        self, spec: EngineSpec, largest: int, environment: dict[str, str]
    ) -> AbstractContextManager[StartingEngine]:
        self.environments.append(environment["TORCHINDUCTOR_CACHE_DIR"])
        return FakeProcess(spec, self.log)

    @contextmanager
    def _ceilings(self, gpu: Gpu | None) -> Iterator[DeviceProcess]:
        def measure(seconds: float) -> Sequence[Roof]:
            self.log.append(f"ceilings for {seconds:g} s")
            return self._roofs()

        self.log.append(f"open ceilings of {gpu}")
        yield DeviceProcess(measure, lambda: next(self._gpu_rates))
        self.log.append("ceilings closed")


def test_a_report_holds_rows_with_limits_ceilings_and_what_was_left_out(export: Path) -> None:
    fakes = Fakes()
    report = fakes.run(export)
    assert report.verdict.is_valid
    assert [(row.engine.precision, row.batch) for row in report.engines] == [
        *(("fp32", 1), ("fp32", 2)) * 2,
        *(("int8", 1), ("int8", 2)) * 2,
    ]
    assert all(row.limit_ms and row.bound_by == "compute" for row in report.engines)
    # The same multiply-adds at the same ceiling; INT8 moves less, and is bound by it even less.
    assert report.engines[0].limit_ms == pytest.approx(report.engines[4].limit_ms, rel=0.05)
    assert report.roofs == (ROOF,)
    assert {left_out.what for left_out in report.left_out} >= {"pytorch", "tensorrt", "everything on a GPU"}
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_every_engine_is_judged_unless_judging_is_off(export: Path) -> None:
    fakes = Fakes()
    assert [proof.engine.precision for proof in fakes.run(export).proofs] == ["fp32", "fp32", "int8", "int8"]
    fakes = Fakes()
    report = fakes.run(export, replace(ONCE, judge=False))
    assert report.proofs == ()
    assert not any(line.startswith("judge") for line in fakes.log)


def test_another_load_on_the_machine_makes_the_report_invalid(export: Path) -> None:
    report = Fakes(100, 88).run(export)
    assert [reason.rule for reason in report.reasons] == ["machine busy"]
    assert (report.calibration_before, report.calibration_after) == (100, 88)


@pytest.mark.parametrize(("after", "rules"), [(950.0, []), (800.0, ["machine busy"])])
def test_on_a_gpu_the_calibration_workload_also_runs_there(
    export: Path, after: float, rules: list[str]
) -> None:
    fakes = Fakes(gpus=GpuSurvey(gpus=(H200,)), gpu_rates=(1000.0, after))
    on_gpu = EngineFilter(runtimes=("onnxruntime",), precisions=("fp32",), device="gpu")
    report = fakes.run(export, replace(ONCE, engine_filter=on_gpu))
    assert (report.gpu_calibration_before, report.gpu_calibration_after) == (1000, after)
    assert [reason.rule for reason in report.reasons] == rules
    assert all("the calibration workload of the GPU went" in reason.found for reason in report.reasons)
    assert "; on the GPU 1e-06 x 10^9 operations/s before" in calibration_in_words(report)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_compiled_code_is_kept_only_where_the_variable_says(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    fakes = Fakes()
    fakes.run(export)
    assert len(set(fakes.environments)) == 1
    assert not Path(str(fakes.environments[0])).exists()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/kept")
    fakes = Fakes()
    assert fakes.run(export).notes == ()  # nothing here is compiled
    assert set(fakes.environments) == {"/kept"}


def test_ceilings_are_measured_before_the_sweep_and_after_each_repeat(export: Path) -> None:
    """The machine is busy at first, then less, then not: the last measurement is the best."""
    measurements = iter([1e6, 5e8, 1e11])
    fakes = Fakes(roofs=lambda: [ROOF.model_copy(update={"operations_per_s": next(measurements)})])
    report = fakes.run(export)
    assert report.roofs == (ROOF,)
    measured_at = [index for index, line in enumerate(fakes.log) if line.startswith("ceilings for")]
    assert [fakes.log[index] for index in measured_at] == [
        "ceilings for 0.5 s",
        "ceilings for 0.2 s",
        "ceilings for 0.2 s",
    ]
    assert fakes.log[0] == "open ceilings of None"
    assert fakes.log[-1] == "ceilings closed"
    slices = [line.startswith("time") for line in fakes.log]
    assert [sum(slices[start:end]) for start, end in pairwise((0, *measured_at))] == [0, 8, 8]


def test_an_engine_faster_than_its_limit_makes_the_run_invalid(export: Path) -> None:
    report = Fakes(roofs=lambda: [ROOF.model_copy(update={"operations_per_s": 1e6})]).run(export)
    (reason,) = report.reasons
    assert reason.rule == "above the limit"
    for row in report.engines:
        assert str(row.engine) in reason.found
        assert row.verdict.is_valid


def test_ceilings_measured_before_a_failure_are_kept(export: Path) -> None:
    measurements: list[int] = []

    def failing_in_the_end() -> Sequence[Roof]:
        measurements.append(1)
        if len(measurements) == 2:
            raise ExportError("its process ended (killed by signal 9)")
        return [ROOF]

    report = Fakes(roofs=failing_in_the_end).run(export)
    assert report.roofs == (ROOF,)
    assert [left.what for left in report.left_out].count("ceilings of CPU") == 1
    assert len(measurements) == 2  # and are not measured again


def test_without_ceilings_there_are_rows_without_limits(export: Path) -> None:
    def broken() -> Sequence[Roof]:
        raise ExportError("its process ended (killed by signal 9)")

    report = Fakes(roofs=broken).run(export)
    assert report.engines
    assert all(row.limit_ms is None and row.bound_by == "unknown" for row in report.engines)
    assert [left.why for left in report.left_out if left.what == "ceilings of CPU"] == [
        "its process ended (killed by signal 9)"
    ]


def test_an_interrupt_during_the_last_ceilings_keeps_all_rows(export: Path) -> None:
    calls: list[int] = []

    def once() -> Sequence[Roof]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [ROOF]

    report = Fakes(roofs=once).run(export)
    assert [reason.rule for reason in report.reasons] == ["interrupted"]
    assert len(report.engines) == 8


def test_the_command_measures_real_engines_and_writes_the_report(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("alexnet_bench.engines.benchmark.FIRST_CEILINGS_S", 0.01)
    monkeypatch.setattr("alexnet_bench.engines.benchmark.CEILINGS_S", 0.01)
    path = tmp_path / "new" / "engine.json"
    arguments = ["bench", "engine", str(export), "--batch", "1,2", "--precision", "fp32"]
    arguments += ["--seconds", "0.01", "--repeats", "2", "--output", str(path)]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 80 for line in printed.splitlines())
    assert "Engines on CPU" in printed
    assert "left out: pytorch: no checkpoint was given" in printed
    report = report_from_file(path)
    assert [(row.engine.runtime, row.batch) for row in report.engines] == [
        *(("openvino", 1), ("openvino", 2)),
        *(("onnxruntime", 1), ("onnxruntime", 2)),
    ]
    assert {roof.computes_in for roof in report.roofs} >= {"f32"}
    # Their process was called three times.
    assert "ceilings of CPU" not in {left.what for left in report.left_out}
    assert all(
        row.latencies.p50_ms and row.share_of_limit and row.peak_memory_bytes for row in report.engines
    )
    # Every option that was given and says how it was measured.
    assert set(arguments) - set(shlex.split(report.command)) == {"--output", str(path)}
    # This export has no reference outputs to judge by.
    assert report.proofs == ()
    assert {reason.rule for row in report.engines for reason in row.verdict.reasons} == {"not judged"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "0"], "batches: got 0"),
        (["--batch", "1,16"], "batches: got 16, expected at most 8, the largest of"),
        (["--batch", "one"], "--batch: got 'one'"),
        (["--runtime", "tensorflow"], "runtime: got 'tensorflow'"),
        (["--runtime", ","], "--runtime: got ','"),
        (["--precision", "fp16"], "a precision that the gate did not accept"),
        (["--seconds", "0"], "seconds: got 0, expected a finite number above 0"),
        (["--seconds", "inf"], "seconds: got inf, expected a finite number above 0"),
        (["--repeats", "0"], "repeats: got 0"),
        (["--output", "."], "got a folder, expected a file"),
    ],
)
def test_a_usage_error_is_one_line(
    export: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "engine", str(export), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_missing_export_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "engine", str(tmp_path)]) == 1
    assert "Make one: alexnet export CHECKPOINT" in capsys.readouterr().err


def test_ctrl_c_prints_and_writes_the_finished_rows(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Fakes().run(export)

    def interrupted(*_: object, **__: object) -> Report:
        from alexnet_bench.figures.verdicts import interrupted_reason, verdict_from

        return report.model_copy(update={"reasons": verdict_from(interrupted_reason(True)).reasons})

    monkeypatch.setattr("alexnet_bench.engines.benchmark.bench_engines", interrupted)
    path = tmp_path / "engine.json"
    assert run(["bench", "engine", str(export), "--output", str(path)]) == 130
    assert json.loads(path.read_text())["reasons"][0]["rule"] == "interrupted"
    assert "Interrupted." in capsys.readouterr().err


def test_the_batches_of_an_export_double_by_default(artifacts: Artifacts) -> None:
    assert EngineBenchOptions().plan(artifacts.manifest, artifacts.folder).batches == (1, 2, 4, 8)
    assert replace(ONCE, engine_filter=EngineFilter(precisions=("int8",))).plan(
        artifacts.manifest, artifacts.folder
    ).batches == (1, 2)


def test_a_batch_given_twice_is_measured_once(artifacts: Artifacts) -> None:
    twice = replace(ONCE, batches=(2, 1, 2)).plan(artifacts.manifest, artifacts.folder)
    assert twice.batches == (2, 1)


def test_a_batch_beyond_the_exports_largest_is_refused_before_anything_is_opened(
    export: Path,
) -> None:
    fakes = Fakes()
    with pytest.raises(UsageError, match=r"got 9, expected at most 8, .*--max-batch 9"):
        fakes.run(export, replace(ONCE, batches=(1, 9)))
    assert fakes.log == []
    assert len(fakes.run(export, replace(ONCE, batches=(8,))).engines) == 4


PLUGIN = """
import numpy as np
from alexnet_export import Outputs
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.runtimes import Runtime

RUNTIME = Runtime(name="constant", title="Constant", source="onnx", devices=("cpu",),
                  runner="constant_runtime:runner_from_source")


def runner_from_source(source):
    return Runner(source.classes)


class Runner:
    def __init__(self, classes):
        self.classes = classes
        self.runtime = RuntimeInfo(name="constant", device="CPU", computes_in="f32")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def infer(self, images):
        zeros = np.zeros((len(images), self.classes), np.float32)
        return Outputs(zeros + 1 / self.classes, zeros)
"""


@pytest.fixture
def constant_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a distribution that registers a runtime, for this process and for those that it starts."""
    site = tmp_path / "site"
    info = site / "constant_runtime-1.dist-info"
    info.mkdir(parents=True)
    (site / "constant_runtime.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: constant-runtime\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nconstant = constant_runtime:RUNTIME\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    runtimes_module._table.cache_clear()
    yield
    runtimes_module._table.cache_clear()


def test_a_runtime_of_another_distribution_is_measured_in_its_own_process(
    export: Path, constant_runtime: None
) -> None:
    options = replace(ONCE, engine_filter=EngineFilter(runtimes=("constant",)), seconds=0.01)
    report = Fakes().run(export, options, processes=True)
    assert [(str(row.engine), row.batch) for row in report.engines] == [
        (f"{precision} on constant (CPU, computes in f32)", batch)
        for precision in ("fp32", "int8")
        for batch in (1, 2)
    ]
