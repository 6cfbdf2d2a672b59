"""Which requests reach the page of `alexnet ui`, and what is added to its responses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_clients.ui import guard as module
from alexnet_clients.ui.guard import MAX_BODY_BYTES, BrowserGuard

HERE = {"host": "127.0.0.1:7860"}
OWN = HERE | {"origin": "http://127.0.0.1:7860"}


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"page"})


async def never(*_: Any) -> Any:
    raise AssertionError("not expected")


def status_and_headers(
    guard: BrowserGuard, headers: dict[str, str], *, path: str = "/", method: str = "GET"
) -> tuple[int, dict[bytes, bytes]]:
    started: list[Any] = []

    async def send(message: Any) -> None:
        started.extend([message] if message["type"] == "http.response.start" else [])

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "headers": raw, "path": path, "method": method}
    asyncio.run(guard(scope, never, send))
    (start,) = started
    return start["status"], dict(start["headers"])


@pytest.fixture
def guard(tmp_path: Path) -> BrowserGuard:
    return BrowserGuard(page, port=7860, uploads=tmp_path)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (HERE, 200),
        ({"host": "localhost:7860"}, 200),
        (HERE | {"origin": "http://127.0.0.1:7860"}, 200),
        (HERE | {"origin": "http://localhost:7860"}, 200),
        (HERE | {"origin": "http://elsewhere.example"}, 403),
        (HERE | {"origin": "https://127.0.0.1:7860"}, 403),
        (HERE | {"origin": "http://127.0.0.1:8000"}, 403),
        (HERE | {"origin": "null"}, 403),
        (HERE | {"sec-fetch-site": "none"}, 200),
        (HERE | {"sec-fetch-site": "same-origin"}, 200),
        (HERE | {"sec-fetch-site": "cross-site"}, 403),
        (HERE | {"sec-fetch-site": "same-site"}, 403),  # another port of this machine
        ({"host": "elsewhere.example:7860"}, 403),
        ({"host": "127.0.0.1"}, 403),
        ({}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(
    guard: BrowserGuard, headers: dict[str, str], status: int
) -> None:
    assert status_and_headers(guard, headers)[0] == status


def test_port_80_may_be_omitted_in_host(tmp_path: Path) -> None:
    guard = BrowserGuard(page, port=80, uploads=tmp_path)
    assert status_and_headers(guard, {"host": "127.0.0.1"})[0] == 200


def test_a_web_socket_of_another_site_is_not_accepted(guard: BrowserGuard) -> None:
    scope = {"type": "websocket", "headers": [(b"host", b"elsewhere.example")], "path": "/"}
    asyncio.run(guard(scope, never, never))


@pytest.mark.parametrize("headers", [HERE, {}])
def test_no_response_is_framed_or_taken_for_another_type(
    guard: BrowserGuard, headers: dict[str, str]
) -> None:
    _, received = status_and_headers(guard, headers)
    assert received[b"x-content-type-options"] == b"nosniff"
    assert received[b"x-frame-options"] == b"DENY"
    assert received[b"content-security-policy"] == b"frame-ancestors 'none'"


@pytest.mark.parametrize("path", ["/openapi.json", "/gradio_api/openapi.json"])
def test_there_is_no_description_of_an_api(guard: BrowserGuard, path: str) -> None:
    assert status_and_headers(guard, HERE, path=path)[0] == 404


@pytest.mark.parametrize(
    ("length", "status"),
    [("0", 200), (str(MAX_BODY_BYTES), 200), (str(MAX_BODY_BYTES + 1), 413), ("-1", 411), (None, 411)],
)
def test_a_body_has_a_known_and_bounded_length(guard: BrowserGuard, length: str | None, status: int) -> None:
    headers = OWN if length is None else OWN | {"content-length": length}
    assert status_and_headers(guard, headers, path="/gradio_api/upload", method="POST")[0] == status


def files_of(size: int) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        return path

    return write


def test_the_oldest_uploads_are_removed_and_the_examples_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UPLOADED_BYTES", 1000)
    write = files_of(300)
    examples = [write(tmp_path / "digit.png"), write(tmp_path / "cached" / "digit.png")]
    guard = BrowserGuard(page, port=7860, uploads=tmp_path)
    uploads = [write(tmp_path / str(number) / "image.png") for number in range(3)]
    for age, path in enumerate(reversed(uploads)):
        os.utime(path, (1000 - age, 1000 - age))
    post = OWN | {"content-length": "300"}
    assert status_and_headers(guard, post, path="/gradio_api/upload", method="POST")[0] == 200
    assert [path.exists() for path in (*examples, *uploads)] == [True, True, False, True, True]


def test_uploads_at_once_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UPLOADED_BYTES", 1000)
    statuses: list[int] = []
    post = OWN | {"content-length": "600"}

    async def uploading(scope: Any, receive: Any, send: Any) -> None:
        if not statuses:  # while the first one arrives
            statuses.append(await asyncio.to_thread(second))
        await page(scope, receive, send)

    def second() -> int:
        return status_and_headers(guard, post, path="/gradio_api/upload", method="POST")[0]

    guard = BrowserGuard(uploading, port=7860, uploads=tmp_path)
    assert status_and_headers(guard, post, path="/gradio_api/upload", method="POST")[0] == 200
    assert statuses == [413]
    assert second() == 200, "the first one is complete"
