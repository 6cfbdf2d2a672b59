from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from alexnet_bench.figures.intervals import figure_from_repeats
from alexnet_bench.figures.percentiles import NEEDED, LatencyHistogram
from alexnet_bench.figures.verdicts import verdict_from, wrong_model_reason
from alexnet_bench.reports.names import in_short
from alexnet_bench.reports.parts.breakdown import BREAKDOWN
from alexnet_bench.reports.parts.engines import ENGINES
from alexnet_bench.reports.parts.loads import mean_batch
from alexnet_bench.reports.table_models import figure_cell, percentile_cell
from alexnet_bench.reports.tables import renderables_from_report
from alexnet_bench.schema import FigureRow, LatencyStep, Proof, Report
from alexnet_model.records import Precision

from .reports_for_tests import (
    H200,
    engine,
    engine_row,
    figure_rows,
    held_rate,
    histogram,
    load_row,
    report,
    report_of_two_devices,
)
from .sweep_fakes import judged


def shown(report: Report, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for part in renderables_from_report(report):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def report_of_figures() -> Report:
    return report(engines=(), loads=(), figures=figure_rows())


@pytest.mark.parametrize("make", [report, report_of_two_devices, report_of_figures])
def test_everything_fits_in_80_columns_uncut(make: Callable[[], Report]) -> None:
    lines = shown(make())
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]


def test_a_row_has_its_figure_interval_and_share() -> None:
    rows = (engine_row(472, 32), engine_row(204, 1, latencies=histogram(4.9, 500).latencies()))
    lines = shown(report(engines=rows, loads=(), breakdown=()))
    figure = rows[0].throughput
    (line,) = [line for line in lines if line.split()[:1] == ["32"]]
    assert figure.low is not None
    assert figure.high is not None
    assert f"{in_short(figure.value)} ({in_short(figure.low)} to {in_short(figure.high)})" in line
    assert f"{rows[0].share_of_limit:.0%} compute" in line
    assert any("needs 662" in line for line in lines)  # of the one with 500 samples


def test_each_group_names_its_engine_and_columns_are_aligned() -> None:
    rows = (engine_row(), engine_row(of=engine("fp32", "torch", options="eager"), per_s=9.5))
    lines = shown(report(engines=rows, loads=(), breakdown=(), roofs=(), cold_starts=(), tuning=None))
    assert "int8 on openvino (CPU, computes in i8)" in lines
    assert "fp32 on torch (CPU, computes in f32, eager)" in lines
    assert sum("images/s" in line for line in lines) == 1  # the heading
    first, second = (line for line in lines if line.split()[:1] == ["32"])
    assert first.index(" compute") == second.index(" compute")


def test_an_invalid_load_says_why_and_what_to_do() -> None:
    text = " ".join(" ".join(shown(report())).split())
    assert "INVALID" in text
    assert "client saturated: a process of the load generator used 97% of a core. Use more worker" in text
    rows = len(report().loads) + len(report().engines)
    assert f"VALID, {rows - 2} of {rows} rows are VALID" in text


def test_proofs_have_their_figures_and_rows_of_a_refused_engine_are_invalid() -> None:
    right = Proof(engine=engine("fp32"), **dict(judged()))
    wrong = Proof(engine=engine("int8"), **dict(judged(accepted=False)))
    reason = wrong_model_reason(wrong.reason)
    assert reason is not None
    row = engine_row().model_copy(update={"verdict": verdict_from(reason)})
    lines = shown(
        report(engines=(row,), proofs=(right, wrong), loads=(), breakdown=(), roofs=(), tuning=None)
    )
    assert "CPU, 360 images of digits (test)" in lines
    words = [" ".join(line.split()) for line in lines]
    assert "fp32 openvino yes 120.0 200.0 100.0% 97.5%" in words
    assert "int8 openvino NO 12.0 200.0 100.0% 97.5%" in words
    assert "int8 openvino: logits are 12.0 dB above their error, at least 30 needed" in " ".join(lines)
    assert "wrong answers: its outputs differ too much" in " ".join(lines)
    assert all(len(line) <= 80 for line in lines)


