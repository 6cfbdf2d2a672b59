"""The page and images as a person opens them: from files, in a real browser that cannot reach anything."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from alexnet_bench.reports.markdown import document_from_reports, write_document
from alexnet_bench.reports.page import html_from_reports

from .reports_for_tests import breakdown, engine_row, load_row, report, report_of_two_devices
from .test_reports_page import evil_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZES = [(1280, 900), (390, 844)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND"]
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Opened:
    """A page with everything that it asked for and complained of."""

    def __init__(
        self, browser: Browser, path: Path, width: int, height: int, *, is_dark: bool = False
    ) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if is_dark else "light",
            offline=True,
        )
        self.page: Page = context.new_page()
        self.asked_for: set[str] = set()
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked_for.add(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(path.as_uri())

    def computed(self, what: str, of: str) -> str:
        found: str = self.page.evaluate(f"getComputedStyle(document.querySelector({of!r})).{what}")
        return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a name that no plot has room for."""
    long = breakdown()[0].model_copy(update={"of": f"{'a long name ' * 9}: all of it"})
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_from_reports([report(breakdown=(*breakdown(), long))]), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_page_opens_offline_and_fits_its_window(
    browser: Browser, file: Path, width: int, height: int
) -> None:
    opened = Opened(browser, file, width, height)
    assert opened.asked_for - {"data:,"} == {file.as_uri()}
    assert opened.complaints == []
    page = opened.page
    assert page.inner_text("h1") == "AlexNet on two cores"
    assert page.locator("h2").first.inner_text() == "CPU: AMD EPYC 9B14, 2 cores"
    assert page.locator("figure svg").count() == 17
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "needs 6,636" in page.inner_text("[aria-label='Engines in process']")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_in_a_plot_lies_outside_it_or_is_too_small_to_read(
    browser: Browser, file: Path, width: int, height: int
) -> None:
    page = Opened(browser, file, width, height).page
    outside = page.evaluate("""() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter(text => {
            const box = text.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
        }).map(text => text.textContent);
    })""")
    assert outside == []
    smallest = page.evaluate("""() => Math.min(...[...document.querySelectorAll('figure svg')].map(
        svg => parseFloat(getComputedStyle(svg.querySelector('text')).fontSize)
            * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))""")
    assert smallest >= 10.5


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_names_of_ticks_have_room_beside_one_another(
    browser: Browser, tmp_path: Path, width: int, height: int
) -> None:
    """With every batch that is measured on a GPU."""
    path = tmp_path / "batches.html"
    rows = tuple(engine_row(1000 + batch, batch) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024))
    path.write_text(html_from_reports([report(engines=rows, loads=(), breakdown=())]), encoding="utf-8")
    gaps = Opened(browser, path, width, height).page.evaluate("""() => {
        const boxes = [...document.querySelectorAll('figure:first-child text.tick[text-anchor=middle]')]
            .map(text => text.getBoundingClientRect());
        return boxes.slice(1).map((box, index) => box.left - boxes[index].right);
    }""")
    assert len(gaps) == 10
    assert min(gaps) > 2


def test_it_follows_the_persons_theme(browser: Browser, file: Path) -> None:
    light, dark = (Opened(browser, file, 1280, 900, is_dark=is_dark) for is_dark in (False, True))
    assert light.computed("backgroundColor", "body") == "rgb(255, 255, 255)"
    assert dark.computed("backgroundColor", "body") == "rgb(20, 23, 28)"
    for of in ("svg text", "svg .c0", "td"):
        assert light.computed("color", of) != dark.computed("color", of)


def test_a_long_table_is_reached_by_the_keyboard(browser: Browser, file: Path) -> None:
    page = Opened(browser, file, 390, 844).page
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Engines in process"


