"""A plot as a file of its own, which Markdown shows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from alexnet_bench import reports
from alexnet_bench.figures.verdicts import saturation_reason, verdict_from
from alexnet_bench.reports.drawing.alone import svg_alone
from alexnet_bench.reports.drawing.canvas import Drawing
from alexnet_bench.reports.drawing.lines import Lines, Point, Series, drawing_from_lines
from alexnet_bench.reports.plots import (
    Plot,
    batch_plots,
    breakdown_plot,
    latency_plots,
    percentile_plots,
    style_of_plots,
    sweep_plot,
)
from alexnet_bench.schema import LoadRow

from .reports_for_tests import breakdown, engine_row, engine_rows, load_row
from .test_reports_page import EVIL

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def images() -> list[Plot]:
    """One of each kind."""
    row, whole = load_row(samples=300), breakdown_plot(breakdown())
    assert whole is not None
    found = [*latency_plots([row]), *percentile_plots([row]), *batch_plots([row])]
    return [sweep_plot(engine_rows()), *found, whole]


def test_it_asks_for_nothing_and_holds_no_script(images: list[Plot]) -> None:
    for image in images:
        names = {element.tag.removeprefix(SVG) for element in ET.fromstring(image.svg_alone).iter()}
        assert names <= {
            "svg",
            "style",
            "rect",
            "g",
            "text",
            "line",
            "circle",
            "polygon",
            "polyline",
            "title",
        }
        assert image.svg_alone.replace(SVG[1:-1], "").count("http") == 0
        assert not re.search(r"url\(|@import|href", image.svg_alone)


def test_it_shows_its_title_and_its_note_and_the_plot_of_the_page(images: list[Plot]) -> None:
    for image in images:
        texts = [element.text or "" for element in ET.fromstring(image.svg_alone).iter(f"{SVG}text")]
        assert " ".join(texts).startswith(f"{image.title} {image.note} ")
        assert len(texts[0]) <= 48
        drawn = ET.fromstring(image.svg)
        assert texts[-len(list(drawn.iter(f"{SVG}text"))) :] == [
            element.text for element in drawn.iter(f"{SVG}text")
        ]


def test_it_is_as_high_as_its_title_note_and_plot() -> None:
    plot = Drawing("words", ("<line/>",), 100)

    def height(note: str) -> float:
        drawn = ET.fromstring(svg_alone("title", note, plot, ""))
        _, _, width, height = map(float, drawn.attrib["viewBox"].split())
        assert float(drawn.attrib["height"]) == pytest.approx(
            height * float(drawn.attrib["width"]) / width, abs=1
        )
        return height

    assert height("") > 100 + 2 * 14
    assert height("a " * 60) == height("") + 2 * 17


def test_its_style_is_all_that_plots_need_and_the_pages_too(images: list[Plot]) -> None:
    style = style_of_plots()
    assert "prefers-color-scheme: dark" in style
    known = set(re.findall(r"\.(\w+)", style))
    for image in images:
        drawn = ET.fromstring(image.svg_alone)
        assert (drawn.findtext(f"{SVG}style") or "").strip() == style.strip()
        used = {name for element in drawn.iter() for name in element.attrib.get("class", "").split()}
        assert used - known <= {"sure", "key", "barname"}  # names that tell, and are as they would be without
    page = Path(reports.__file__).with_name("page.css").read_text(encoding="utf-8")
    assert not set(re.findall(r"--\w+:", page)) & set(re.findall(r"--\w+:", style))
    for variable in re.findall(r"var\((--\w+)\)", style):
        assert style.count(f"{variable}:") == (1 if variable == "--font" else 2), variable


def test_words_that_attack_are_words() -> None:
    drawn = ET.fromstring(svg_alone(EVIL, EVIL, Drawing(EVIL, (), 10), "a > b {}"))
    assert {element.tag for element in drawn.iter()} == {
        f"{SVG}{name}" for name in ("svg", "style", "rect", "g", "text")
    }
    assert drawn.attrib["aria-label"] == EVIL


@pytest.mark.parametrize(("name", "anchor"), [("99.99%", "end"), ("x", "middle")])
def test_the_last_ticks_name_stays_within_the_image(name: str, anchor: str) -> None:
    series = Series("a", (Point(0, 1), Point(4, 2)), "c0")
    drawn = drawing_from_lines(Lines("a", "across", "up", (series,), x_ticks=((0, "0"), (4, name))))
    (text,) = [part for part in drawn.parts if part.endswith(f">{name}</text>") and 'class="tick"' in part]
    assert f'text-anchor="{anchor}"' in text


def polylines(image: Plot, kind: str) -> list[list[tuple[float, float]]]:
    """The points of each line of a kind."""
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in points.split())]
        for points in re.findall(rf'<polyline points="([^"]*)" class="{kind}"', image.svg)
    ]


INVALID = verdict_from(saturation_reason(0.99))


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_loads_are_joined_from_the_least_on_whatever_the_order_of_the_file(loop: str) -> None:
    def row(load: int) -> LoadRow:
        if loop == "closed":
            return load_row(100 + load, load, samples=300)
        return load_row(load, None, rate_per_s=float(load), median_ms=5 + load, samples=300)

    loads = [16, 1, 128, 2]
    (curve,) = latency_plots([row(load) for load in loads])
    (line,) = polylines(curve, "line")
    assert line == sorted(line)
    assert curve.svg == latency_plots([row(load) for load in sorted(loads)])[0].svg
    (tail,) = percentile_plots([row(load) for load in loads])
    names = re.findall(r'class="key">(\d+)', tail.svg)
    assert names == ["1", "2", "16", "128"]
    (bars,) = batch_plots([row(load) for load in loads])
    assert re.findall(r'class="barname">(\d+)', bars.svg) == ["1", "2", "16", "128"]


def test_what_is_invalid_is_hollow_and_joined_by_dots() -> None:
    rows = [load_row(100 + 10 * n, n, samples=300) for n in (1, 2, 3, 4, 5)]
    rows[2] = rows[2].model_copy(update={"verdict": INVALID})
    (curve,) = latency_plots(rows)
    assert [len(line) for line in polylines(curve, "line")] == [2, 2]
    assert [len(line) for line in polylines(curve, "line dotted")] == [3]
    assert curve.svg.count('class="hollow"') == 1
    assert "hollow and dotted is INVALID" in curve.note
    sweep = sweep_plot([engine_row(100, 1), engine_row(200, 2, verdict=INVALID)])
    assert [len(line) for line in polylines(sweep, "line dotted")] == [2]


def test_the_tail_of_an_invalid_load_is_dotted_as_a_whole() -> None:
    rows = [load_row(samples=7000), load_row(350, 32, samples=7000, verdict=INVALID)]
    (tail,) = percentile_plots(rows)
    assert (len(polylines(tail, "line")), len(polylines(tail, "line dotted"))) == (1, 2)
    assert tail.note.endswith("and where it is INVALID.")
    (sure,) = percentile_plots(rows[:1])
    assert sure.note == "Dotted where there are too few samples to know it."
