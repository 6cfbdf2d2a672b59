from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alexnet_bench.figures.intervals import Figure, figure_from_repeats
from alexnet_bench.figures.verdicts import (
    Verdict,
    control_reason,
    errors_reason,
    saturation_reason,
    verdict_from,
)
from alexnet_bench.reports.comparing import Compared, Comparison, comparison_of
from alexnet_bench.reports.files import write_report
from alexnet_bench.reports.schema import EngineRow, LoadRow, Report
from alexnet_cli.main import run
from alexnet_model.errors import ReportError, UsageError

from .reports_for_tests import (
    H200,
    engine,
    engine_row,
    engine_rows,
    environment,
    gpu,
    held_rate,
    load_row,
    load_rows,
    repeats,
    report,
)

BUSY = verdict_from(saturation_reason(0.97))


def figure(value: float, *, noise: float = 0.01, count: int = 5, seed: int = 9) -> Figure:
    return figure_from_repeats(repeats(value, noise=noise, count=count, seed=seed), "pictures/s")


def with_engines(*rows: EngineRow, **changes: Any) -> Report:
    return report(engines=rows, loads=(), held_rates=(), **changes)


def with_loads(*rows: LoadRow, **changes: Any) -> Report:
    return report(engines=(), loads=rows, held_rates=(), **changes)


def compared(before: Report, after: Report, *, tolerance: float = 0.05) -> Comparison:
    return comparison_of(before, after, tolerance=tolerance)


def only_row(comparison: Comparison) -> Compared:
    (row,) = comparison.rows
    return row


def test_two_runs_that_differ_by_their_noise_are_no_different() -> None:
    before = report()
    again = tuple(
        row.model_copy(update={"throughput": figure(row.throughput.value, seed=index)})
        for index, row in enumerate(engine_rows())
    )
    comparison = compared(before, report(engines=again))
    assert comparison.exit_code == 0
    assert comparison.verdict.startswith("no difference beyond 5% in 81 rows (median ratio 1.0")
    assert comparison.verdict.endswith(" Not judged: 3.")  # two INVALID loads, and a rate that was searched
    assert len(comparison.rows) == 49 + 34 + 1
    assert (comparison.only_before, comparison.only_after) == ((), ())


@pytest.mark.parametrize(
    ("ratio", "found", "exit_code"), [(0.8, "slower", 1), (1.25, "faster", 0), (0.97, "no difference", 0)]
)
def test_an_engine_is_judged_by_throughput(ratio: float, found: str, exit_code: int) -> None:
    before = with_engines(engine_row(throughput=figure(400)))
    after = with_engines(engine_row(throughput=figure(400 * ratio, seed=4)))
    comparison = compared(before, after)
    row = only_row(comparison)
    assert (row.found, comparison.exit_code) == (found, exit_code)
    assert row.ratio == pytest.approx(ratio, rel=0.02)
    assert row.ratio is not None
    assert row.low is not None
    assert row.high is not None
    assert row.low <= row.ratio <= row.high
    assert (row.group, row.row) == ("in process: int8 on openvino (CPU, computes in i8)", "batch 32")


def test_a_change_that_its_interval_does_not_rule_out_is_none() -> None:
    """The medians are 10% apart, and so are the repeats of each."""
    before = with_engines(engine_row(throughput=figure_from_repeats([100, 90, 110, 95, 105], "pictures/s")))
    after = with_engines(engine_row(throughput=figure_from_repeats([90, 80, 104, 85, 101], "pictures/s")))
    row = only_row(compared(before, after))
    assert row.ratio == pytest.approx(0.9)
    assert row.found == "no difference"


def test_the_tolerance_is_the_callers() -> None:
    before, after = (with_engines(engine_row(throughput=figure(value))) for value in (400, 360))
    assert compared(before, after, tolerance=0.05).exit_code == 1
    assert compared(before, after, tolerance=0.15).exit_code == 0
    for tolerance in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="tolerance"):
            compared(before, after, tolerance=tolerance)


@pytest.mark.parametrize(("median_ms", "found"), [(10.0, "no difference"), (14.0, "slower"), (7.0, "faster")])
def test_an_open_loop_is_judged_by_its_median_latency(median_ms: float, found: str) -> None:
    """Its throughput is what it was told to be."""
    before, after = (
        with_loads(load_row(100, None, rate_per_s=100, median_ms=ms, seed=seed))
        for seed, ms in enumerate((10.0, median_ms))
    )
    row = only_row(compared(before, after))
    assert (row.figure, row.unit, row.found) == ("median latency", "ms", found)
    assert row.after == pytest.approx(median_ms, rel=0.02)


