from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_bench.figures.intervals import Figure, figure_from_repeats
from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.figures.verdicts import (
    Reason,
    Verdict,
    calibration_reason,
    errors_reason,
    saturation_reason,
    verdict_from,
)
from alexnet_bench.reports.comparing import Compared, Comparison, compare_reports
from alexnet_bench.reports.comparison_rows import SEARCH_STEP
from alexnet_bench.reports.distributions import distribution_of
from alexnet_bench.reports.files import write_report
from alexnet_bench.schema import EngineRow, LoadRow, Report
from alexnet_cli.compare import compare_command
from alexnet_cli.main import run
from alexnet_model.errors import ReportError, UsageError

from .reports_for_tests import (
    H200,
    breakdown,
    cold_starts,
    engine,
    engine_row,
    engine_rows,
    environment,
    figure_rows,
    gpu,
    held_rate,
    load_row,
    load_rows,
    repeats,
    report,
    report_of_two_devices,
    tuning,
)

BUSY = verdict_from(saturation_reason(0.97))


def figure(value: float, *, noise: float = 0.01, count: int = 5, seed: int = 9) -> Figure:
    return figure_from_repeats(repeats(value, noise=noise, count=count, seed=seed), "images/s")


def with_only(**parts: Any) -> Report:
    """A report of these parts; the others are empty."""
    empty: dict[str, Any] = dict.fromkeys(("engines", "loads", "held_rates", "breakdown", "cold_starts"), ())
    return report(**{**empty, "tuning": None, **parts})


def with_engines(*rows: EngineRow, **changes: Any) -> Report:
    return with_only(engines=rows, **changes)


def with_loads(*rows: LoadRow, **changes: Any) -> Report:
    return with_only(loads=rows, **changes)


def compared(before: Report, after: Report, *, tolerance: float = 0.05) -> Comparison:
    return compare_reports(before, after, tolerance=tolerance)


def only_row(comparison: Comparison) -> Compared:
    (row,) = comparison.rows
    return row


def test_runs_that_differ_only_by_noise_have_no_difference() -> None:
    of = {"breakdown": (), "cold_starts": (), "engines": engine_rows()}
    again = tuple(
        row.model_copy(update={"throughput": figure(row.throughput.value, seed=index)})
        for index, row in enumerate(engine_rows())
    )
    comparison = compared(report(**of), report(**{**of, "engines": again}))
    assert comparison.exit_code == 0
    tails = sum(row.figure == "p99 latency" for row in comparison.rows)
    searched = 2  # a held rate, and tuning's
    assert len(comparison.rows) == 49 + 34 + tails + searched
    assert comparison.summary.startswith(
        f"no difference beyond 5% in {len(comparison.rows) - 2} rows (median ratio 1.0"
    )
    assert comparison.summary.endswith("). Not judged: 2.")  # INVALID loads
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


def test_a_change_within_its_interval_is_no_difference() -> None:
    """The medians are 10% apart, and so are the repeats of each."""
    before = with_engines(engine_row(throughput=figure_from_repeats([100, 90, 110, 95, 105], "images/s")))
    after = with_engines(engine_row(throughput=figure_from_repeats([90, 80, 104, 85, 101], "images/s")))
    row = only_row(compared(before, after))
    assert row.ratio == pytest.approx(0.9)
    assert row.found == "no difference"


@pytest.mark.parametrize(
    ("after", "found", "exit_code"),
    [
        ((101, 102, 103, 104, 105), "no difference", 0),  # clearly more, but not by the tolerance
        ((104, 105, 112, 113, 114), "perhaps faster", 0),
        ((112, 113, 114, 115, 116), "faster", 0),
        ((86, 87, 88, 96, 97), "perhaps slower", 0),
        ((84, 85, 86, 87, 88), "slower", 1),
    ],
)
def test_a_change_counts_if_the_whole_interval_is_beyond_the_tolerance(
    after: tuple[float, ...], found: str, exit_code: int
) -> None:
    reports = [
        with_engines(engine_row(throughput=figure_from_repeats(values, "images/s")))
        for values in ((100,) * 5, after)
    ]
    comparison = compared(*reports, tolerance=0.1)
    assert (only_row(comparison).found, comparison.exit_code) == (found, exit_code)
    if found.startswith("perhaps"):
        assert comparison.summary.startswith("no difference beyond 10% in 1 rows")
        assert (
            f"{found[0].upper()}{found[1:]} in 1, whose intervals reach into the tolerance"
            in comparison.summary
        )


