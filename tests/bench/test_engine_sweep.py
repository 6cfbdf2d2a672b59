"""The order of a sweep, failures of engines, and the rows of a report, on fake engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_bench.engines.benchmark import (
    doubtful_limits,
    proofs_from_sweep,
    rows_above_limit,
    rows_from_sweep,
)
from alexnet_bench.engines.roofline import Layer
from alexnet_bench.engines.specs import EngineSpec
from alexnet_bench.engines.sweep import Sweep, SweepPlan, doubling_batches, run_sweep
from alexnet_bench.figures.percentiles import NEEDED
from alexnet_bench.schema import EngineRow, Roof
from alexnet_model.errors import ExportError, UsageError
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.records import PRECISIONS

from .sweep_fakes import FakeProcess, spec

Failing = Callable[[str, int], Exception | None]
LAYERS = dict.fromkeys(
    PRECISIONS, (Layer(name="gemm", multiply_adds=10**6, weights=1000, weight_bytes=4000, activations=100),)
)
ROOF = Roof(device="CPU", computes_in="f32", operations_per_s=1e9, bytes_per_s=1e9)


class FakeSweep:
    """One sweep over fake engines, with the log of their calls."""

    def __init__(
        self,
        *specs: EngineSpec,
        plan: SweepPlan,
        failing: dict[str, Failing] | None = None,
        other_models: tuple[str, ...] = (),
    ) -> None:
        self.log: list[str] = []
        self.processes: list[FakeProcess] = []
        self.progress: list[tuple[str, int, int]] = []
        self._failing = failing or {}
        self._other_models = other_models
        self.sweep: Sweep = run_sweep(
            specs, plan, self._open, self._report, after_repeat=lambda: self.log.append("after repeat")
        )

    def rows(self, *roofs: Roof) -> tuple[EngineRow, ...]:
        return rows_from_sweep(self.sweep, LAYERS, roofs)

    def _open(self, spec: EngineSpec, largest: int) -> FakeProcess:
        self.log.append(f"open {spec.precision} to {largest}")
        failing = self._failing.get(spec.precision, lambda verb, batch: None)
        is_the_model = spec.precision not in self._other_models
        self.processes.append(FakeProcess(spec, self.log, failing=failing, is_the_model=is_the_model))
        return self.processes[-1]

    def _report(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.progress.append((stage, done, total))


def failing_at(verb: str, error: Exception, *, batch: int = 0) -> Failing:
    return lambda called, at: error if (called, at) == (verb, batch) else None


def plan(*batches: int, repeats: int = 2) -> SweepPlan:
    return SweepPlan(batches=batches, repeats=repeats)


def test_every_repeat_measures_all_engines_and_batches_and_every_other_repeat_is_backwards() -> None:
    swept = FakeSweep(spec("fp32"), spec("int8"), plan=plan(4, 1, repeats=3))
    order = ["fp32 1", "int8 1", "fp32 4", "int8 4"]
    # All start at the same time; none is loaded while another one imports its libraries.
    assert swept.log[:2] == ["open fp32 to 4", "open int8 to 4"]
    assert swept.log[2:6] == ["start fp32", "start int8", "load fp32", "load int8"]
    assert swept.log[-2:] == ["describe fp32", "describe int8"]
    up, down = (
        [f"{verb} {what}" for what in turn for verb in ("warm up", "time")] for turn in (order, order[::-1])
    )
    assert swept.log[6:-2] == [*up, "after repeat", *down, "after repeat", *up, "after repeat"]
    assert not any(process.is_open for process in swept.processes)
    assert [step for step in swept.progress if step[0] == "measuring"][-1] == ("measuring", 12, 12)


def test_memory_is_from_the_first_repeat_before_any_larger_batch() -> None:
    swept = FakeSweep(spec("fp32"), plan=plan(1, 4, repeats=2))
    for number, part in enumerate(swept.sweep.engines[0].runs[1].repeats):
        swept.sweep.engines[0].runs[1].repeats[number] = part.model_copy(
            update={"peak_memory_bytes": 7 if number == 0 else 9_000}
        )
    assert swept.rows()[0].peak_memory_bytes == 7


def test_an_engine_is_not_measured_beyond_its_largest_batch() -> None:
    swept = FakeSweep(spec("fp32", max_batch=4), spec("int8"), plan=plan(8, 2))
    assert swept.log[0] == "open fp32 to 2"
    assert [(row.engine.precision, row.batch) for row in swept.rows()] == [
        ("fp32", 2),
        ("int8", 2),
        ("int8", 8),
    ]


def test_an_engine_that_takes_none_of_the_batches_is_left_out_without_opening_it() -> None:
    swept = FakeSweep(spec("fp32", max_batch=1), spec("int8"), plan=plan(2))
    assert "open fp32 to 0" not in swept.log
    (left_out,) = swept.sweep.left_out
    assert (left_out.what, left_out.why) == ("fp32 on openvino (CPU)", "it takes batches to 1")


def test_an_engine_that_does_not_load_does_not_affect_others() -> None:
    failing = {"fp32": failing_at("load", ExportError("a.onnx", got="nonsense"))}
    swept = FakeSweep(spec("fp32"), spec("int8"), plan=plan(1, 2), failing=failing)
    (left_out,) = swept.sweep.left_out
    assert (left_out.what, left_out.why) == ("fp32 on openvino (CPU)", "a.onnx: got nonsense")
    assert [row.engine.precision for row in swept.rows()] == ["int8", "int8"]


def test_an_engine_that_does_not_start_does_not_affect_others() -> None:
    failing = {"fp32": failing_at("start", ExportError("no such library"))}
    swept = FakeSweep(spec("fp32"), spec("int8"), plan=plan(1), failing=failing)
    (left_out,) = swept.sweep.left_out
    assert (left_out.what, left_out.why) == ("fp32 on openvino (CPU)", "no such library")
    assert "load fp32" not in swept.log
    assert [row.engine.precision for row in swept.rows()] == ["int8"]


def test_an_engine_with_and_without_copies_is_opened_and_loaded_once() -> None:
    swept = FakeSweep(spec("fp32"), spec("fp32", copies=True), plan=plan(2, repeats=1))
    assert [line for line in swept.log if line.startswith(("open", "load"))] == [
        "open fp32 to 2",
        "load fp32",
    ]
    called = ["warm up fp32 2", "time fp32 2", "warm up fp32 2 with copies", "time fp32 2 with copies"]
    assert [line for line in swept.log if line.startswith(("warm up", "time"))] == called
    assert [row.engine.options for row in swept.rows()] == ["", "with copies"]


def test_if_no_engine_loads_no_repeat_is_run() -> None:
    failing = {"fp32": failing_at("load", ExportError("a.onnx", got="nonsense"))}
    assert "after repeat" not in FakeSweep(spec("fp32"), plan=plan(1), failing=failing).log


@pytest.mark.parametrize("verb", ["warm up", "time"])
def test_an_engine_that_fails_keeps_its_finished_batches(verb: str) -> None:
    failing = {"fp32": failing_at(verb, ExportError("no memory"), batch=4)}
    swept = FakeSweep(spec("fp32"), spec("int8"), plan=plan(1, 4, 8), failing=failing)
    rows = [(row.engine.precision, row.batch, len(row.throughput.repeats)) for row in swept.rows()]
    assert rows == [("fp32", 1, 2), ("int8", 1, 2), ("int8", 4, 2), ("int8", 8, 2)]
    (left_out,) = swept.sweep.left_out
    assert (left_out.what, left_out.why) == ("fp32 on openvino (CPU) from batch 4 on", "no memory")
    assert swept.log.count(f"{verb} fp32 4") == 1
    assert "describe fp32" in swept.log


def test_the_batch_at_which_an_engine_failed_has_no_row() -> None:
    called: list[int] = []

    def second_slice(verb: str, batch: int) -> Exception | None:
        called.extend([batch] * (verb == "time"))
        return ExportError("no memory") if verb == "time" and called == [1, 4, 4] else None

    swept = FakeSweep(spec("fp32"), plan=plan(1, 4), failing={"fp32": second_slice})
    assert [(row.batch, len(row.throughput.repeats)) for row in swept.rows()] == [(1, 2)]


def test_an_engine_that_fails_twice_is_not_measured_again_and_keeps_its_repeats() -> None:
    died: list[str] = []

    def dead_from_4_on(verb: str, batch: int) -> Exception | None:
        died.extend([verb] * (batch == 4))
        return ExportError("its process ended") if died else None

    swept = FakeSweep(spec("fp32"), plan=plan(1, 2, 4, repeats=5), failing={"fp32": dead_from_4_on})
    assert [(row.batch, len(row.throughput.repeats)) for row in swept.rows()] == [(1, 1), (2, 1)]
    assert [left.what for left in swept.sweep.left_out] == [
        "fp32 on openvino (CPU) from batch 4 on",
        "fp32 on openvino (CPU): the rest of its repeats",
    ]
    assert len(died) == 1
    for row in swept.rows():
        failed, too_few = row.verdict.reasons
        assert (failed.rule, too_few.rule) == ("errors", "too few samples")
        assert failed.found == "its engine failed after 1 of 5 repeats: its process ended"
        assert too_few.found == "3 calls, where a median needs 11"


@pytest.mark.parametrize("repeat", [1, 2])
def test_only_rows_with_missing_repeats_are_invalid_after_a_failure(repeat: int) -> None:
    """It fails at batch 4 in one of two repeats; the second repeat goes backwards and measures 8 first."""
    called: list[str] = []

    def at_4(verb: str, batch: int) -> Exception | None:
        called.extend([verb] * (batch == 4))
        return ExportError("no memory") if batch == 4 and called.count("warm up") == repeat else None

    swept = FakeSweep(spec("fp32"), spec("int8"), plan=plan(1, 4, 8), failing={"fp32": at_4})
    found = {(row.engine.precision, row.batch): row.verdict for row in swept.rows()}
    assert all(verdict.is_valid for verdict in found.values())
    assert ("fp32", 8) in found if repeat == 2 else ("fp32", 8) not in found


def test_a_larger_batch_is_invalid_if_its_engine_failed_at_a_smaller_one_later() -> None:
    called: list[str] = []

    def second_at_4(verb: str, batch: int) -> Exception | None:
        called.extend([verb] * (batch == 4))
        return ExportError("no memory") if called == ["warm up", "time", "warm up"] and batch == 4 else None

    swept = FakeSweep(spec("fp32"), plan=plan(1, 4, 8, repeats=3), failing={"fp32": second_at_4})
    found = {row.batch: row for row in swept.rows()}
    assert found[1].verdict.is_valid
    (reason, too_few) = found[8].verdict.reasons
    assert reason.found == "its engine failed after 2 of 3 repeats: no memory"
    assert too_few.rule == "too few samples"


def test_every_engine_is_judged_once_at_the_end_with_copies_or_without() -> None:
    judging = replace(plan(1), judged_by=Path("/export"))
    swept = FakeSweep(spec("fp32"), spec("fp32", copies=True), spec("int8"), plan=judging)
    after = [line for line in swept.log if not line.startswith("describe")][-2:]
    assert after == ["judge fp32", "judge int8"]
    proofs = proofs_from_sweep(swept.sweep)
    assert [(proof.engine.precision, proof.accepted) for proof in proofs] == [("fp32", True), ("int8", True)]
    assert all(row.verdict.is_valid for row in swept.rows())
    assert ("gate", 3, 3) in swept.progress


def test_only_rows_of_an_engine_that_the_gate_refuses_are_invalid() -> None:
    judging = replace(plan(1, 2), judged_by=Path("/export"))
    swept = FakeSweep(spec("fp32"), spec("int8"), plan=judging, other_models=("int8",))
    found = {(row.engine.precision, row.batch): row.verdict for row in swept.rows()}
    assert {key for key, verdict in found.items() if verdict.is_valid} == {("fp32", 1), ("fp32", 2)}
    (reason,) = found["int8", 2].reasons
    assert reason.rule == "wrong answers"
    assert "differ too much from the trained model's: logits are 12.0 dB above their error" in reason.found


def test_only_rows_of_an_engine_that_cannot_be_judged_are_invalid() -> None:
    judging = replace(plan(1), judged_by=Path("/export"))
    failing = {"fp32": failing_at("judge", ExportError("killed by signal 9"))}
    swept = FakeSweep(spec("fp32"), spec("int8"), plan=judging, failing=failing)
    unjudged, other = swept.rows()
    (reason,) = unjudged.verdict.reasons
    assert reason.rule == "not judged"
    assert reason.found == "the accuracy gate could not check it: killed by signal 9"
    assert other.verdict.is_valid
    assert [proof.engine.precision for proof in proofs_from_sweep(swept.sweep)] == ["int8"]


def test_an_engine_that_failed_twice_is_not_judged() -> None:
    """It fails in its last repeat, so some of its rows have all repeats."""
    called: list[str] = []

    def at_last(verb: str, batch: int) -> Exception | None:
        called.extend([verb] * (batch == 1))
        return ExportError("killed by signal 9") if len(called) > 2 or batch == 4 else None

    judging = replace(plan(1, 2, 4), judged_by=Path("/export"))
    swept = FakeSweep(spec("fp32"), plan=judging, failing={"fp32": at_last})
    assert not any(line.startswith("judge") for line in swept.log)
    rules = {row.batch: [reason.rule for reason in row.verdict.reasons] for row in swept.rows()}
    assert rules == {1: ["errors", "not judged", "too few samples"], 2: ["not judged"]}
    assert "it had failed before (killed by signal 9)" in str(swept.rows()[1].verdict.reasons[0])


def test_rows_are_valid_without_judging() -> None:
    swept = FakeSweep(spec("fp32"), plan=plan(1))
    assert [row.verdict.is_valid for row in swept.rows()] == [True]


@pytest.mark.parametrize(("device", "is_valid"), [("NVIDIA H200", False), ("CPU", True)])
def test_a_row_of_a_gpu_that_the_cpu_computed_is_invalid(device: str, is_valid: bool) -> None:
    swept = FakeSweep(spec("fp32"), plan=plan(1))
    swept.sweep.engines[0].runtime = RuntimeInfo(
        name="onnxruntime", device=device, computes_in="f16+f32 on the CPU"
    )
    (row,) = swept.rows()
    assert row.verdict.is_valid == is_valid
    assert [reason.rule for reason in row.verdict.reasons] == ([] if is_valid else ["not on the GPU"])


def test_an_engine_that_ended_has_no_known_precision_and_no_limit() -> None:
    failing = {"fp32": failing_at("describe", ExportError("gone"))}
    swept = FakeSweep(spec("fp32"), plan=plan(1), failing=failing)
    (row,) = swept.rows(ROOF)
    assert (row.engine.runtime, row.engine.device, row.engine.computes_in) == ("openvino", "CPU", "unknown")
    assert (row.limit_ms, row.bound_by, row.share_of_limit) == (None, "unknown", None)


def test_an_interrupt_keeps_the_finished_repeats() -> None:
    class Interrupting:
        calls = 0

        def __call__(self, verb: str, batch: int) -> Exception | None:
            self.calls += (verb, batch) == ("time", 2)
            if self.calls == 2:
                self.calls += 1
                raise KeyboardInterrupt
            return None

    swept = FakeSweep(spec("fp32"), spec("int8"), plan=plan(1, 2, 4), failing={"fp32": Interrupting()})
    assert swept.sweep.is_interrupted
    rows = [(row.engine.precision, row.batch, len(row.throughput.repeats)) for row in swept.rows()]
    assert rows == [
        *(("fp32", 1, 1), ("fp32", 2, 1), ("fp32", 4, 2)),
        *(("int8", 1, 1), ("int8", 2, 2), ("int8", 4, 2)),
    ]
    assert swept.log[-2:] == ["describe fp32", "describe int8"]
    assert not any(process.is_open for process in swept.processes)
    # The run was interrupted; no engine failed.
    rules = {reason.rule for row in swept.rows() for reason in row.verdict.reasons}
    assert rules == {"too few samples"}


def test_an_interrupt_before_judging_leaves_rows_that_are_not_judged() -> None:
    def interrupted(verb: str, batch: int) -> None:
        if verb == "judge":
            raise KeyboardInterrupt

    judging = replace(plan(1), judged_by=Path("/export"))
    (row,) = FakeSweep(spec("fp32"), plan=judging, failing={"fp32": interrupted}).rows()
    (reason,) = row.verdict.reasons
    assert (reason.rule, reason.found.rpartition(": ")[2]) == ("not judged", "the run was stopped before")


def test_an_interrupt_while_loading_leaves_no_rows_and_no_open_engine() -> None:
    def interrupted(verb: str, batch: int) -> None:
        raise KeyboardInterrupt

    swept = FakeSweep(spec("fp32"), spec("int8"), plan=plan(1), failing={"int8": interrupted})
    assert swept.sweep.is_interrupted
    assert swept.rows() == ()
    assert not any(process.is_open for process in swept.processes)


def test_a_row_combines_all_repeats_and_has_its_share_of_the_limit() -> None:
    swept = FakeSweep(spec("fp32"), plan=plan(2, repeats=3))
    (row,) = swept.rows(ROOF)
    assert row.throughput.repeats == (200, 200, 200)
    assert row.throughput.unit == "images/s"
    assert row.latencies.samples == 3 * 4
    assert row.latencies.p50_ms == pytest.approx(10, rel=1e-3)
    assert (row.load_ms, row.first_call_ms) == (100, 20)
    assert (row.size_bytes, row.peak_memory_bytes) == (1000, 2 * 10**6)
    assert row.limit_ms == pytest.approx(4)  # two images of a million multiply-adds
    assert row.bound_by == "compute"
    assert row.share_of_limit == pytest.approx(0.4, rel=1e-3)
    assert EngineRow.model_validate_json(row.model_dump_json()) == row


def test_a_row_too_close_to_its_limit_is_kept_and_its_limit_is_doubted() -> None:
    rows = FakeSweep(spec("fp32"), spec("int8"), plan=plan(1, 2, 4)).rows(ROOF)  # 20%, 40% and 80%
    assert doubtful_limits(rows) == ()
    lower = ROOF.model_copy(update={"operations_per_s": 4e8})  # 50%, 100% and 200%
    rows = FakeSweep(spec("fp32"), plan=plan(1, 2, 4)).rows(lower)
    (doubtful,) = doubtful_limits(rows)
    assert doubtful.what.endswith("a reliable share of the limit at batch 2")
    assert rows_above_limit(rows) == "fp32 on openvino (CPU, computes in f32) at batch 4"
    assert "likely measured too low" in doubtful.why
    assert all(row.verdict.is_valid for row in rows)
    at_95 = ROOF.model_copy(update={"operations_per_s": 4e8 / 0.96})  # 96% at batch 2
    assert doubtful_limits(FakeSweep(spec("fp32"), plan=plan(2)).rows(at_95)) != ()


@pytest.mark.parametrize("repeats", range(1, 13))
def test_all_repeats_together_have_enough_calls_for_a_median(repeats: int) -> None:
    chosen = plan(1, repeats=repeats)
    assert chosen.calls * repeats >= NEEDED["p50"] > (chosen.calls - 1) * repeats


@pytest.mark.parametrize(
    ("largest", "batches"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (64, (1, 2, 4, 8, 16, 32, 64))]
)
def test_batches_double_to_the_largest(largest: int, batches: tuple[int, ...]) -> None:
    assert doubling_batches(largest) == batches


@pytest.mark.parametrize(
    "values",
    [
        {"batches": ()},
        {"batches": (0,)},
        {"batches": (1, 1)},
        {"batches": (1,), "repeats": 0},
        {"batches": (1,), "seconds": 0.0},
        {"batches": (1,), "seconds": np.inf},
        {"batches": (1,), "seconds": np.nan},
        {"batches": (1,), "burn_in_s": -1.0},
    ],
)
def test_plans_out_of_range_are_an_error(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SweepPlan(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0.0, -1.0, np.inf, np.nan])
def test_lengths_are_finite_numbers_above_0(seconds: float) -> None:
    with pytest.raises(UsageError, match=rf"seconds: got {seconds:g}, expected a finite number above 0"):
        SweepPlan(batches=(1,), seconds=seconds)