def test_a_closed_loop_is_judged_by_throughput_and_shows_its_tail() -> None:
    before, after = (with_loads(load_row(340, 16, median_ms=ms)) for ms in (40.0, 60.0))
    row = only_row(compared(before, after))
    assert (row.figure, row.found) == ("throughput", "no difference")
    assert row.p99_before_ms is not None
    assert row.p99_after_ms == pytest.approx(1.5 * row.p99_before_ms, rel=0.01)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_invalid_row_is_shown_and_counts_neither_way(when: str) -> None:
    verdicts = (BUSY, Verdict()) if when == "before" else (Verdict(), BUSY)
    before, after = (
        with_loads(load_row(rate, 16, verdict=verdict, samples=700), load_row(50, 1, samples=700))
        for rate, verdict in zip((340, 200), verdicts, strict=True)
    )
    comparison = compared(before, after)
    row = comparison.rows[0]
    assert row.found == "not judged"
    assert row.ratio == pytest.approx(200 / 340, rel=0.02)
    assert row.why_not[0].startswith(f"INVALID {when}: client saturated")
    assert comparison.exit_code == 0
    assert ("became INVALID" in comparison.verdict) == (when == "after")
    assert "Not judged: 1" in comparison.verdict


def test_where_nothing_can_be_judged_nothing_has_passed() -> None:
    wrong = verdict_from(errors_reason(3, 100, "a full queue"))
    before, after = with_loads(load_row(samples=700)), with_loads(load_row(samples=700, verdict=wrong))
    comparison = compared(before, after)
    assert comparison.exit_code == 2
    assert comparison.verdict.startswith("nothing could be judged")
    assert compared(with_engines(), with_engines()).exit_code == 2


def test_an_invalid_run_is_of_invalid_rows() -> None:
    reason = control_reason(1e11, 8e10)
    assert reason is not None
    after = report(engines=(engine_row(200),), loads=(load_row(200),), held_rates=(), reasons=(reason,))
    before = report(engines=(engine_row(400),), loads=(load_row(400),), held_rates=())
    comparison = compared(before, after)
    assert [(row.invalid_before, row.invalid_after) for row in comparison.rows] == [(False, True)] * 2
    assert comparison.against == (f"INVALID after: {reason}",)
    assert [row.why_not for row in comparison.rows] == [()] * 2
    assert comparison.exit_code == 2


def test_one_repeat_has_no_interval() -> None:
    one = with_engines(engine_row(throughput=figure_from_repeats([400.0], "pictures/s")))
    row = only_row(compared(one, with_engines(engine_row(200))))
    assert (row.found, row.why_not) == ("not judged", ("one repeat has no interval",))


def test_a_repeat_that_answered_nothing_divides_nothing() -> None:
    none = with_engines(engine_row(throughput=figure_from_repeats([0.0, 0.0, 0.0], "pictures/s")))
    row = only_row(compared(none, with_engines(engine_row(200))))
    assert (row.found, row.ratio) == ("not judged", None)


def test_a_searched_rate_is_shown_only() -> None:
    before, after = (report(engines=(), loads=(), held_rates=(held_rate(rate),)) for rate in (268, 200))
    row = only_row(compared(before, after))
    assert row.found == "not judged"
    assert "a search goes in steps" in row.why_not[0]
    gone = compared(before, report(engines=(), loads=(), held_rates=(held_rate(None),)))
    assert "p99 within 25 ms" in gone.only_before[0]


def test_rows_that_only_one_has_are_listed() -> None:
    before = with_engines(engine_row(), engine_row(batch=1), engine_row(of=engine(options="CUDA graphs")))
    after = with_engines(engine_row(), engine_row(batch=2), engine_row(of=engine(computes_in="f32")))
    comparison = compared(before, after)
    assert len(comparison.rows) == 1
    assert [name.rpartition(", ")[2] for name in comparison.only_before] == ["batch 1", "batch 32"]
    assert "CUDA graphs" in comparison.only_before[1]
    assert "computes in f32" in comparison.only_after[1]


def test_what_was_measured_twice_is_matched_in_turn() -> None:
    twice = [load_row(rate, 16, samples=700) for rate in (300, 200)]
    comparison = compared(with_loads(*twice), with_loads(*twice, load_row(100, 16, samples=700)))
    assert [row.ratio for row in comparison.rows] == [1, 1]
    assert len(comparison.only_after) == 1


