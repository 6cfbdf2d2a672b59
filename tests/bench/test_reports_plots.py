"""Plots as SVG: what they show, that they are deterministic, and that they load and run nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.figures.verdicts import saturation_reason, verdict_from
from alexnet_bench.reports.distributions import distribution_of
from alexnet_bench.reports.parts.breakdown import BREAKDOWN
from alexnet_bench.reports.parts.engines import ENGINES
from alexnet_bench.reports.parts.loads import LOADS
from alexnet_bench.reports.plots import Plot, Series, line_plot, tick_text
from alexnet_bench.schema import EngineRow, LoadRow

from .reports_for_tests import breakdown, engine, engine_row, engine_rows, histogram, load_row
from .test_reports_page import EVIL

SVG = "{http://www.w3.org/2000/svg}"
INVALID = verdict_from(saturation_reason(0.99))


def texts(plot: Plot) -> list[str]:
    return [element.text or "" for element in ET.fromstring(plot.svg).iter(f"{SVG}text")]


def plots_of(*rows: LoadRow) -> dict[str, Plot]:
    """By the first word of their names: latency, tail, batches."""
    return {plot.name.partition(" ")[0]: plot for plot in LOADS.plots(rows)}


@pytest.fixture(scope="module")
def plots() -> list[Plot]:
    """One of each kind."""
    row = load_row(samples=300)
    return [*ENGINES.plots(engine_rows()), *LOADS.plots([row]), *BREAKDOWN.plots(breakdown())]


def test_each_part_has_its_plots(plots: list[Plot]) -> None:
    assert [plot.name.partition(" ")[0] for plot in plots] == [
        *("engine-throughput", "engine-limit", "latency", "tail", "batches", "breakdown")
    ]
    for plot in plots:
        words = " ".join(texts(plot))
        assert plot.title in words
        assert plot.note in words
        assert ET.fromstring(plot.svg).attrib["aria-label"] == f"{plot.title}. {plot.note}"


def test_a_plot_holds_no_script_and_loads_nothing(plots: list[Plot]) -> None:
    for plot in plots:
        tags = {
            element.tag.removeprefix(SVG) for element in ET.fromstring(plot.svg).iter() if "}" in element.tag
        }
        assert not tags & {"script", "image", "foreignObject", "a", "iframe"}
        assert not re.search(r"@import|url\((?!#)|href=\"(?!#)", plot.svg)
        assert not re.search(r"\son\w+=", plot.svg)


def test_the_same_rows_give_the_same_bytes(plots: list[Plot]) -> None:
    assert [plot.svg for plot in ENGINES.plots(engine_rows())] == [plot.svg for plot in plots[:2]]


def test_a_plot_has_colours_for_light_and_dark(plots: list[Plot]) -> None:
    for plot in plots:
        assert "prefers-color-scheme: dark" in plot.svg
        assert "var(--ink)" in plot.svg
        assert "var(--card)" in plot.svg
        assert not re.search("#010203|#040506|#070809", plot.svg)


@pytest.mark.parametrize(
    "name", [EVIL, "$x^2$ and {y}", "_hidden", "a\nb\x00\x1b", "a long name " * 20, "数据"]
)
def test_any_name_is_shown_as_text(name: str) -> None:
    plot = line_plot("p", name, name, [Series(name, (1, 2), (3, 4), "#4c8dd6")], x_label="x", y_label="y")
    words = " ".join(texts(plot))
    assert {element.tag for element in ET.fromstring(plot.svg).iter()} <= {
        *(f"{SVG}{tag}" for tag in ("svg", "style", "g", "path", "text", "tspan", "defs", "use", "metadata")),
        *(f"{SVG}{tag}" for tag in ("clipPath", "rect")),
        *(
            tag
            for tag in (element.tag for element in ET.fromstring(plot.svg).iter())
            if "w3.org/2000" not in tag
        ),
    }
    first = "".join(letter if letter.isprintable() else " " for letter in name).split()[0]
    assert first[:20] in words


def dotted(plot: Plot) -> int:
    """The number of dotted lines; the limit is dashed with longer dashes."""
    return len(re.findall(r"stroke-dasharray: 1\.4", plot.svg))


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_loads_are_joined_from_the_lowest_up_in_any_order_of_the_file(loop: str) -> None:
    def row(load: int) -> LoadRow:
        if loop == "closed":
            return load_row(100 + load, load, samples=300)
        return load_row(load, None, rate_per_s=float(load), median_ms=5 + load, samples=300)

    loads = [16, 1, 128, 2]
    found = plots_of(*map(row, loads))
    in_order = plots_of(*map(row, sorted(loads)))
    assert {name: plot.svg for name, plot in found.items()} == {
        name: plot.svg for name, plot in in_order.items()
    }
    names = [words.split()[0] for words in texts(found["tail"]) if re.search("at a time|requests/s", words)]
    assert names == ["1", "2", "16", "128"]


def test_invalid_rows_are_hollow_and_joined_by_dots() -> None:
    rows = [load_row(100 + 10 * n, n, samples=300) for n in (1, 2, 3, 4, 5)]
    assert dotted(plots_of(*rows)["latency"]) == 0
    rows[2] = rows[2].model_copy(update={"verdict": INVALID})
    plot = plots_of(*rows)["latency"]
    assert dotted(plot) == 1
    assert "hollow and dotted is INVALID" in plot.note
    throughput = next(iter(ENGINES.plots([engine_row(100, 1), engine_row(200, 2, verdict=INVALID)])))
    assert dotted(throughput) == 1
    assert throughput.note.endswith("Hollow is INVALID.")


def test_the_tail_is_dotted_beyond_the_known_percentiles_and_for_invalid_loads() -> None:
    rows = [load_row(samples=7000), load_row(350, 32, samples=7000, verdict=INVALID)]
    assert plots_of(*rows)["tail"].note.endswith("and where it is INVALID.")
    assert dotted(plots_of(*rows)["tail"]) == 2
    assert dotted(plots_of(*rows[:1])["tail"]) == 1
    assert plots_of(*rows[:1])["tail"].note == "Dotted where there are too few samples to know it."


def test_an_empty_histogram_has_no_curve_and_no_executions_no_bars() -> None:
    empty = LatencyHistogram().encoded().decode()
    found = plots_of(load_row(samples=50, histogram=empty, executions_by_batch={}))
    assert set(found) == {"latency"}


def test_executed_batches_are_in_steps_with_their_mean() -> None:
    plot = plots_of(load_row(samples=50, executions_by_batch={16: 50, 1: 25, 3: 25}))["batches"]
    words = texts(plot)
    assert "mean 9.00" in words
    assert words[-5:] == ["1", "2", "3 to 4", "5 to 8", "9 to 16"]


def test_the_breakdown_has_a_bar_for_each_way_to_the_image() -> None:
    (plot,) = BREAKDOWN.plots(breakdown()[:8])
    assert [words for words in texts(plot) if words.endswith("bytes")] == [
        "fp32, batch 1, shared memory: 412 bytes",
        "fp32, batch 1, HTTP: 150,902 bytes",
        "fp32, batch 1, decode: 47,700 bytes",
    ]


def test_a_long_device_name_is_left_out_of_the_legend() -> None:
    def names(device: str) -> list[str]:
        rows: list[EngineRow] = [engine_row(of=engine(name, device=device)) for name in ("int8", "fp16")]
        return [words for words in texts(next(iter(ENGINES.plots(rows)))) if " on openvino" in words]

    assert names("CPU")[0] == "int8 on openvino (CPU, computes in i8)"
    assert names("NVIDIA H100 80GB HBM3 with a long name")[0] == "int8 on openvino (computes in i8)"


def test_a_distribution_is_that_of_its_histogram() -> None:
    counted = histogram(12, 5000)
    found = distribution_of(load_row(histogram=counted.encoded().decode(), samples=50))
    assert found.samples == 5000
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        assert found.at(np.array([share]))[0] == pytest.approx(counted.percentile_ms(100 * share), rel=1e-3)


def test_resampled_medians_are_distributed_as_those_of_real_resamples() -> None:
    counted = histogram(12, 400, spread=0.3)
    found = distribution_of(load_row(histogram=counted.encoded().decode(), samples=50))
    samples = np.repeat(found.values_ms, np.diff(found.counts, prepend=0))
    random = np.random.default_rng(1)
    drawn = np.median(random.choice(samples, (4000, 400)), axis=1)
    quick = found.resampled(0.5, 4000, seed=2)
    quantiles = [0.025, 0.5, 0.975]
    assert np.quantile(quick, quantiles) == pytest.approx(np.quantile(drawn, quantiles), rel=0.01)


@pytest.mark.parametrize(("value", "text"), [(0.05, "0.05"), (1500, "1,500"), (15e3, "15k"), (2e6, "2M")])
def test_tick_names_are_short(value: float, text: str) -> None:
    assert tick_text(value) == text