def test_the_tolerance_can_be_set() -> None:
    before, after = (with_engines(engine_row(throughput=figure(value))) for value in (400, 360))
    assert compared(before, after, tolerance=0.05).exit_code == 1
    assert compared(before, after, tolerance=0.15).exit_code == 0
    for tolerance in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="tolerance"):
            compared(before, after, tolerance=tolerance)


@pytest.mark.parametrize(
    ("median_ms", "found"),
    [(10.0, "no difference"), (10.8, "no difference"), (14.0, "slower"), (7.0, "faster")],
)
def test_an_open_loop_is_judged_by_its_median_latency(median_ms: float, found: str) -> None:
    """Its throughput is planned. Latencies get twice the tolerance, 10% here."""
    before, after = (
        with_loads(load_row(100, None, rate_per_s=100, median_ms=ms, seed=seed))
        for seed, ms in enumerate((10.0, median_ms))
    )
    row, tail = compared(before, after).rows
    assert (row.figure, row.unit, row.found) == ("median latency", "ms", found)
    assert row.after == pytest.approx(median_ms, rel=0.02)
    assert tail.figure == "p99 latency"


@pytest.mark.parametrize("loop", ["closed", "open"])
@pytest.mark.parametrize(
    ("times", "found", "exit_code"), [(1.15, "no difference", 0), (1.5, "slower", 1), (0.7, "faster", 0)]
)
def test_a_load_is_also_judged_by_p99(loop: str, times: float, found: str, exit_code: int) -> None:
    """With twice the tolerance, while its other figure is unchanged."""
    before, after = (
        load_row(340, 16, samples=5000)
        if loop == "closed"
        else load_row(340, None, rate_per_s=340, samples=5000)
        for _ in range(2)
    )
    after = with_tail(after, times)
    comparison = compared(with_loads(before), with_loads(after), tolerance=0.1)
    row, tail = comparison.rows
    assert row.figure == ("throughput" if loop == "closed" else "median latency")
    assert row.found == "no difference"
    assert (tail.group, tail.row, tail.figure, tail.unit) == (row.group, row.row, "p99 latency", "ms")
    assert (tail.found, comparison.exit_code) == (found, exit_code)
    assert (tail.before, tail.after) == (before.latencies.p99_ms, after.latencies.p99_ms)
    assert tail.ratio == pytest.approx(times, rel=0.01)
    assert tail.low is not None
    assert tail.high is not None
    assert tail.low <= times <= tail.high