def test_the_environments_differences_are_listed() -> None:
    after = environment(
        load_1_min=3.4,
        commit="feedbeef0123+changes",
        versions=environment().versions | {"openvino": "2026.5.0"},
    )
    comparison = compared(with_engines(engine_row()), with_engines(engine_row(), environment=after))
    assert [(fact.name, fact.before, fact.after) for fact in comparison.environment] == [
        ("load before", "0.12 (1 min)", "3.4 (1 min)"),
        ("commit", "0123456789ab", "feedbeef0123+changes"),
        ("openvino", "2026.4.1", "2026.5.0"),
    ]


def test_a_machine_that_was_slower_itself_is_named() -> None:
    comparison = compared(
        with_engines(engine_row(400)),
        with_engines(engine_row(300), control_before=7.9e10, control_after=8.0e10),
    )
    assert comparison.exit_code == 1
    assert "The machine itself ran 0.79 times as fast: measure again on a quiet one." in comparison.verdict


def test_different_devices_are_not_ranked_unless_asked() -> None:
    on_gpu = engine("fp16", "tensorrt", device=H200)
    before = with_engines(engine_row(9800, of=on_gpu), environment=environment(gpus=(gpu(),)))
    other = gpu().model_copy(update={"name": "NVIDIA L4"})
    after = with_engines(
        engine_row(2100, of=on_gpu.model_copy(update={"device": "NVIDIA L4"})),
        environment=environment(gpus=(other,)),
    )
    with pytest.raises(UsageError, match=f"different devices, .*{H200} and .*NVIDIA L4.*--across-devices"):
        compared(before, after)
    row = only_row(comparison_of(before, after, tolerance=0.05, across_devices=True))
    assert row.ratio == pytest.approx(2100 / 9800, rel=0.02)


def test_a_broken_histogram_is_named() -> None:
    broken = with_loads(load_row(100, None, rate_per_s=100, samples=50, histogram="x"))
    with pytest.raises(ReportError, match="histogram of alexnet_int8"):
        compared(broken, broken)


class TestCommand:
    """`alexnet compare`, and its exit codes for CI."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> list[str]:
        before = report(engines=engine_rows()[-2:], loads=load_rows()[-6:])
        slower = before.engines[0].model_copy(update={"throughput": figure(30)})
        after = before.model_copy(update={"engines": (slower, *before.engines[1:])})
        for name, found in (("before", before), ("after", after)):
            write_report(tmp_path / f"{name}.json", found)
        return [str(tmp_path / f"{name}.json") for name in ("before", "after")]

    def test_slower_is_1_and_the_other_way_round_0(
        self, files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("alexnet_cli.screen.out._width", 80)
        assert run(["compare", *files]) == 1
        shown = capsys.readouterr().out
        assert shown.splitlines()[-1].startswith("Verdict: slower in 1 of 7 rows, furthest in process: int8")
        assert "INVALID" in shown
        assert "control work: 1.000 times as fast" in shown
        assert run(["compare", *reversed(files)]) == 0
        assert run(["compare", files[0], files[0]]) == 0
        assert "no difference beyond 10%" in capsys.readouterr().out

    def test_json_holds_all_of_it(self, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["compare", *files, "--json"]) == 1
        found = Comparison.model_validate(json.loads(capsys.readouterr().out))
        assert found.exit_code == 1
        assert {row.found for row in found.rows} == {"slower", "no difference", "not judged"}

    @pytest.mark.parametrize("broken", ["{", '{"schema_version": 0}', None])
    def test_what_is_no_report_is_2_and_one_line(
        self, files: list[str], broken: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "broken.json"
        if broken is not None:
            path.write_text(broken)
        assert run(["compare", files[0], str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"Error: {path}")
        assert captured.err.count("\n") == 1

    def test_wrong_usage_is_2(self, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["compare", files[0]]) == 2
        assert run(["compare", *files, "--tolerance", "2"]) == 2
        assert run(["compare", *files, "--tolerance", "nan"]) == 2
        assert "tolerance: got nan, expected 0 or more, below 1" in capsys.readouterr().err

    def test_a_page_and_the_tables_of_reports(
        self, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        page = tmp_path / "page.html"
        assert run(["bench", "report", files[0], "--html", str(page)]) == 0
        assert page.read_text().startswith("<!doctype html>")
        assert capsys.readouterr().out == ""
        assert run(["bench", "report", files[0]]) == 0
        assert "Engines in process" in capsys.readouterr().out
        assert run(["bench", "report", *files]) == 2  # two runs of the same
        assert run(["bench", "report", str(page)]) == 2
