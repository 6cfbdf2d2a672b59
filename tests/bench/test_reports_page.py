"""The HTML page: everything is in it, everything is escaped, and it loads and runs nothing."""

from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser

import pytest

from alexnet_bench.figures.verdicts import Reason, Verdict
from alexnet_bench.reports.markdown import html_from_reports
from alexnet_bench.reports.parts import PARTS, highlights_from_reports
from alexnet_bench.schema import FigureRow, Proof, Report, TuningStep
from alexnet_model.errors import ReportError, UsageError

from .reports_for_tests import (
    H200,
    breakdown,
    cold_starts,
    engine,
    engine_row,
    environment,
    figure_rows,
    histogram,
    load_row,
    report,
    report_of_two_devices,
    tables_of,
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
    return html_from_reports([whole_report()])


def whole_report() -> Report:
    """Every part is in it."""
    return report(proofs=(Proof(engine=engine(), **dict(judged())),), figures=figure_rows())


def test_every_part_is_on_the_page_with_all_its_columns_and_plots(page: str) -> None:
    whole = whole_report()
    assert all(part.rows(whole) for part in PARTS)
    text = Elements(page).text
    tables = tables_of(whole)
    for part, table in zip(PARTS, tables, strict=True):
        assert part.title in text
        for group in table.groups:
            assert group.name in text
    names = re.findall(r'<th align="(?:left|right)">(.*?)(?:<br>.*?)?</th>', page)
    assert names == [column.name for table in tables for column in table.columns]
    assert len([tag for tag, _ in Elements(page).tags if tag == "img"]) == 2 + 2 + 6 + 6 + 1


def test_the_page_says_where_the_figures_are_from(page: str) -> None:
    text = Elements(page).text
    for words in (
        "AMD EPYC 9B14, 2 cores",
        "alexnet bench server --model",
        "0123456789ab",
        "2026.4.1",
        "102.1 x 10^9",
        "412 s",
        "TensorRT: no NVIDIA GPU is here",
    ):
        assert words in text


def test_the_page_loads_nothing_and_holds_no_script(page: str) -> None:
    found = Elements(page)
    assert "script" not in {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src"):
                assert (value or "").startswith(("#", "data:")), tag
    assert "url(" not in page
    assert "@import" not in page
    policy = next(values["content"] for tag, values in found.tags if values.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_the_same_reports_give_the_same_page(page: str) -> None:
    assert html_from_reports([whole_report()]) == page


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
        figures=(
            FigureRow(name=evil, of=evil, figure=report().engines[0].throughput, engine=of, at_most=1.0),
        ),
        notes=(evil,),
        left_out=(report().left_out[0].model_copy(update={"what": evil, "why": evil}),),
        reasons=(Reason(rule="interrupted", found=evil, advice=evil),),
    )


def test_text_from_a_report_is_escaped() -> None:
    page = html_from_reports([evil_report()])
    found = Elements(page)
    assert "script" not in {tag for tag, _ in found.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    sources = [attributes["src"] or "" for tag, attributes in found.tags if tag == "img"]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    for source in sources:
        assert "<script" not in b64decode(source.partition(",")[2]).decode()
    assert found.text.count(EVIL) > 30


def test_reports_with_the_same_row_do_not_share_a_page() -> None:
    parts = [report(loads=(), title="engines"), report(engines=(), title="server", seconds=7.0)]
    page = Elements(html_from_reports(parts)).text
    assert "engines, server" in page
    assert "7.00 s" in page
    with pytest.raises(UsageError):
        html_from_reports([parts[0], parts[0]])


def test_an_empty_report_still_has_a_page() -> None:
    empty = report(engines=(), loads=(), breakdown=(), roofs=(), held_rates=(), cold_starts=(), tuning=None)
    assert "<img" not in html_from_reports([empty])


@pytest.mark.parametrize("broken", ["", "nonsense", "HISTFAAA", histogram(5, 50).encoded().decode()[:-40]])
def test_a_broken_histogram_is_one_line_that_names_its_load(broken: str) -> None:
    row = load_row(samples=50, histogram=broken)
    with pytest.raises(
        ReportError, match="histogram of alexnet_int8 over grpc, closed loop, batch 1, 16 at a time"
    ):
        html_from_reports([report(engines=(), breakdown=(), loads=(row,))])


def test_invalid_rows_and_runs_are_not_among_the_highlights() -> None:
    invalid = Verdict(reasons=(Reason(rule="wrong answers", found="another model", advice="Stop."),))
    best = load_row(9999, 1, samples=700, verdict=invalid)
    wrong = engine_row(9999, 32, of=engine("fp16"), verdict=invalid)
    whole = report(loads=(load_row(340, samples=700), best), engines=(engine_row(340), wrong))
    found = {highlight.name: highlight.figure for highlight in highlights_from_reports([whole])}
    assert (found["Fastest served"], found["Fastest engine"]) == ("340 images/s", "342 images/s")
    assert highlights_from_reports([report_of_two_devices()]) == ()


def test_highlights_name_the_device_if_it_is_not_the_cpu() -> None:
    valid = report_of_two_devices().model_copy(update={"reasons": ()})
    names = [highlight.name for highlight in highlights_from_reports([valid])]
    assert {f"Fastest engine, {H200}", "Fastest engine"} <= set(names)