def with_tail(row: LoadRow, times: float) -> LoadRow:
    """Multiply the slowest 2% of the latencies."""
    found = distribution_of(row)
    latencies_ms = np.repeat(found.values_ms, np.diff(found.counts, prepend=0))  # rising
    latencies_ms[-len(latencies_ms) // 50 :] *= times
    slower = LatencyHistogram()
    slower.record_all(latencies_ms.tolist())
    return row.model_copy(update={"latencies": slower.latencies(), "histogram": slower.encoded().decode()})


def test_p99_is_not_judged_if_one_report_has_too_few_samples() -> None:
    many, few = (with_loads(load_row(340, 16, samples=samples)) for samples in (700, 600))
    assert [row.figure for row in compared(many, many).rows] == ["throughput", "p99 latency"]
    row = only_row(compared(many, few))
    assert row.figure == "throughput"
    assert (row.p99_before_ms is None, row.p99_after_ms) == (False, None)


def test_a_row_that_was_invalid_before_is_shown_and_not_judged() -> None:
    before = with_loads(load_row(340, 16, verdict=BUSY), load_row(50, 1))
    after = with_loads(load_row(200, 16), load_row(50, 1))
    comparison = compared(before, after)
    row = comparison.rows[0]
    assert (row.found, row.figure) == ("not judged", "throughput")
    assert row.ratio == pytest.approx(200 / 340, rel=0.02)
    assert row.why_not[0].startswith("INVALID before: client saturated")
    assert len(comparison.rows) == 1 + 2  # no tail of what is not judged
    assert comparison.exit_code == 0
    assert comparison.summary.endswith(" Not judged: 1.")


class TestRowsThatAreLost:
    """Rows that were VALID before and are gone or INVALID now fail the comparison."""

    def test_a_row_that_became_invalid_fails(self) -> None:
        before = with_loads(load_row(340, 16), load_row(50, 1))
        after = with_loads(load_row(340, 16, verdict=BUSY), load_row(50, 1))
        comparison = compared(before, after)
        assert comparison.exit_code == 1
        assert comparison.summary.startswith("1 row that was VALID is INVALID now. No difference beyond 5%")
        assert comparison.rows[0].why_not[0].startswith("INVALID after: client saturated")

    def test_rows_that_are_gone_fail(self) -> None:
        before = with_engines(engine_row(batch=1), engine_row(batch=2), engine_row())
        comparison = compared(before, with_engines(engine_row()))
        assert comparison.exit_code == 1
        assert comparison.summary.startswith("2 rows that were VALID are gone now. No difference beyond 5%")
        assert len(comparison.only_before) == 2

    def test_rows_that_were_invalid_before_do_not_fail(self) -> None:
        before = with_loads(load_row(340, 16, verdict=BUSY), load_row(300, 8, verdict=BUSY), load_row(50, 1))
        after = with_loads(load_row(340, 16, verdict=BUSY), load_row(50, 1))
        comparison = compared(before, after)
        assert comparison.exit_code == 0
        assert comparison.only_before[0].endswith("8 at a time (INVALID)")
        of_an_invalid_run = before.model_copy(update={"reasons": (busy_machine(),)})
        assert compared(of_an_invalid_run, with_loads()).exit_code == 2

    def test_new_rows_do_not_fail(self) -> None:
        before, after = with_loads(load_row(50, 1)), with_loads(load_row(50, 1), load_row(verdict=BUSY))
        comparison = compared(before, after)
        assert comparison.exit_code == 0
        assert comparison.only_after[0].endswith("16 at a time (INVALID)")

    def test_lost_rows_fail_even_if_nothing_else_can_be_judged(self) -> None:
        """Both the errors and the busy machine are in the summary."""
        wrong = verdict_from(errors_reason(3, 100, "a full queue"))
        before = with_loads(load_row(340, 16), load_row(50, 1))
        after = with_loads(load_row(340, 16, verdict=wrong), load_row(50, 1), reasons=(busy_machine(),))
        comparison = compared(before, after)
        assert comparison.exit_code == 1
        assert comparison.summary == (
            "1 row that was VALID is INVALID now. "
            "Nothing else could be judged: the whole run after is INVALID. Not judged: 2."
        )

    def test_a_search_that_now_finds_nothing_fails(self) -> None:
        before, after = (with_only(held_rates=(held_rate(rate),)) for rate in (268, None))
        comparison = compared(before, after)
        assert "p99 within 25 ms" in comparison.only_before[0]
        assert comparison.exit_code == 1
        lost = tuning().model_copy(update={"winner": None})
        assert compared(with_only(tuning=tuning()), with_only(tuning=lost)).exit_code == 1
        assert compared(after, after).exit_code == 2


def busy_machine() -> Reason:
    reason = calibration_reason(1e11, 8e10)
    assert reason is not None
    return reason


def test_the_exit_code_is_2_if_nothing_can_be_judged() -> None:
    busy = with_loads(load_row(verdict=BUSY))
    comparison = compared(busy, with_loads(load_row()))
    assert comparison.exit_code == 2
    assert comparison.summary.startswith("nothing could be judged")
    assert compared(with_engines(), with_engines()).exit_code == 2


def test_rows_of_an_invalid_run_are_invalid() -> None:
    reason = busy_machine()
    after = with_only(engines=(engine_row(200),), loads=(load_row(200),), reasons=(reason,))
    before = with_only(engines=(engine_row(400),), loads=(load_row(400),))
    comparison = compared(before, after)
    assert [(row.invalid_before, row.invalid_after) for row in comparison.rows] == [(False, True)] * 2
    assert comparison.against == (f"INVALID after: {reason}",)
    assert [row.why_not for row in comparison.rows] == [()] * 2
    assert comparison.exit_code == 2
    assert comparison.summary == ("nothing could be judged: the whole run after is INVALID. Not judged: 2.")
    twice = compared(after, after)
    assert twice.summary.startswith("nothing could be judged: the whole run before and the one after is")


def test_one_repeat_has_no_interval() -> None:
    one = with_engines(engine_row(throughput=figure_from_repeats([400.0], "images/s")))
    row = only_row(compared(one, with_engines(engine_row(200))))
    assert (row.found, row.why_not) == ("not judged", ("one repeat has no interval",))


def test_a_throughput_of_zero_is_not_judged() -> None:
    none = with_engines(engine_row(throughput=figure_from_repeats([0.0, 0.0, 0.0], "images/s")))
    row = only_row(compared(none, with_engines(engine_row(200))))
    assert (row.found, row.ratio) == ("not judged", None)


@pytest.mark.parametrize(
    ("after_per_s", "found", "exit_code"),
    [
        (268.0, "no difference", 0),
        (268 / 1.2, "no difference", 0),
        (268 * 1.2, "no difference", 0),
        (268 / 1.3, "slower", 1),
        (268 * 1.3, "faster", 0),
    ],
)
@pytest.mark.parametrize("search", ["held rate", "tuning"])
def test_a_searched_rate_is_judged_beyond_one_step_of_the_search(
    search: str, after_per_s: float, found: str, exit_code: int
) -> None:
    def with_search(per_s: float) -> Report:
        if search == "held rate":
            return with_only(held_rates=(held_rate(per_s),))
        steps = list(tuning().steps)
        steps[3] = steps[3].model_copy(update={"held_rate_per_s": per_s})
        return with_only(tuning=tuning().model_copy(update={"steps": tuple(steps)}))

    comparison = compared(with_search(268.0), with_search(after_per_s), tolerance=0)
    row = only_row(comparison)
    assert (row.figure, row.unit, row.row) == ("held rate", "images/s", "p99 within 25 ms")
    assert (row.found, comparison.exit_code) == (found, exit_code)
    assert row.ratio is not None
    assert (row.low, row.high) == (row.ratio / SEARCH_STEP, row.ratio * SEARCH_STEP)


def test_the_load_at_which_a_search_ended_has_no_row() -> None:
    before, after = (
        with_only(
            held_rates=(held_rate(per_s),),
            loads=(load_row(per_s, None, rate_per_s=per_s), load_row(100.0, None, rate_per_s=100.0)),
        )
        for per_s in (268.0, 275.0)
    )
    comparison = compared(before, after)
    assert comparison.exit_code == 0
    assert [row.figure for row in comparison.rows] == ["median latency", "p99 latency", "held rate"]
    assert comparison.only_before == comparison.only_after == ()


def test_a_search_is_judged_by_the_tolerance_if_that_is_larger() -> None:
    before, after = (with_only(held_rates=(held_rate(rate),)) for rate in (268.0, 200.0))
    assert compared(before, after, tolerance=0.3).exit_code == 0


def test_the_step_is_that_of_the_search() -> None:
    from alexnet_bench.loads import rate_search

    assert SEARCH_STEP == rate_search._GROWTH


@pytest.mark.parametrize(
    ("times", "found", "exit_code"), [(1.0, "no difference", 0), (1.3, "slower", 1), (0.7, "faster", 0)]
)
def test_breakdowns_are_judged_by_time(times: float, found: str, exit_code: int) -> None:
    def with_breakdown(times: float) -> Report:
        steps = (
            step.model_copy(update={"total": milliseconds(times * step.total_ms, count=5)})
            for step in breakdown()
        )
        return with_only(breakdown=tuple(steps))

    comparison = compared(with_breakdown(1.0), with_breakdown(times))
    assert {row.found for row in comparison.rows} == {found}
    assert comparison.exit_code == exit_code
    assert len(comparison.rows) == len(breakdown())
    first = comparison.rows[0]
    assert first.group == "latency breakdown of fp32, batch 1: fp32 on openvino (CPU, computes in f32)"
    assert (first.row, first.figure, first.unit) == ("engine", "time", "ms")


@pytest.mark.parametrize(
    ("times", "found", "exit_code"), [(1.0, "no difference", 0), (1.3, "slower", 1), (0.7, "faster", 0)]
)
def test_cold_starts_are_judged_by_time(times: float, found: str, exit_code: int) -> None:
    with_warm_up, without = cold_starts()[::-1]
    later = with_warm_up.model_copy(update={"ready_ms": milliseconds(2900 * times, count=3)})
    comparison = compared(
        with_only(cold_starts=(with_warm_up, without)), with_only(cold_starts=(later, without))
    )
    ready, *others = comparison.rows
    assert ready.group.startswith("cold start: alexnet_int8, with warm-up; int8 on openvino")
    assert (ready.row, ready.figure, ready.unit) == ("ready", "time", "ms")
    assert (ready.found, comparison.exit_code) == (found, exit_code)
    assert {row.found for row in others} == {"no difference"}
    names = ["ready", *(f"{which} at {batch}" for which in ("first", "second") for batch in (1, 8, 32))]
    assert [row.row for row in comparison.rows] == 2 * names


@pytest.mark.parametrize(
    ("times", "found"),
    [(1.0, ["no difference"] * 2), (1.4, ["faster", "slower"]), (0.7, ["slower", "faster"])],
)
def test_single_figures_are_judged_if_more_or_less_is_better(times: float, found: list[str]) -> None:
    """A ratio of which more is better, a time of which less is, and one that is only for information."""
    scaled = [
        row.model_copy(
            update={"figure": figure_from_repeats([times * one for one in row.figure.repeats], "x")}
        )
        for row in figure_rows()
    ]
    comparison = compared(with_only(figures=figure_rows()), with_only(figures=tuple(scaled)))
    assert [row.found for row in comparison.rows] == found


def milliseconds(value: float, *, count: int) -> Figure:
    return figure_from_repeats(repeats(value, count=count, seed=3), "ms")


def test_rows_of_only_one_report_are_listed() -> None:
    before = with_engines(engine_row(), engine_row(batch=1), engine_row(of=engine(options="CUDA graphs")))
    after = with_engines(engine_row(), engine_row(batch=2), engine_row(of=engine(computes_in="f32")))
    comparison = compared(before, after)
    assert len(comparison.rows) == 1
    assert [name.rpartition(", ")[2] for name in comparison.only_before] == ["batch 1", "batch 32"]
    assert "CUDA graphs" in comparison.only_before[1]
    assert "computes in f32" in comparison.only_after[1]


def test_rows_of_one_name_are_matched_in_order() -> None:
    twice = [load_row(rate, 16, samples=700) for rate in (300, 200)]
    comparison = compared(with_loads(*twice), with_loads(*twice, load_row(100, 16, samples=700)))
    assert [row.ratio for row in comparison.rows] == [1, 1, 1, 1]  # each with its tail
    assert len(comparison.only_after) == 1


def test_differences_of_the_environment_are_listed() -> None:
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


@pytest.mark.parametrize("speed", [0.75, 1.3])
def test_slower_rows_on_a_machine_of_another_speed_give_no_result(speed: float) -> None:
    calibration = {"calibration_before": speed * 1.021e11, "calibration_after": speed * 1.007e11}
    before, slower = with_engines(engine_row(400)), with_engines(engine_row(300), **calibration)
    comparison = compared(before, slower)
    assert comparison.rows[0].found == "slower"
    assert comparison.exit_code == 2
    assert comparison.summary.startswith(
        f"the machine itself ran {speed:.2f} times as fast: measure again. Slower in 1 of 1 rows"
    )
    assert compared(before, with_engines(engine_row(400), **calibration)).exit_code == 0
    lost = compared(with_engines(engine_row(400), engine_row(batch=1)), slower)
    assert lost.exit_code == 1
    assert lost.summary.startswith("1 row that was VALID is gone now. The machine itself ran")


def test_the_speed_of_the_machine_is_the_mean_of_both_calibrations() -> None:
    """The calibrations after the runs alone are 14% apart."""
    before = with_engines(engine_row(400), calibration_before=1.0e11, calibration_after=1.05e11)
    after = with_engines(engine_row(300), calibration_before=0.98e11, calibration_after=0.9e11)
    comparison = compared(before, after)
    assert comparison.calibration_ratio == pytest.approx(0.94 / 1.025)
    assert comparison.exit_code == 1


def test_different_devices_are_compared_only_on_request() -> None:
    on_gpu = engine("fp16", "tensorrt", device=H200)
    before = with_engines(engine_row(9800, of=on_gpu), environment=environment(gpus=(gpu(),)))
    other = gpu().model_copy(update={"name": "NVIDIA L4"})
    after = with_engines(
        engine_row(2100, of=on_gpu.model_copy(update={"device": "NVIDIA L4"})),
        environment=environment(gpus=(other,)),
    )
    with pytest.raises(UsageError, match=f"different devices, .*{H200} and .*NVIDIA L4.*--across-devices"):
        compared(before, after)
    after = after.model_copy(update={"calibration_before": 2e11, "calibration_after": 2e11})
    comparison = compare_reports(before, after, tolerance=0.05, across_devices=True)
    assert only_row(comparison).ratio == pytest.approx(2100 / 9800, rel=0.02)
    assert comparison.exit_code == 1  # another machine's calibration workload excuses nothing
    assert "machine itself" not in comparison.summary


def test_every_part_can_be_compared_across_gpus() -> None:
    before = report_of_two_devices().model_copy(update={"reasons": ()})
    after = Report.model_validate_json(before.model_dump_json().replace(H200, "NVIDIA L4"))
    comparison = compare_reports(before, after, tolerance=0.05, across_devices=True)
    assert (comparison.only_before, comparison.only_after) == ((), ())
    assert comparison.exit_code == 0


def test_cpus_of_one_name_with_different_vector_instructions_are_different_devices() -> None:
    """Clouds give CPUs of many generations one name."""
    before = with_engines(engine_row())
    other = {"CPU clock": "2600 MHz", "CPU vectors": "avx2"}
    after = with_engines(engine_row(), environment=environment(cpu=other))
    with pytest.raises(UsageError, match=r"devices, AMD EPYC 9B14, 2 cores \(with avx2, avx512f.*across"):
        compared(before, after)
    comparison = compare_reports(before, after, tolerance=0.05, across_devices=True)
    assert ("CPU vectors", "avx2, avx512f, avx512_vnni", "avx2") in [
        (fact.name, fact.before, fact.after) for fact in comparison.environment
    ]
    for cpu in ({}, {"CPU vectors": environment().cpu["CPU vectors"], "CPU clock": "3100 MHz"}):
        assert compared(before, with_engines(engine_row(), environment=environment(cpu=cpu))).exit_code == 0


def test_cpus_of_different_names_are_different_devices() -> None:
    after = with_engines(engine_row(), environment=environment(machine="AMD EPYC 9B45, 2 cores"))
    with pytest.raises(UsageError, match=r"different devices, AMD EPYC 9B14, .* and AMD EPYC 9B45"):
        compared(with_engines(engine_row()), after)


def test_a_broken_histogram_is_named() -> None:
    broken = with_loads(load_row(100, None, rate_per_s=100, samples=50, histogram="x"))
    with pytest.raises(ReportError, match="histogram of alexnet_int8"):
        compared(broken, broken)


@pytest.mark.parametrize("rate_per_s", [None, 100.0])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 900}, "got 900 samples, expected the 700 of its histogram"),
        ({"samples": 0}, "got 0 samples, expected the 700 of its histogram"),
        ({"p50_ms": 5.0}, r"got a p50 of 5 ms, expected the [\d.]+ ms of its histogram"),
        ({"p99_ms": 5.0}, r"got a p99 of 5 ms, expected the [\d.]+ ms of its histogram"),
    ],
)
def test_latencies_that_do_not_match_their_histogram_are_refused(
    rate_per_s: float | None, changes: dict[str, Any], said: str
) -> None:
    row = load_row(100, None if rate_per_s else 16, rate_per_s=rate_per_s)
    altered = row.model_copy(update={"latencies": row.latencies.model_copy(update=changes)})
    for pair in ((row, altered), (altered, row)):
        with pytest.raises(ReportError, match=f"latencies of alexnet_int8 .*{said}.*altered.*Measure again"):
            compared(*map(with_loads, pair))