@pytest.mark.parametrize("is_dark", [False, True])
def test_a_table_that_goes_on_to_the_right_has_a_shadow_there_until_its_end(
    browser: Browser, file: Path, is_dark: bool
) -> None:
    def brightness(opened: Opened, label: str) -> float:
        """Of most of the right edge, within the border."""
        sheet = opened.page.locator(f"[aria-label='{label}']")
        with Image.open(io.BytesIO(sheet.screenshot())) as shot:
            return float(np.median(np.asarray(shot.convert("L"))[10:-10, -3]))

    def scrolled(opened: Opened, label: str) -> None:
        opened.page.evaluate(f"document.querySelector(\"[aria-label='{label}']\").scrollLeft = 1e6")

    wide, narrow = "From the engine to the image", "Cold start"
    small = Opened(browser, file, 320, 800, is_dark=is_dark)
    small.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    for label in (wide, narrow):
        under_shadow = brightness(small, label)
        scrolled(small, label)
        at_the_end = brightness(small, label)
        assert under_shadow < 0.8 * at_the_end, label
    large = Opened(browser, file, 1280, 900, is_dark=is_dark)
    assert brightness(large, narrow) == at_the_end


def test_names_that_attack_are_shown_and_do_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "evil.html"
    path.write_text(html_from_reports([evil_report()]), encoding="utf-8")
    opened = Opened(browser, path, 1280, 900)
    assert opened.complaints == []
    assert opened.asked_for - {"data:,"} == {path.as_uri()}
    assert "<script>alert('1')</script>" in opened.page.inner_text("h1")


def test_a_script_would_be_refused_even_if_it_got_in(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    page = html_from_reports([report_of_two_devices()])
    path.write_text(page.replace("</h1>", "</h1><script>document.title = 'ran'</script>"), encoding="utf-8")
    opened = Opened(browser, path, 1280, 900)
    assert opened.page.title() == "AlexNet on an H200"
    assert "Content Security Policy" in opened.complaints[0]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of each kind, and one with names for which there is no room."""
    long = breakdown()[0].model_copy(update={"of": f"{'a long name ' * 9}: all of it"})
    rows = [load_row(), load_row(7000, 4000, model="a long name " * 9, samples=20_000)]
    made = document_from_reports(
        [report(loads=rows, breakdown=(*breakdown(), long))], introduction="# Performance", folder="images"
    )
    page = tmp_path_factory.mktemp("markdown") / "page.md"
    write_document(made, page)
    return [page.with_name("images") / name for name in made.images]


@pytest.mark.parametrize("is_dark", [False, True])
def test_an_image_alone_asks_for_nothing_and_has_room_for_all_of_it(
    browser: Browser, images: list[Path], is_dark: bool
) -> None:
    assert len(images) == 8
    for path in images:
        opened = Opened(browser, path, 460, 400, is_dark=is_dark)
        assert opened.asked_for == {path.as_uri()}
        assert opened.complaints == []
        outside = opened.page.evaluate("""() => {
            const frame = document.querySelector('rect.card').getBoundingClientRect();
            return [...document.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left || box.right > frame.right
                    || box.top < frame.top || box.bottom > frame.bottom;
            }).map(text => text.textContent);
        }""")
        assert outside == [], path.name
        smallest = opened.page.evaluate("""() => Math.min(...[...document.querySelectorAll('text')].map(
            text => parseFloat(getComputedStyle(text).fontSize)))""")
        assert smallest * 460 / 488 >= 10.5
        card, words = (opened.computed("fill", of) for of in ("rect.card", "text.title"))
        assert card == ("rgb(28, 33, 40)" if is_dark else "rgb(246, 247, 249)")
        assert words == ("rgb(230, 233, 237)" if is_dark else "rgb(27, 31, 36)")


def test_an_image_in_a_page_follows_the_persons_theme(
    browser: Browser, images: list[Path], tmp_path: Path
) -> None:
    """Where it is an image, with no style but its own."""
    page = tmp_path / "shown.html"
    page.write_text(f"<!doctype html><body style='margin: 0'><img src='{images[0].as_uri()}'>")
    light, dark = (Opened(browser, page, 600, 500, is_dark=is_dark).page for is_dark in (False, True))
    assert light.evaluate("document.images[0].naturalWidth") == 460
    assert light.screenshot() != dark.screenshot()
