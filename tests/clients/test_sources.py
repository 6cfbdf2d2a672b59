from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from alexnet_clients.folders import images_in_folder
from alexnet_clients.sources import (
    Source,
    StdinImage,
    WebImage,
    name_of_source,
    sources_from_words,
)
from alexnet_model.contract import Contract
from alexnet_model.errors import DatasetError, ImageError, UnreadableImage, UsageError


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 200, 30)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "below/c.webp", "below/deeper/d.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    (tmp_path / "below" / "round").symlink_to(tmp_path, target_is_directory=True)
    return tmp_path


def found(*words: object, recursive: bool = False, stdin: bytes = b"") -> list[Source]:
    return list(
        sources_from_words(map(str, words), recursive=recursive, stdin=io.BytesIO(stdin), timeout_s=5)
    )


def names(*words: object, recursive: bool = False) -> list[str]:
    return [name_of_source(source) for source in found(*words, recursive=recursive)]


def test_a_folder_means_its_images_in_order(tree: Path) -> None:
    assert names(tree) == [str(tree / name) for name in ("a.JPG", "b.png")]


def test_recursive_goes_down_and_never_round(tree: Path) -> None:
    expected = [str(tree / name) for name in ("a.JPG", "b.png", "below/c.webp", "below/deeper/d.bmp")]
    assert names(tree, recursive=True) == expected
    assert [str(path) for path in images_in_folder(tree, recursive=True)] == expected


def test_a_pattern_means_what_it_matches(tree: Path) -> None:
    assert names(tree / "*.png") == [str(tree / "b.png")]
    assert names(tree / "below" / "**" / "*.bmp") == [str(tree / "below/deeper/d.bmp")]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cat[1].png").write_bytes(png())
    assert names(tmp_path / "cat[1].png") == [str(tmp_path / "cat[1].png")]


def test_a_missing_file_keeps_its_place(tree: Path) -> None:
    assert names(tree / "b.png", "missing.png") == [str(tree / "b.png"), "missing.png"]


@pytest.mark.parametrize(
    ("word", "words"),
    [("below/deeper/nothing*", ["no image", "pattern"]), ("empty", ["no image", "--recursive"])],
)
def test_what_means_no_image_says_so(tree: Path, word: str, words: list[str]) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        found(tree / word)
    for part in words:
        assert part in str(caught.value)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(DatasetError, match="no such file"):
        list(images_in_folder(Path("nowhere")))


def test_standard_input_is_one_image() -> None:
    (source,) = found("-", stdin=png())
    assert isinstance(source, StdinImage)
    source.load()
    assert Contract().prepared(source)[0, 0].tolist() == [10, 200, 30]
    with pytest.raises(UsageError, match="twice"):
        found("-", "-")


def test_standard_input_that_is_closed_matters_only_to_who_reads_it() -> None:
    def sources(word: str) -> list[Source]:
        return list(sources_from_words([word], recursive=False, stdin=None, timeout_s=5))

    assert sources("a.png") == [Path("a.png")]
    with pytest.raises(UsageError, match="standard input: got a closed one"):
        sources("-")


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing.png":
            self.send_error(404)
            return
        if self.path == "/round.png":
            self.send_response(302)
            self.send_header("Location", "/round.png")
            self.end_headers()
            return
        if self.path == "/nonsense.png":
            self.wfile.write(b"nonsense\r\n\r\n")
            return
        if self.path == "/trickle.png":
            self.trickle(b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 20)
            return
        self.send_response(200)
        if self.path == "/torn.png":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        if self.path == "/slow.png":
            self.trickle(b"." * 100)
        elif self.path == "/endless.png":
            while True:
                self.wfile.write(b"." * 65536)
        else:
            self.wfile.write(png())

    def trickle(self, content: bytes) -> None:
        for byte in content:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are the point
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_image_on_the_web(web: str) -> None:
    (source,) = found(f"{web}/green.png")
    assert name_of_source(source) == f"{web}/green.png"
    assert isinstance(source, WebImage)
    assert Contract().prepared(source)[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("missing.png", "got http status 404,"),
        ("slow.png", "no whole image in 0.2 s"),
        ("trickle.png", "no whole image in 0.2 s"),
        ("endless.png", "more than"),
        ("round.png", "a redirect that leads nowhere, http status 302"),
        ("nonsense.png", "an answer that is broken, or no http"),
        ("torn.png", "bytes less than was said"),
        ("with a space.png", "no web address"),
        ("naïve.png", "no web address"),
    ],
)
def test_an_image_on_the_web_that_cannot_be_had(
    web: str, page: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_model.decoding.MAX_ENCODED_BYTES", 200_000)
    started_s = time.monotonic()
    with pytest.raises(ImageError, match=words) as caught:
        Contract().prepared(WebImage(f"{web}/{page}", timeout_s=0.2))
    assert time.monotonic() - started_s < 1.5
    assert str(caught.value).startswith(f"{web}/{page}: got ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnreadableImage) == (page != "endless.png")


def test_an_image_on_the_web_that_is_given_up() -> None:
    given_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = WebImage(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=60, given_up=given_up)
        threading.Timer(0.2, given_up.set).start()
        started_s = time.monotonic()
        with pytest.raises(InterruptedError):
            source.read(1)
        assert time.monotonic() - started_s < 5


def test_a_pipe_or_device_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(UnreadableImage, match="a pipe or device"):
            Contract().prepared(path)


def test_no_such_host() -> None:
    with pytest.raises(UnreadableImage, match=r"http://nowhere\.invalid/a\.png: got no such host,"):
        Contract().prepared(WebImage("http://nowhere.invalid/a.png", timeout_s=5))