def test_the_breakdown_says_what_int8_gains_in_the_engine_and_at_the_client() -> None:
    def step(precision: Precision, name: str, ms: float, source: str) -> LatencyStep:
        total = figure_from_repeats([ms], "ms")
        of = f"{precision}, batch 1"
        return LatencyStep(
            name=name,
            of=of,
            engine=engine(precision),
            total=total,
            added_ms=ms,
            request_bytes=0,
            source=source,
        )

    breakdown = (
        step("fp32", "engine", 6.0, "in process"),
        step("fp32", "gRPC", 8.0, "client"),
        step("int8", "engine", 2.0, "in process"),
        step("int8", "+ queue", 3.0, "server"),
        step("int8", "gRPC", 4.0, "client"),
    )
    words = " ".join(" ".join(shown(report(breakdown=breakdown, loads=(), engines=(), tuning=None))).split())
    assert "At batch 1 the INT8 engine is 3.00 times as fast as FP32 (2.00 ms against 6.00 ms)" in words
    assert "A client sees 2.00 (gRPC) times as fast" in words
    for part in (breakdown[:2], breakdown[2:]):
        assert list(BREAKDOWN.sentences(part)) == []


def test_an_invalid_run_says_so_last() -> None:
    lines = shown(report_of_two_devices())
    assert any(line.startswith("INVALID, the whole run; AMD") for line in lines[-6:])
    assert "machine busy" in " ".join(lines[-3:])
    assert not [line for line in lines if " VALID " in line and "VALID (run INVALID)" not in line]
    loads = report_of_two_devices().loads
    assert sum("VALID (run INVALID)" in line for line in lines) == len(loads)


def test_a_cold_start_has_a_row_for_each_batch_and_one_ready_time() -> None:
    lines = shown(report(engines=(), loads=(), breakdown=(), tuning=None))
    start = lines.index("Cold start")
    rows = [" ".join(line.split()) for line in lines[start + 4 : start + 7]]
    without = report().cold_starts[0]
    ready, first = (figure_cell(figure) for figure in (without.ready_ms, without.first_ms[1]))
    assert rows[0].startswith(f"no {ready.text} ({ready.small}) 1 {first.text} ({first.small}) ")
    assert [row.partition(" (")[0] for row in rows[1:]] == ["no 8 131", "no 32 240"]
    assert " to " in rows[1]


def test_an_empty_report_has_a_verdict() -> None:
    empty = report(
        engines=(), loads=(), breakdown=(), roofs=(), held_rates=(), cold_starts=(), tuning=None, left_out=()
    )
    assert shown(empty)[0].startswith("VALID; ")


def test_markup_in_a_name_is_shown_as_text() -> None:
    row = load_row(model="[red]alexnet[/red]", samples=50)
    assert any("[red]alexnet[/red] over grpc" in line for line in shown(report(loads=(row,))))


def test_refused_percentiles_say_how_many_samples_they_need() -> None:
    few = LatencyHistogram()
    few.record_all([5.0] * 100)
    cells = [percentile_cell(few.latencies(), name) for name in NEEDED]
    assert [cell.kind for cell in cells] == ["plain", "plain", "refused", "refused", "refused"]
    assert [f"{cell.text} {cell.small}" for cell in cells[2:]] == [
        "needs 130 samples",
        "needs 662 samples",
        "needs 6,636 samples",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (123456.7, "123,457"),
        (472.4, "472"),
        (47.24, "47.2"),
        (4.724, "4.72"),
        (0.4724, "0.472"),
        (0, "0.000"),
    ],
)
def test_figures_have_three_significant_digits(value: float, text: str) -> None:
    assert in_short(value) == text


