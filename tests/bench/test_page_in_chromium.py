"""The page and its plots in a real browser that is offline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from alexnet_bench.reports.markdown import document_from_reports, html_from_reports, write_document

from .reports_for_tests import breakdown, engine_row, load_row, report
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
    """A page with its requests and its errors."""

    def __init__(
        self, browser: Browser, path: Path, width: int, height: int, *, is_dark: bool = False
    ) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if is_dark else "light",
            offline=True,
        )
        self.page: Page = context.new_page()
        self.requests: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.add(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.goto(path.as_uri())

    def computed(self, what: str, of: str) -> str:
        found: str = self.page.evaluate(f"getComputedStyle(document.querySelector({of!r})).{what}")
        return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With few loads: each of their plots takes a second."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_from_reports([report(loads=(load_row(), load_row(50, 1)))]), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_page_opens_offline_and_fits_its_window(
    browser: Browser, file: Path, width: int, height: int
) -> None:
    opened = Opened(browser, file, width, height)
    assert {url for url in opened.requests if not url.startswith("data:")} == {file.as_uri()}
    assert opened.errors == []
    page = opened.page
    assert page.inner_text("h1") == "AlexNet on two cores"
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.locator("img").count() == 6
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "needs 6,636" in page.inner_text("body")


def test_the_page_and_its_plots_follow_the_theme(browser: Browser, file: Path) -> None:
    light, dark = (Opened(browser, file, 1280, 900, is_dark=is_dark) for is_dark in (False, True))
    assert light.computed("backgroundColor", "body") == "rgb(255, 255, 255)"
    assert dark.computed("backgroundColor", "body") == "rgb(20, 23, 28)"
    assert light.computed("color", "td") != dark.computed("color", "td")
    shots = [opened.page.locator("img").first.screenshot() for opened in (light, dark)]
    assert shots[0] != shots[1]


def test_evil_names_are_shown_and_do_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "evil.html"
    path.write_text(html_from_reports([evil_report()]), encoding="utf-8")
    opened = Opened(browser, path, 1280, 900)
    assert opened.errors == []
    assert {url for url in opened.requests if not url.startswith("data:")} == {path.as_uri()}
    assert "<script>alert('1')</script>" in opened.page.inner_text("h1")


def test_a_script_would_be_refused_even_if_it_got_in(browser: Browser, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    page = file.read_text(encoding="utf-8")
    path.write_text(page.replace("</h1>", "</h1><script>document.title = 'ran'</script>"), encoding="utf-8")
    opened = Opened(browser, path, 1280, 900)
    assert opened.page.title() == "AlexNet on two cores"
    assert "Content Security Policy" in opened.errors[0]


def test_the_text_of_a_plot_is_within_its_card(browser: Browser, tmp_path: Path) -> None:
    """With long names, and with every batch that is measured on a GPU."""
    long = breakdown()[0].model_copy(update={"of": f"{'a long name ' * 9}: all of it"})
    rows = tuple(engine_row(1000 + batch, batch) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024))
    loads = [load_row(), load_row(7000, 4000, model="a long name " * 9, samples=20_000)]
    made = document_from_reports(
        [report(engines=rows, loads=loads, breakdown=(*breakdown(), long))],
        introduction="# P",
        folder="plots",
    )
    write_document(made, tmp_path / "page.md")
    for number, name in enumerate(made.images):
        path = tmp_path / "plots" / name
        if number == 0:
            opened = Opened(browser, path, 600, 500)
        else:
            opened.requests.clear()
            opened.page.goto(path.as_uri())
        assert opened.requests == {path.as_uri()}
        assert opened.errors == []
        for is_dark in (False, True):
            opened.page.emulate_media(color_scheme="dark" if is_dark else "light")
            assert texts_outside(opened.page) == [], (name, is_dark)


def texts_outside(page: Page) -> list[str]:
    """The texts of the plot on a page that are not within it."""
    found: list[str] = page.evaluate("""() => {
        const frame = document.querySelector('svg').getBoundingClientRect();
        return [...document.querySelectorAll('text')].filter(text => {
            const box = text.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
        }).map(text => text.textContent);
    }""")
    return found
