"""`alexnet ui` in a real process, a real browser and with a real server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from alexnet_clients import Client
from alexnet_serving import EmbeddedServer

from ..awkward_images import AWKWARD

if find_spec("gradio") is None:  # its import would take seconds of every run
    pytest.skip("needs the [ui] extra", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

SETTLED_MS = 90_000


class TcpProxy:
    """A TCP proxy in front of a server, which can be stopped and started."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: list[socket.socket] = []
        self._passing: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = _started(self._accept)

    def stop(self) -> None:
        """Close all connections. Stopping twice is allowed."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for end in self._ends:
            with suppress(OSError):  # the other side may have closed it
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._passing:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accepting = _started(self._accept)

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._port))
            self._ends += [here, there]
            self._passing += [_started(_pass_on, here, there), _started(_pass_on, there, here)]


def _started(function: Callable[..., None], *arguments: socket.socket) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    url: str
    folder: Path  # all temporary files of the process
    proxy: TcpProxy


@contextmanager
def ui(server: EmbeddedServer, folder: Path) -> Iterator[Running]:
    proxy = TcpProxy(int(server.grpc_url.rpartition(":")[2]))
    command = [sys.executable, "-m", "alexnet_cli", "ui", "--port", "0", "--timeout", "3"]
    command += ["--url", f"grpc://127.0.0.1:{proxy.port}"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            words = process.stdout.readline().split()
            assert words[:1] == ["page"], process.communicate()[1]
            yield Running(process, words[1], folder, proxy)
        finally:
            process.kill()
            proxy.stop()


@pytest.fixture(scope="module")
def running(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ui(server, tmp_path_factory.mktemp("ui")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Names of other machines do not resolve.
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """The pages of one context share a cache of Gradio's files."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, running: Running) -> Iterator[Page]:
    page = opened(context, running.url)
    yield page
    page.close()


def opened(browser: Browser | BrowserContext, url: str) -> Page:
    page = browser.new_page()
    page.set_default_timeout(SETTLED_MS)
    page.goto(url)
    page.wait_for_selector("#image input[type=file]", state="attached")
    return page


def drop(page: Page, name: str, content: bytes) -> None:
    if page.get_by_label("Remove Image").count():
        page.get_by_label("Remove Image").click()
        page.wait_for_selector("#words .timing, #words .failed", state="detached")
    page.set_input_files("#image input[type=file]", {"name": name, "mimeType": "image/*", "buffer": content})


def shown(page: Page, model: str) -> dict[str, float]:
    """Labels and values of the bars, once the result of this model is shown."""
    page.wait_for_selector(f".timing[data-model={model}]")
    page.wait_for_selector("#classes meter")
    return {
        str(bar.get_attribute("aria-label")): float(bar.get_attribute("value") or "nan")
        for bar in page.locator("#classes meter").all()
    }


def expected(client: Client, content: bytes, model: str) -> dict[str, Any]:
    (prediction,) = client.classify(content, model=model)
    return {found.label: pytest.approx(found.probability, abs=1e-5) for found in prediction.classes}


def fact(page: Page, name: str) -> str:
    return page.inner_text(f"[data-fact={name}]")


@pytest.mark.parametrize(
    ("image", "model"),
    [
        ("exif orientation 6", "alexnet_fp32"),
        ("exif orientation 6", "alexnet"),
        ("16-bit grey png", "alexnet_fp32"),
        ("16-bit colour png", "alexnet"),
    ],
)
def test_the_file_is_classified_as_it_was_dropped(page: Page, client: Client, image: str, model: str) -> None:
    content = AWKWARD[image]()
    page.locator(f"#model input[value={model}]").check()
    drop(page, f"image.{'jpg' if 'exif' in image else 'png'}", content)
    assert shown(page, model) == expected(client, content, model)
    sent = int(fact(page, "sent").removesuffix(" bytes").replace(",", ""))
    pixels = len(content) if model == "alexnet" else 150_528
    assert pixels < sent < pixels + 1024


def test_switching_the_model_classifies_again(page: Page, client: Client) -> None:
    content = AWKWARD["progressive jpeg"]()
    drop(page, "image.jpg", content)
    seen = [shown(page, "alexnet_fp32")]
    assert fact(page, "precision") == "FP32, computed in f32"
    page.locator("#model input[value=alexnet_int8]").check()
    seen.append(shown(page, "alexnet_int8"))
    assert fact(page, "precision") == "INT8, computed in i8"
    models = ["alexnet_fp32", "alexnet_int8"]
    assert seen == [expected(client, content, model) for model in models]
    assert seen[0] != seen[1]


