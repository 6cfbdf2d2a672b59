"""Between browsers and the page: refuse other sites and large uploads, and add security headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias

from alexnet_model.decoding import MAX_ENCODED_BYTES

LOOPBACK = "127.0.0.1"
HTTP_PORT = 80
MAX_BODY_BYTES = MAX_ENCODED_BYTES + 1024 * 1024  # an image, and what its form adds
MAX_UPLOADED_BYTES = 8 * MAX_ENCODED_BYTES
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),  # an upload is not run as a script
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
)
# What a browser sends for a request that the user makes, or this page itself.
_OWN_FETCHES = (b"none", b"same-origin")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class BrowserGuard:
    """Pass on requests that this page's own browser windows make, within bounds on their size.

    Refused are requests of pages of other sites, also of sites whose name resolves to loopback. A browser
    sends the site's origin in `Origin`, the relation of the two sites in `Sec-Fetch-Site`, and the name that
    it looked up in `Host`. Of a GET for an image or a script it sends no `Origin`.

    Args:
        app: the page.
        port: the page's port.
        uploads: the folder that uploads are stored in. When it holds more than 512 MiB, the oldest files are
            removed.
    """

    def __init__(self, app: AsgiApp, *, port: int, uploads: Path) -> None:
        self._app = app
        self._uploads = uploads
        self._own_files = frozenset(uploads.rglob("*"))  # the page's examples
        self._arriving_bytes = 0
        suffix = "" if port == HTTP_PORT else f":{port}"  # as browsers write it
        self._hosts = {f"{name}{suffix}".encode() for name in (LOOPBACK, "localhost")}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI defines it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._is_own(headers):
            await _refuse(scope, send, 403, b"Open this page by its own address.")
        elif scope["path"].endswith("/openapi.json"):
            await _refuse(scope, send, 404, b"There is no public API.")
        elif scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            await self._receive_body(scope, receive, send, headers)
        else:
            await self._app(scope, receive, _with_security_headers(send))

    def _is_own(self, headers: dict[bytes, bytes]) -> bool:
        if headers.get(b"host") not in self._hosts:
            return False
        if b"origin" in headers:
            return headers[b"origin"] in self._origins
        return headers.get(b"sec-fetch-site", b"none") in _OWN_FETCHES

    async def _receive_body(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]
    ) -> None:
        """Pass on a request that has a body, if there is space for it beside the others."""
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            await _refuse(scope, send, 411, b"Send the length of the body.")
            return
        size = int(length)
        arriving = self._arriving_bytes + size
        if size > MAX_BODY_BYTES or arriving > MAX_UPLOADED_BYTES:
            await _refuse(scope, send, 413, b"Too large, or too many uploads at once.")
            return
        self._arriving_bytes = arriving
        try:
            self._remove_oldest(keep_bytes=MAX_UPLOADED_BYTES - arriving)
            await self._app(scope, receive, _with_security_headers(send))
        finally:
            self._arriving_bytes -= size

    def _remove_oldest(self, *, keep_bytes: int) -> None:
        """Remove the oldest uploads until the others take at most `keep_bytes`."""
        files = [path for path in self._uploads.rglob("*") if path.is_file() and path not in self._own_files]
        newest_first = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in newest_first:
            total += path.stat().st_size
            if total > keep_bytes:
                path.unlink()


def _with_security_headers(send: Send) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *SECURITY_HEADERS]}
        await send(message)

    return sending


async def _refuse(scope: Scope, send: Send, status: int, reason: bytes) -> None:
    if scope["type"] != "http":
        return  # a web socket that is not accepted is refused
    await send({"type": "http.response.start", "status": status, "headers": [*SECURITY_HEADERS]})
    await send({"type": "http.response.body", "body": reason})
