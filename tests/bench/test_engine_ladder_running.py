"""A whole run of the ladder, from an export's folder to the report: over fakes, once over real engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_bench.engines.choosing import Machine, Wishes
from alexnet_bench.engines.ladder import OpenEngine
from alexnet_bench.engines.running import EngineBench, Instruments, bench_engines
from alexnet_bench.engines.specs import EngineSpec
from alexnet_bench.reports.files import report_from_file
from alexnet_bench.reports.schema import Report, Roof
from alexnet_cli.main import run
from alexnet_model.errors import ExportError
from alexnet_model.gpus import Gpu, GpuSurvey
from alexnet_model.manifest import write_manifest

from ..serving.conftest import Artifacts
from .ladder_fakes import FakeProcess

ROOF = Roof(device="CPU", computes_in="f32", operations_per_s=1e9, bytes_per_s=1e9)
MACHINE = Machine(gpus=GpuSurvey(problem="no driver"), cpp_compiler=None)
ONCE = EngineBench(batches=(1, 2), repeats=2)


@pytest.fixture(scope="module")
def export(artifacts: Artifacts) -> Path:
    write_manifest(artifacts.manifest, artifacts.folder)
    return artifacts.folder


class Fakes:
    """Instruments whose control work goes at these rates, one after another."""

    def __init__(self, *rates: float, roofs: Callable[[], Sequence[Roof]] = lambda: [ROOF]) -> None:
        self.diary: list[str] = []
        self._rates = iter(rates or (100, 100))
        self._roofs = roofs

    def instruments(self) -> Instruments:
        return Instruments(
            machine=MACHINE, engines=self._open, ceilings=self._ceilings, control=lambda: next(self._rates)
        )

    def run(self, export: Path) -> Report:
        return bench_engines(export, ONCE, command="alexnet bench engine", instruments=self.instruments())

    def _open(self, spec: EngineSpec, largest: int) -> AbstractContextManager[OpenEngine]:
        return FakeProcess(spec, self.diary)

    def _ceilings(self, gpu: Gpu | None) -> Sequence[Roof]:
        self.diary.append(f"ceilings of {gpu}")
        return self._roofs()


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
    assert [line for line in fakes.diary if line.startswith("ceilings")] == ["ceilings of None"] * 2
    assert fakes.diary[0] == fakes.diary[-1] == "ceilings of None"  # before the ladder and after it
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_every_engine_is_judged_unless_that_is_not_wanted(export: Path) -> None:
    fakes = Fakes()
    assert [proof.engine.precision for proof in fakes.run(export).proofs] == ["fp32", "fp32", "int8", "int8"]
    fakes = Fakes()
    report = bench_engines(export, replace(ONCE, judge=False), instruments=fakes.instruments())
    assert report.proofs == ()
    assert not any(line.startswith("judge") for line in fakes.diary)


def test_other_load_makes_it_invalid(export: Path) -> None:
    report = Fakes(100, 88).run(export)
    assert [reason.rule for reason in report.reasons] == ["machine busy"]
    assert (report.control_before, report.control_after) == (100, 88)


def test_without_ceilings_there_are_rows_without_limits(export: Path) -> None:
    def broken() -> Sequence[Roof]:
        raise ExportError("its process ended (killed by signal 9)")

    report = Fakes(roofs=broken).run(export)
    assert report.engines
    assert all(row.limit_ms is None and row.bound_by == "unknown" for row in report.engines)
    assert [left.why for left in report.left_out if left.what == "ceilings of CPU"] == [
        "its process ended (killed by signal 9)"
    ]


def test_an_interrupt_of_the_last_ceilings_costs_no_rows(export: Path) -> None:
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
    monkeypatch.setattr("alexnet_bench.engines.running.CEILING_S", 0.01)
    path = tmp_path / "new" / "engine.json"
    arguments = ["bench", "engine", str(export), "--batch", "1,2", "--precision", "fp32"]
    arguments += ["--seconds", "0.01", "--repeats", "2", "--json", str(path)]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 80 for line in printed.splitlines())
    assert "Engines on CPU" in printed
    assert "left out: pytorch: no checkpoint was named" in printed
    report = report_from_file(path)
    assert [(row.engine.runtime, row.batch) for row in report.engines] == [
        *(("onnxruntime", 1), ("onnxruntime", 2)),
        *(("openvino", 1), ("openvino", 2)),
    ]
    assert {roof.computes_in for roof in report.roofs} >= {"f32"}
    assert all(
        row.latencies.p50_ms and row.share_of_limit and row.peak_memory_bytes for row in report.engines
    )
    assert report.command.startswith(f"alexnet bench engine {export}")
    # These files are of a record that keeps no answers to judge by.
    assert report.proofs == ()
    assert {left.what.rpartition(": ")[2] for left in report.left_out} >= {"whether its answers are right"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "0"], "batches: got 0"),
        (["--batch", "one"], "--batch: got 'one'"),
        (["--runtime", "tensorflow"], "runtime: got 'tensorflow'"),
        (["--runtime", ","], "--runtime: got ','"),
        (["--precision", "fp16"], "no such precision that was accepted"),
        (["--seconds", "0"], "seconds: got 0"),
        (["--repeats", "0"], "repeats: got 0"),
        (["--json", "."], "got a folder, expected a file"),
    ],
)
def test_wrong_usage_is_one_line(
    export: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "engine", str(export), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_no_export_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "engine", str(tmp_path)]) == 1
    assert "Make one: alexnet export CHECKPOINT" in capsys.readouterr().err


def test_ctrl_c_prints_and_writes_what_there_is(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Fakes().run(export)

    def interrupted(*_: object, **__: object) -> Report:
        from alexnet_bench.figures.verdicts import interrupted_reason, verdict_from

        return report.model_copy(update={"reasons": verdict_from(interrupted_reason(True)).reasons})

    monkeypatch.setattr("alexnet_bench.engines.running.bench_engines", interrupted)
    path = tmp_path / "engine.json"
    assert run(["bench", "engine", str(export), "--json", str(path)]) == 130
    assert json.loads(path.read_text())["reasons"][0]["rule"] == "interrupted"
    assert "Interrupted." in capsys.readouterr().err


def test_the_batches_of_an_export_double_by_default(artifacts: Artifacts) -> None:
    assert EngineBench().plan(artifacts.manifest, artifacts.folder).batches == (1, 2, 4, 8)
    assert replace(ONCE, wishes=Wishes(precisions=("int8",))).plan(
        artifacts.manifest, artifacts.folder
    ).batches == (1, 2)
