"""Engines in process compared with a server: which cases, in which order, and their ratios."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_bench import Load, Timing
from alexnet_bench.engine_vs_server import (
    Case,
    ComparisonOptions,
    ServerComparison,
    cases_of_export,
    ratios_of_export,
)
from alexnet_bench.engines.sweep import SweptEngine
from alexnet_bench.figures.intervals import figure_from_repeats
from alexnet_model.errors import UsageError

from ..serving.conftest import Artifacts
from .sweep_fakes import FakeProcess, engine, spec

IN_PROCESS = Case(precision="int8", batch=4)
SERVED = Case(precision="int8", batch=4, concurrency=2)


class FakeBench:
    """A load benchmark whose rates are given, one a round; records the loads that it runs."""

    def __init__(self, log: list[str], rates: list[float]) -> None:
        self.timings: list[Timing] = []
        self.interrupted = False
        self._log = log
        self._rates = rates

    def run(self, load: Load, *, timing: Timing) -> Any:
        self._log.append(f"load {load.model} {load.batch}, {load.loop}")
        self.timings.append(timing)
        return SimpleNamespace(interrupted=self.interrupted)

    def measured(self, load: Load, results: list[Any]) -> Any:
        assert len(results) == len(self._rates)
        throughput = figure_from_repeats(self._rates, "images/s")
        return SimpleNamespace(row=SimpleNamespace(throughput=throughput, engine=engine()))


@pytest.fixture
def log() -> list[str]:
    return []


def comparison(log: list[str], bench: FakeBench, *, latency_ms: float = 10.0) -> ServerComparison:
    process = FakeProcess(spec("int8"), log, latency_ms=latency_ms)
    process.is_open = True
    loaded = SweptEngine(spec("int8"), process, load_ms=100.0)
    return ServerComparison({"int8": loaded}, bench)  # type: ignore[arg-type]


def test_cases_are_measured_in_alternating_rounds(log: list[str]) -> None:
    found = comparison(log, FakeBench(log, [200.0, 300.0])).measure(
        [IN_PROCESS, SERVED], ComparisonOptions(rounds=2)
    )
    load, calls = ["load alexnet_int8 4, 2 at a time"], ["warm up int8 4", "time int8 4"]
    assert log == [*calls, *load, *load, *calls]
    row: Any = found.rows[IN_PROCESS]
    assert row.throughput.repeats == (400, 400)
    assert row.peak_memory_bytes is None  # of a process that holds several engines


def test_a_ratio_divides_the_rates_of_each_round(log: list[str]) -> None:
    bench = FakeBench(log, [200.0, 300.0, 400.0])
    found = comparison(log, bench).measure([IN_PROCESS, SERVED], ComparisonOptions(rounds=3))
    row = found.ratio(SERVED, IN_PROCESS, at_least=0.9)
    assert row.figure.repeats == (0.5, 0.75, 1.0)
    assert (row.name, row.reached) == ("served / in process", False)
    assert row.of == "int8 served, 2 at a time, batch 4 / in process, batch 4"
    with pytest.raises(KeyError):
        found.ratio(SERVED, replace(IN_PROCESS, batch=1))


def test_measuring_again_starts_with_no_repeats(log: list[str]) -> None:
    compared = comparison(log, FakeBench(log, [200.0]))
    for _ in range(2):
        row: Any = compared.measure([IN_PROCESS], ComparisonOptions(rounds=1)).rows[IN_PROCESS]
        assert len(row.throughput.repeats) == 1


@pytest.mark.parametrize(("latency_ms", "seconds"), [(10, 0.3), (500, 2 * 6 * 0.5 * 1.3 / 2)])
def test_a_load_is_long_enough_for_a_median(log: list[str], latency_ms: float, seconds: float) -> None:
    """Two rounds have the 11 samples of a median if each has 6."""
    bench = FakeBench(log, [200.0, 300.0])
    compared = comparison(log, bench, latency_ms=latency_ms)
    compared.measure([IN_PROCESS, SERVED], ComparisonOptions(rounds=2))
    assert [timing.seconds for timing in bench.timings] == pytest.approx([seconds] * 2)
    assert {timing.repeats for timing in bench.timings} == {1}


def test_an_interrupted_load_ends_the_comparison(log: list[str]) -> None:
    bench = FakeBench(log, [])
    bench.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        comparison(log, bench).measure([IN_PROCESS, SERVED], ComparisonOptions())


def test_every_accepted_precision_and_batch_is_a_case_in_process_and_on_the_server(
    artifacts: Artifacts,
) -> None:
    assert [str(case) for case in cases_of_export(artifacts.manifest, (1, 8, 32))] == [
        "fp32 in process, batch 1",
        "fp32 in process, batch 8",
        "fp32 served, 1 at a time, batch 1",
        "fp32 served, 1 at a time, batch 8",
        "int8 in process, batch 1",
        "int8 in process, batch 8",
        "int8 served, 1 at a time, batch 1",
        "int8 served, 1 at a time, batch 8",
    ]


def test_ratios_compare_precisions_with_fp32_and_the_server_with_int8_in_process(
    artifacts: Artifacts,
) -> None:
    manifest = artifacts.manifest.model_copy(update={"max_batch": 64})
    assert [f"{of} / {against}" for of, against in ratios_of_export(manifest)] == [
        "int8 in process, batch 32 / fp32 in process, batch 32",
        "int8 served, 2 at a time, batch 32 / int8 in process, batch 32",
        "int8 served, 16 at a time, batch 1 / int8 in process, batch 16",
    ]
    within_8 = ratios_of_export(artifacts.manifest)
    assert max(case.batch for ratio in within_8 for case in ratio) == 8
    only_int8 = manifest.model_copy(update={"artifacts": manifest.artifacts[-1:]})
    assert [of.concurrency for of, _ in ratios_of_export(only_int8)] == [2, 16]


@pytest.mark.parametrize(
    "values",
    [{"batches": ()}, {"batches": (0,)}, {"rounds": 0}, {"call_seconds": 0.0}, {"load_seconds": -1.0}],
)
def test_options_out_of_range_are_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ComparisonOptions(**values)