def test_the_mean_batch_is_over_executions() -> None:
    assert mean_batch({1: 3, 5: 1}) == 2
    assert mean_batch({}) is None


def test_a_run_without_a_valid_row_is_invalid() -> None:
    reason = wrong_model_reason("another model")
    row = engine_row().model_copy(update={"verdict": verdict_from(reason)})
    lines = shown(report(engines=(row,), loads=(), breakdown=(), roofs=(), tuning=None))
    assert any(line.startswith("INVALID, 0 of 1 rows are VALID") for line in lines)


def test_a_search_without_probes_has_a_reason_and_no_table() -> None:
    alone = held_rate(None, probes=(), words="no rate stays within 1 ms: one request takes 5 ms (median)")
    lines = shown(
        report(engines=(), loads=(), breakdown=(), cold_starts=(), tuning=None, held_rates=(alone,))
    )
    assert "one request takes 5 ms" in " ".join(lines)
    assert not [line for line in lines if line.split()[:1] == ["rate"]]


def test_a_figure_is_shown_with_its_target_and_whether_it_is_reached() -> None:
    words = [" ".join(line.split()) for line in shown(report_of_figures())]
    ratio, call, imported = (row.figure for row in figure_rows())
    cells = [figure_cell(figure) for figure in (ratio, call)]
    assert f"folder / served alone {cells[0].text} times ({cells[0].small}) at least 0.9 yes" in words
    assert f"a call {cells[1].text} us ({cells[1].small}) at most 150 NO" in words
    assert f"import {in_short(imported.value)} ms (1 repeat) - -" in words


@pytest.mark.parametrize(
    ("changes", "target", "reached"),
    [
        ({}, "", None),
        ({"at_least": 99.0}, "at least 99", True),
        ({"at_most": 99.0}, "at most 99", False),
        ({"at_least": 90.0, "at_most": 110.0}, "90 to 110", True),
        ({"at_most": 105.0}, "at most 105", True),
        ({"at_most": 105.0, "every_repeat": True}, "at most 105, every repeat", False),
    ],
)
def test_a_target_is_reached_by_the_median_or_by_every_repeat(
    changes: dict[str, Any], target: str, reached: bool | None
) -> None:
    figure = figure_from_repeats([90, 100, 110], "ms")
    row = FigureRow.model_validate({"name": "n", "of": "o", "figure": figure, **changes})
    assert (row.target, row.reached) == (target, reached)
    written = row.model_dump(mode="json")
    assert written["reached"] == reached
    assert FigureRow.model_validate(written) == row


def test_the_table_says_what_is_computed_in_float_and_whose_memory_it_is() -> None:
    in_float = engine("int8", "onnxruntime", device=H200, computes_in="f32")
    rows = (
        engine_row(9000, of=in_float, memory_of="device"),
        engine_row(5000, of=engine("fp16", "onnxruntime", device=H200, computes_in="f16")),
    )
    text = " ".join(" ".join(shown(report(engines=rows, loads=(), breakdown=()))).split())
    assert text.count("onnxruntime computes INT8 files in float on a GPU, so INT8 is no speed-up here.") == 1
    assert text.count("Its memory is what the whole GPU had less free") == 1
    on_cpu = engine_row(900, of=engine("int8", "onnxruntime", computes_in="f32"))
    assert "in float" not in " ".join(shown(report(engines=(on_cpu,), loads=(), breakdown=())))


def test_an_int8_file_computed_in_float_on_a_gpu_is_no_highlight() -> None:
    in_float = engine_row(9000, of=engine("int8", "onnxruntime", device=H200, computes_in="f32"))
    in_half = engine_row(5000, of=engine("fp16", "onnxruntime", device=H200, computes_in="f16"))
    best = next(iter(ENGINES.highlights([in_float, in_half])))
    assert "fp16 on onnxruntime" in best.of
    assert list(ENGINES.highlights([in_float])) == []