@pytest.mark.parametrize("model", ["alexnet_fp32", "alexnet"])
def test_the_parts_of_the_time_are_shown(page: Page, model: str) -> None:
    page.locator(f"#model input[value={model}]").check()
    for _ in range(5):  # the server may count this request, or one of another test, too late
        drop(page, "image.jpg", AWKWARD["cmyk jpeg"]())
        shown(page, model)
        words = page.inner_text("#words")
        if "mean of" not in words and "does not report" not in words:
            break
    parts = (
        ["network", "queue", "compute"] if model == "alexnet" else ["decode", "network", "queue", "compute"]
    )
    took = {
        str(cell.get_attribute("data-part")): float(cell.inner_text().removesuffix(" ms"))
        for cell in page.locator("[data-part]").all()
    }
    assert list(took) == [*parts, "total"]
    assert took["compute"] > 0
    assert sum(took[part] for part in parts) == pytest.approx(took["total"], abs=0.3)


def test_a_selected_example_is_classified(page: Page) -> None:
    page.wait_for_selector("button.gallery-item")
    assert page.locator("button.gallery-item").count() == 3
    page.locator("button.gallery-item").first.click()
    assert len(shown(page, "alexnet_fp32")) == 5


def test_a_broken_image_is_one_line_and_the_next_is_classified(page: Page, client: Client) -> None:
    drop(page, "cat & <b>dog.png", b"not an image")
    line = page.inner_text(".failed")
    assert "got 12 bytes that are not an image" in line
    assert line.startswith("cat & b")
    assert "Traceback" not in page.inner_text("body")
    assert page.locator("#classes meter").count() == 0
    content = AWKWARD["gif"]()
    drop(page, "image.gif", content)
    assert shown(page, "alexnet_fp32") == expected(client, content, "alexnet_fp32")


def test_an_unreachable_server_is_one_line_until_it_is_back(
    page: Page, running: Running, client: Client
) -> None:
    content = AWKWARD["webp"]()
    running.proxy.stop()
    try:
        drop(page, "image.webp", content)
        line = page.inner_text(".failed")
        assert f"127.0.0.1:{running.proxy.port}" in line
        page.reload()
        page.wait_for_selector(".failed")
        assert page.locator("#model input").count() == 4
    finally:
        running.proxy.start()
    for _ in range(10):  # the first may still meet a connection that waits before it tries again
        drop(page, "image.webp", content)
        page.wait_for_selector("#words .timing, #words .failed")
        if page.locator(".timing").count():
            break
    assert shown(page, "alexnet_fp32") == expected(client, content, "alexnet_fp32")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_page_loads_nothing_from_other_hosts_and_fits_its_window(
    browser: Browser, running: Running, tmp_path: Path, width: int, height: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    requested: set[str] = set()
    page.set_default_timeout(SETTLED_MS)
    page.on("request", lambda request: requested.add(request.url))
    page.goto(running.url)
    page.wait_for_selector("#image input[type=file]", state="attached")
    drop(page, "image.jpg", AWKWARD["progressive jpeg"]())
    shown(page, "alexnet_fp32")
    image = tmp_path / "page.png"
    page.screenshot(path=image, full_page=True)  # waits for fonts
    assert image.stat().st_size > 10_000
    elsewhere = {url for url in requested if not url.startswith((f"{running.url}/", "data:", "blob:"))}
    assert len(requested) > 10
    assert elsewhere == set()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.parametrize(
    ("signal_number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_it_ends_cleanly_while_a_page_is_open(
    server: EmbeddedServer, browser: Browser, tmp_path: Path, signal_number: int, code: int
) -> None:
    with ui(server, tmp_path) as running:
        page = opened(browser, running.url)
        drop(page, "image.gif", AWKWARD["gif"]())
        shown(page, "alexnet_fp32")
        uploaded = [path for path in tmp_path.rglob("*") if path.name == "image.gif"]
        assert uploaded
        running.process.send_signal(signal_number)
        screen, errors = running.process.communicate(timeout=90)
        page.close()
    assert running.process.returncode == code, errors
    assert screen == ""
    assert errors.splitlines() == ["Stop with Ctrl-C.", *(["Stopping ..."] if code == 0 else [])]
    assert not list(tmp_path.iterdir())