@pytest.mark.parametrize("samples", [1, 11, 12, 662, 663, 750, 5001])
def test_latencies_that_match_their_histogram_pass(samples: int) -> None:
    """However HdrHistogram rounds its ranks."""
    row = with_loads(load_row(100, 16, samples=samples))
    assert compared(row, row).exit_code == 0


class TestCommand:
    """`alexnet compare`, and its exit codes for CI."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> list[str]:
        before = with_only(engines=engine_rows()[-2:], loads=load_rows()[-6:])
        slower = before.engines[0].model_copy(update={"throughput": figure(30)})
        after = before.model_copy(update={"engines": (slower, *before.engines[1:])})
        for name, found in (("before", before), ("after", after)):
            write_report(tmp_path / f"{name}.json", found)
        return [str(tmp_path / f"{name}.json") for name in ("before", "after")]

    def test_slower_exits_with_1_and_faster_with_0(
        self, files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("alexnet_cli.screen.out._width", 80)
        assert run(["compare", *files]) == 1
        shown = capsys.readouterr().out
        assert shown.splitlines()[-1].startswith("Result: slower in 1 of 12 rows, furthest in process: int8")
        assert "INVALID" in shown
        assert "calibration workload: 1.000 times as fast" in shown
        assert run(["compare", *reversed(files)]) == 0
        assert run(["compare", files[0], files[0]]) == 0
        assert "no difference beyond 10%" in capsys.readouterr().out

    def test_json_has_the_whole_comparison(
        self, files: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["compare", *files, "--json"]) == 1
        found = Comparison.model_validate(json.loads(capsys.readouterr().out))
        assert found.exit_code == 1
        assert {row.found for row in found.rows} == {"slower", "no difference", "not judged"}

    def test_control_characters_and_markup_of_a_report_are_shown_as_text(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("alexnet_cli.screen.out._width", 300)
        evil = "[bold]x[/bold]\x1b[2J\u202e\n"
        reason = Reason(rule="errors", found=f"{evil}1", advice=f"{evil}2")
        seen = environment(kernel=f"{evil}3", versions={f"{evil}4": "1"})
        of = engine(options=f"{evil}5")
        loads = (load_row(model=f"{evil}6"), load_row(model=f"{evil}7", verdict=Verdict(reasons=(reason,))))
        before = with_loads(*loads, title=f"{evil}8", reasons=(reason,))
        after = with_only(loads=loads, engines=(engine_row(of=of),), environment=seen)
        paths = [tmp_path / "before.json", tmp_path / "after.json"]
        for path, found in zip(paths, (before, after), strict=True):
            write_report(path, found)
        run(["compare", *map(str, paths)])
        shown = capsys.readouterr().out
        assert all(line.isprintable() for line in shown.split("\n"))
        for number in range(1, 9):
            assert rf"[bold]x[/bold]\x1b[2J\u202e\n{number}" in shown

    def test_the_help_has_the_exit_codes(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["compare", "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert " ".join((compare_command.__doc__ or "").split()) in shown
        assert all(f"Exit code {code}: " in shown for code in (0, 1, 2))

    @pytest.mark.parametrize("broken", ["{", '{"schema_version": 0}', None])
    def test_a_broken_report_exits_with_2_and_one_line(
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

    def test_wrong_usage_exits_with_2(self, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["compare", files[0]]) == 2
        assert run(["compare", *files, "--tolerance", "2"]) == 2
        assert run(["compare", *files, "--tolerance", "nan"]) == 2
        assert "tolerance: got nan, expected 0 or more, below 1" in capsys.readouterr().err

    def test_bench_report_prints_tables_or_writes_a_page(
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
