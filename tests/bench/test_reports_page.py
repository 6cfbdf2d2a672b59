from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from alexnet_bench.figures.percentiles import LatencyHistogram
from alexnet_bench.figures.verdicts import Reason, Verdict
from alexnet_bench.reports.distributions import distribution_of
from alexnet_bench.reports.drawing.scales import scale_for, tick_text
from alexnet_bench.reports.highlights import tiles_from_reports
from alexnet_bench.reports.page import html_from_reports
from alexnet_bench.reports.plots import batch_plots, breakdown_plot, percentile_plots, sweep_plot
from alexnet_bench.reports.table_models import sheets_of
from alexnet_bench.schema import Proof, Report, TuningStep
from alexnet_model.errors import ReportError, UsageError

from .reports_for_tests import (
    H200,
    breakdown,
    cold_starts,
    engine,
    engine_row,
    environment,
    histogram,
    load_row,
    report,
    report_of_two_devices,
    tuning,
)
from .sweep_fakes import judged

EVIL = "<script>alert('1')</script>\"'><img src=x onerror=alert(2)>&amp;"


class Elements(HTMLParser):
    """The tags with their attributes, and the text, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return html_from_reports([report()])


def test_the_page_has_every_plot_and_every_table(page: str) -> None:
    found = Elements(page)
    assert len([tag for tag, _ in found.tags if tag == "svg"]) == 2 + 2 + 6 + 6 + 1
    for title in (
        "Throughput by batch",
        "Share of the limit",
        "Latency against throughput",
        "Where the time goes",
    ):
        assert title in found.text
    labels = {attributes.get("aria-label") for tag, attributes in found.tags if tag == "div"}
    assert {
        "Engines in process",
        "Server under load",
        "Highest rate within a limit",
        "From the engine to the image",
        "Tuning",
        "Cold start",
        "Environment",
        "Runs",
    } <= labels


def test_the_page_has_every_column_of_every_table() -> None:
    whole = report(proofs=(Proof(engine=engine(), **dict(judged())),))
    names = re.findall(r"<th scope='col'[^>]*>(.*?)(?:<small>.*?</small>)?</th>", html_from_reports([whole]))
    assert names == [column.name for sheet in sheets_of(whole) for column in sheet.columns]


def test_every_plot_is_well_formed_and_within_its_frame(page: str) -> None:
    for source in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        drawn = ET.fromstring(source)
        _, _, width, height = map(float, drawn.attrib["viewBox"].split())
        for element in drawn.iter():
            for name, most in (("x", width), ("cx", width), ("x2", width), ("y", height), ("cy", height)):
                assert 0 <= float(element.attrib.get(name, 0)) <= most
            for point in element.attrib.get("points", "").split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_the_page_says_where_the_figures_are_from(page: str) -> None:
    text = Elements(page).text
    for words in (
        "AMD EPYC 9B14, 2 cores",
        "alexnet bench server --model",
        "0123456789ab",
        "2026.4.1",
        "102.1 x 10^9",
    ):
        assert words in text
    assert "TensorRT: no NVIDIA GPU is here" in text


def test_the_page_asks_for_nothing_and_holds_no_script(page: str) -> None:
    found = Elements(page)
    assert "script" not in {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src"):
                assert (value or "").startswith(("#", "data:")), tag
    assert "url(" not in page
    assert "@import" not in page


def evil_report(evil: str = EVIL) -> Report:
    """Every word of it is an attack."""
    of = engine(None, evil, computes_in=evil, options=evil, device=evil)
    invalid = Verdict(reasons=(Reason(rule="errors", found=evil, advice=evil),))
    load = load_row(
        model=evil,
        engine=of,
        url_scheme=evil,
        batching=evil,
        verdict=invalid,
        failed_by_kind={evil: 1},
        samples=90,
    )
    tried = TuningStep.model_validate(tuning().steps[0].model_dump() | {"note": evil})
    step = breakdown(of)[0].model_copy(update={"name": evil, "of": evil, "source": evil})
    start = cold_starts()[0].model_copy(update={"model": evil, "engine": of})
    return report(
        title=evil,
        command=evil,
        environment=environment(machine=evil, kernel=evil, commit=evil, date=evil, versions={evil: evil}),
        engines=(engine_row(of=of),),
        loads=(load,),
        breakdown=(step, step.model_copy(update={"name": f"{evil}2"})),
        tuning=tuning().model_copy(update={"steps": (tried,), "winner": 0, "why": evil, "device": evil}),
        cold_starts=(start,),
        roofs=(report().roofs[0].model_copy(update={"device": evil, "computes_in": evil}),),
        held_rates=(report().held_rates[0].model_copy(update={"model": evil, "words": evil, "engine": of}),),
        left_out=(report().left_out[0].model_copy(update={"what": evil, "why": evil}),),
        reasons=(Reason(rule="interrupted", found=evil, advice=evil),),
    )


def test_whatever_comes_from_a_report_is_text() -> None:
    found = Elements(html_from_reports([evil_report()]))
    assert not {"script", "img"} & {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.text.count(EVIL) > 30


def test_devices_share_neither_a_plot_nor_a_table() -> None:
    page = html_from_reports([report_of_two_devices()])
    parts = re.findall(r"<svg.*?</svg>|<table.*?</table>", page, re.DOTALL)
    assert not [part for part in parts if f"({H200}" in part and "(CPU" in part]
    assert len([part for part in parts if f"({H200}" in part]) > 3
    headings = re.findall(r"<h2 id='device.*?>(.*?)</h2>", page)
    assert headings == [H200, "CPU: AMD EPYC 9B14, 2 cores"]


def test_an_invalid_run_has_no_headline_and_its_reason_is_on_top() -> None:
    page = html_from_reports([report_of_two_devices()])
    assert "<dl class='tiles'>" not in page
    top = Elements(page[: page.index("<h2")]).text
    assert "INVALID" in top
    assert "machine busy: the calibration workload went from 100 to 82 x 10^9 operations/s, 18%" in top


def test_rows_of_an_invalid_run_are_not_shown_as_well(page: str) -> None:
    good = "<td class='left good'>VALID</td>"
    doubted = "<td class='left'>VALID<small>run INVALID</small></td>"
    assert good in page
    assert doubted not in page
    invalid = html_from_reports([report_of_two_devices()])
    rows = len(report_of_two_devices().engines) + len(report_of_two_devices().loads)
    assert good not in invalid
    assert invalid.count(doubted) == rows
    hollow = [*re.findall('class="(hollow|mark)"><title>', invalid)]
    assert set(hollow) == {"hollow"}


def test_of_several_runs_only_the_invalid_ones_rows_are_doubted() -> None:
    whole = report()
    bad = report(title="busy", engines=whole.engines[:7], loads=(), reasons=report_of_two_devices().reasons)
    page = html_from_reports([report(engines=whole.engines[7:]), bad])
    assert page.count("VALID<small>run INVALID</small>") == 7
    assert page.count("good'>VALID</td>") == len(whole.engines) - 7 + len(whole.loads) - 2


def test_what_is_invalid_by_itself_says_so_in_an_invalid_run_too() -> None:
    bad = report(reasons=report_of_two_devices().reasons)
    assert html_from_reports([bad]).count("<td class='left bad'>INVALID</td>") == 2


def test_an_invalid_load_is_in_no_headline() -> None:
    best = load_row(9999, 1, samples=700, verdict=Verdict(reasons=report_of_two_devices().reasons))
    tiles = tiles_from_reports([report(loads=(load_row(340, samples=700), best))])
    assert [tile.figure for tile in tiles if tile.name == "Fastest served"] == ["340 images/s"]


def test_an_engine_that_is_not_the_model_is_in_no_headline_and_hollow_in_the_plot() -> None:
    invalid = Verdict(reasons=(Reason(rule="wrong answers", found="it is another model", advice="Stop."),))
    wrong = [
        engine_row(rate, batch, of=engine("fp16"), verdict=invalid) for rate, batch in ((9999, 32), (50, 1))
    ]
    rows = (engine_row(340), *wrong)
    whole = report(engines=rows, loads=())
    tiles = tiles_from_reports([whole])
    assert [tile.figure for tile in tiles if tile.name == "Fastest engine"] == ["342 images/s"]
    image = sweep_plot(rows)
    assert image.svg.count('class="hollow"') == 2
    assert image.note.endswith("Hollow is INVALID.")
    text = Elements(html_from_reports([whole])).text
    assert "1 of 3 rows are VALID" in text
    assert text.count(f"INVALID {rows[1].engine}: wrong answers: it is another model") == 1


def test_a_long_devices_name_is_left_out_where_engines_names_have_no_room() -> None:
    def keys(device: str) -> list[str]:
        rows = (engine_row(of=engine(device=device)), engine_row(of=engine("fp16", device=device)))
        return re.findall(r'class="key">([^<]*)<', sweep_plot(rows).svg)

    assert keys("CPU")[0] == "int8 on openvino (CPU, computes in i8)"
    assert keys("NVIDIA H100 80GB HBM3 with a long name")[0] == "int8 on openvino (computes in i8)"


def test_of_several_runs_it_is_said_how_many_are_invalid() -> None:
    bad = report(title="busy", engines=(), loads=(), reasons=report_of_two_devices().reasons)
    assert "1 of 2 runs, for the reasons below" in html_from_reports([report(), bad])
    assert "the whole run, for the reasons below" in html_from_reports([bad])


def test_headlines_name_the_device_where_there_are_two() -> None:
    names = [
        tile.name for tile in tiles_from_reports([report_of_two_devices().model_copy(update={"reasons": ()})])
    ]
    assert f"Fastest engine, {H200}" in names
    assert "Fastest engine" in names


def test_several_reports_make_one_page() -> None:
    parts = [report(loads=(), title="engines"), report(engines=(), title="server", seconds=7.0)]
    page = Elements(html_from_reports(parts)).text
    assert "engines, server" in page
    assert "7.00 s" in page
    assert "412 s" in page
    with pytest.raises(UsageError):
        html_from_reports([parts[0], parts[0]])


def test_a_page_of_nothing_still_opens() -> None:
    empty = report(engines=(), loads=(), breakdown=(), roofs=(), held_rates=(), cold_starts=(), tuning=None)
    assert "<svg" not in html_from_reports([empty])


def test_every_reason_is_counted_where_there_are_too_many_to_list() -> None:
    invalid = Verdict(reasons=(Reason(rule="errors", found="none was answered", advice="Mend it."),))
    loads = tuple(load_row(100, level, samples=20, verdict=invalid) for level in range(1, 10))
    assert "and 3 more" in html_from_reports([report(loads=loads)])


@pytest.mark.parametrize("broken", ["", "nonsense", "HISTFAAA", histogram(5, 50).encoded().decode()[:-40]])
def test_a_broken_histogram_is_one_line_that_names_its_load(broken: str) -> None:
    row = load_row(samples=50, histogram=broken)
    with pytest.raises(
        ReportError, match="histogram of alexnet_int8 over grpc, closed loop, batch 1, 16 at a time"
    ):
        html_from_reports([report(loads=(row,))])


def test_a_distribution_is_the_histograms_own() -> None:
    counted = histogram(12, 5000)
    found = distribution_of(load_row(histogram=counted.encoded().decode(), samples=50))
    assert found.samples == 5000
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        assert found.at(share * found.values_ms[:1] ** 0)[0] == pytest.approx(
            counted.percentile_ms(100 * share), rel=1e-3
        )


def test_resampled_medians_lie_around_the_median_as_those_of_real_resamples_do() -> None:
    import numpy as np

    counted = histogram(12, 400, spread=0.3)
    found = distribution_of(load_row(histogram=counted.encoded().decode(), samples=50))
    samples = np.repeat(found.values_ms, np.diff(found.counts, prepend=0))
    random = np.random.default_rng(1)
    drawn = np.median(random.choice(samples, (4000, 400)), axis=1)
    quick = found.resampled(0.5, 4000, seed=2)
    assert np.quantile(quick, [0.025, 0.5, 0.975]) == pytest.approx(
        np.quantile(drawn, [0.025, 0.5, 0.975]), rel=0.01
    )


def test_a_tail_that_is_not_known_is_dotted() -> None:
    def share_known(samples: int) -> float:
        """Of an axis that ends at the slowest sample, so that p90 of a hundred is half of it."""
        (image,) = percentile_plots([load_row(samples=samples)])
        ends = [
            re.findall(rf'<polyline points="[^"]* ([^",]*),[^"]*" class="{kind}"', image.svg)
            for kind in ("line", "line dotted")
        ]
        known, all_of_it = (float(end) - 50 for (end,) in ends)
        return known / all_of_it

    assert share_known(100) == pytest.approx(1 / 2, abs=0.02)
    assert share_known(1000) == pytest.approx(2 / 3, abs=0.02)
    assert share_known(7000) == pytest.approx(3 / 3.845, abs=0.02)


def test_an_empty_histogram_has_no_curve() -> None:
    empty = LatencyHistogram().encoded().decode()
    assert percentile_plots([load_row(samples=50, histogram=empty)]) == ()


def test_executed_batches_are_drawn_as_shares_in_order_of_size() -> None:
    row = load_row(samples=50, executions_by_batch={16: 50, 1: 25, 3: 25})
    (image,) = batch_plots([row])
    says = re.findall(r"<title>(.*?)</title>", image.svg)
    assert [words.partition(":")[0] for words in says] == ["batch 1", "batch 3 to 4", "batch 9 to 16"]
    assert [words.rpartition(" ")[2] for words in says] == ["25%", "25%", "50%"]
    assert "mean 9" in image.svg
    assert batch_plots([load_row(samples=50, executions_by_batch={})]) == ()


def test_ways_part_where_a_rung_stands_on_an_earlier_one() -> None:
    image = breakdown_plot(breakdown()[:8])
    assert image is not None
    bars = re.findall(r'class="barname">([^<]*)<', image.svg)
    assert [name.partition("batch 1, ")[2] for name in bars] == [
        "shared memory: 412 bytes",
        "HTTP: 150,902 bytes",
        "decode: 47,700 bytes",
    ]
    assert image.svg.count("<title>") == 5 + 5 + 6
    assert "decode: adds 3.90 ms (client)" in image.svg
    assert breakdown_plot(()) is None


@pytest.mark.parametrize(
    ("values", "ticks", "is_log"),
    [
        ([50, 480], [0, 100, 200, 300, 400, 500], False),
        ([0.3, 0.7], [0, 0.2, 0.4, 0.6, 0.8], False),
        ([7, 300], [5, 10, 20, 50, 100, 200, 500], True),
        ([0.02, 168_000], [0.1, 1, 10, 100, 1000, 10_000, 100_000], True),
        ([0.0], [0, 0.2, 0.4, 0.6, 0.8, 1.0], False),
    ],
)
def test_axes_end_on_round_figures(values: list[float], ticks: list[float], is_log: bool) -> None:
    scale = scale_for(values)
    assert list(scale.ticks) == pytest.approx(ticks)
    assert scale.is_log == is_log
    assert scale.low <= min(values)
    assert max(values) <= scale.high


def test_places_on_an_axis() -> None:
    log = scale_for([1, 100])
    assert [log.share(value) for value in (0.1, 1, 10, 100, 1000)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert scale_for([10]).share(5) == pytest.approx(0.5)


@pytest.mark.parametrize(("value", "text"), [(0.05, "0.05"), (1500, "1,500"), (15e3, "15k"), (2e6, "2M")])
def test_ticks_are_short(value: Any, text: str) -> None:
    assert tick_text(value) == text
