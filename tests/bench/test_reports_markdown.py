from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from alexnet_bench.figures.verdicts import Reason, Verdict
from alexnet_bench.reports.markdown import Document, document_from_reports, write_document
from alexnet_bench.reports.parts import tables_of
from alexnet_bench.reports.parts.loads import LOADS
from alexnet_bench.reports.table_models import figure_cell
from alexnet_bench.schema import LoadRow, Report
from alexnet_model.errors import UsageError

from .reports_for_tests import (
    H200,
    breakdown,
    engine,
    engine_row,
    environment,
    gpu,
    load_row,
    report,
    report_of_two_devices,
)
from .test_reports_page import EVIL, Elements, evil_report

WRONG = Reason(rule="wrong answers", found="it is another model", advice="Export it again.")


def document(*reports: Report) -> Document:
    return document_from_reports(reports, introduction="# Performance", folder="performance")


@pytest.fixture(scope="module")
def made() -> Document:
    return document(report())


def rendered(text: str) -> Elements:
    return Elements(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text))


def table_of(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without small print."""
    table = text[text.index(f"# {heading}") :].partition("<table>")[2].partition("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.strip().splitlines()]
    return [[cell.partition("<br>")[0] for cell in row] for row in rows]


def test_every_table_of_a_report_is_there_with_its_rows(made: Document) -> None:
    whole = report()
    text = rendered(made.text).text
    tables = list(tables_of(whole))
    assert len(tables) >= 5
    for group in (group for table in tables for group in table.groups):
        assert group.name in text
        for row in group.rows:
            assert row.cells[0].text in text
    assert whole.environment.machine in text
    assert whole.command in text
    assert "VALID, 2026-11-23 10:00 UTC, took 412 s" in text


def latency_plot_of(row: LoadRow) -> str:
    return next(iter(LOADS.plots([row]))).svg


def test_highlights_come_first(made: Document) -> None:
    text = made.text
    highlights = text[text.index("## Highlights") : text.index("### ")]
    assert "| Fastest engine | **480&nbsp;images/s** |" in highlights
    assert "| Tuned to a p99 within 25.0 ms | **312&nbsp;images/s** |" in highlights
    reason = Reason(rule="machine busy", found="it went down", advice="End what else runs")
    assert "none, since no run is VALID" in document(report(reasons=(reason,))).text


def test_plots_are_beside_the_page_with_a_description(made: Document) -> None:
    shown = re.findall(r"!\[(.*?)\]\(performance/(.*?)\)", made.text)
    assert [file for _, file in shown] == list(made.images)
    assert len(shown) == 2 + 2 + 6 + 6 + 1
    assert shown[0] == (
        "Throughput by batch. Higher is better. Whiskers are 95% intervals.",
        "engine-throughput.svg",
    )
    assert {"engine-limit.svg", "latency-open-loop-batch-1.svg", "breakdown.svg"} <= set(made.images)


def test_plots_of_one_name_have_different_files() -> None:
    """The same load on two machines."""
    row, other = load_row(), load_row(100)
    here = report(engines=(), breakdown=(), loads=(row,))
    there = report(engines=(), breakdown=(), loads=(other,), environment=environment(machine="another"))
    made = document(here, there)
    first, second = (latency_plot_of(load) for load in (row, other))
    assert made.images["latency-closed-loop-batch-1.svg"] == first
    assert made.images["latency-closed-loop-batch-1-2.svg"] == second
    assert made.text.count("latency-closed-loop-batch-1-2.svg") == 1


def test_columns_without_values_are_left_out() -> None:
    text = document(report(loads=(load_row(samples=300),))).text
    assert table_of(text, "Engines in process")[0] == [
        *("batch", "throughput", "p50", "p99", "first call", "load", "file", "memory", "limit", "of limit"),
        "bound by",
    ]
    # 300 requests are too few for p99, and a closed loop has no send plan.
    assert table_of(text, "Server under load")[0] == [
        *("load", "verdict", "throughput", "p50", "p90", "requests", "client", "sent", "batch"),
    ]


def test_cells_have_intervals_or_the_number_of_samples_that_is_needed(made: Document) -> None:
    text = made.text
    assert '<td align="right">needs 662</td>' in text
    assert "needs 662<br>" not in text
    assert re.search(r'<td align="right">480<br><sub>47\d to 48\d</sub></td>', text)
    assert text.index("p99 needs that many") < text.index("## Highlights")


def test_a_detail_is_shown_if_it_is_bad() -> None:
    verdict = Verdict(reasons=(WRONG,))
    rows = (engine_row(batch=1), engine_row(batch=8, verdict=verdict))
    failed = load_row(failed=3, failed_by_kind={"Timeout": 3})
    text = document(report(engines=rows, loads=(failed,))).text
    assert table_of(text, "Engines in process")[0][1] == "verdict"
    assert "failed" in table_of(text, "Server under load")[0]
    assert f"- {rows[1].engine}, batch 8: wrong answers: it is another model. Export it again." in text


def test_a_note_on_every_row_of_an_engine_is_shown_once() -> None:
    rows = tuple(engine_row(batch=batch, verdict=Verdict(reasons=(WRONG,))) for batch in (1, 2, 4))
    text = document(report(engines=rows)).text
    assert text.count("it is another model") == 1
    assert f"- {rows[0].engine}: wrong answers" in text


def test_a_long_table_is_folded() -> None:
    def folded(count: int) -> int:
        rows = tuple(engine_row(batch=batch) for batch in range(1, count + 1))
        return document(report(engines=rows, loads=(), breakdown=())).text.count("<details>")

    assert (folded(30), folded(31)) == (0, 1)


def test_devices_share_no_plot_and_no_table() -> None:
    made = document(report_of_two_devices())
    parts = [*made.images.values(), *re.findall(r"<table>.*?</table>", made.text, re.DOTALL)]
    assert not [part for part in parts if f"({H200}" in part and "(CPU" in part]
    assert len([part for part in parts if f"({H200}" in part]) > 3
    assert {"engine-throughput.svg", "nvidia-h200-engine-throughput.svg"} <= set(made.images)
    assert f"#### Engines in process, {H200}\n" in made.text
    assert "#### Engines in process, CPU\n" in made.text


def test_each_machine_has_its_chapter() -> None:
    on_gpu = engine_row(9000, of=engine("fp16", "tensorrt", device=H200))
    there = report(
        title="Engines of a GPU",
        engines=(on_gpu,),
        loads=(),
        breakdown=(),
        environment=environment(machine="EPYC, 16 cores", gpus=(gpu(),)),
    )
    text = document(report(), there).text
    chapters = re.findall("^## (.*)", text, re.MULTILINE)
    assert chapters == ["Highlights", "AMD EPYC 9B14, 2 cores", f"EPYC, 16 cores + {H200}"]
    assert f"| EPYC, 16 cores + {H200} | | |" in text
    assert text.count("### Environment") == 2
    with pytest.raises(UsageError):
        document(there, there)


def test_a_run_of_one_part_needs_no_heading_below_its_title() -> None:
    empty = report(
        loads=(), breakdown=(), held_rates=(), cold_starts=(), tuning=None, title="Engines in process"
    )
    headings = re.findall("^####? (.*)", document(empty).text, re.MULTILINE)
    assert headings == ["Engines in process", "Ceilings, measured in this run", "Environment"]


def test_an_invalid_run_has_its_reasons() -> None:
    reason = Reason(rule="machine busy", found="it went down", advice="End what else runs")
    text = document(report(reasons=(reason,))).text
    assert "**INVALID**" in text
    assert "- machine busy: it went down. End what else runs" in text
    assert '<td align="left">VALID<br><sub>run INVALID</sub></td>' in text
    assert '<td align="left">VALID</td>' not in text


@pytest.mark.parametrize(
    "name",
    [
        EVIL,
        "a|b *c* `d` [e](f) ~~g~~ $h$ _i_ \\j",
        "more `` x ` than one",
        "# x\n# y\n\n- z: of it",
        "1. of a long list",
    ],
)
def test_text_from_a_report_is_escaped(name: str) -> None:
    made = document(evil_report(name))
    found = rendered(made.text)
    tags = {tag for tag, _ in found.tags}
    assert tags <= {
        *("h1", "h2", "h3", "h4", "p", "strong", "code", "img", "ul", "li", "br", "sub"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert [tag for tag, _ in found.tags].count("h1") == 1
    images = [attributes.get("src") for tag, attributes in found.tags if tag == "img"]
    assert images == [f"performance/{file}" for file in made.images]
    assert all(re.fullmatch(r"[a-z0-9-]+\.svg", file) for file in made.images)
    harmless = "a harmless name !"  # a date is cut after 16 letters
    words = rendered(document(evil_report(harmless)).text).text
    assert found.text.count(" ".join(name.split())) == words.count(harmless)


def test_a_plot_that_is_no_longer_shown_is_removed(made: Document, tmp_path: Path) -> None:
    page, folder = tmp_path / "docs" / "performance.md", tmp_path / "docs" / "performance"
    write_document(made, page)
    (folder / "notes.txt").touch()
    (tmp_path / "docs" / "drawing.svg").touch()
    written = document(report(loads=(), breakdown=breakdown()[:3]))
    write_document(written, page)
    assert page.read_text(encoding="utf-8") == written.text
    assert {file.name for file in folder.iterdir()} == {*written.images, "notes.txt"}
    assert {file.name: file.read_text("utf-8") for file in folder.glob("*.svg")} == dict(written.images)
    assert (tmp_path / "docs" / "drawing.svg").exists()


def test_cold_starts_have_their_intervals(made: Document) -> None:
    rows = report().cold_starts
    assert table_of(made.text, "Cold start")[0] == ["warm-up", "ready", "batch", "first", "second"]
    for figure in (rows[0].ready_ms, *rows[0].first_ms.values(), *rows[1].second_ms.values()):
        cell = figure_cell(figure)
        assert f"{cell.text}<br><sub>{cell.small}</sub>" in made.text
