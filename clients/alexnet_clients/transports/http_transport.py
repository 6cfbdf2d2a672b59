"""HTTP to a Triton server, or to a proxy in front of it.

aiohttp is used directly, in a thread of its own, not `tritonclient.http`: that one blocks a thread for every
open request and cannot cancel a request.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

from alexnet_model.errors import AlexnetError, BadResponse, ClientError, InvalidUrl, UsageError
from alexnet_model.processes import check_same_process

from ..credentials import ANONYMOUS, ClientTls, Credentials
from ..url import ServerUrl
from .background import BackgroundLoop
from .error_rules import CLOSED
from .http_errors import HttpResponse, error_from_exception, triton_error_text
from .messages import (
    HEADER_LENGTH,
    body_from_region,
    check_empty,
    config_from_response,
    message_from_request,
    names_from_response,
    outputs_from_response,
    regions_from_response,
    statistics_from_response,
)
from .transport import (
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    subject_of,
)

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from aiohttp.connector import Connection

MAX_RESPONSE_BYTES = 256 * 2**20  # a thousand classes of a thousand images are 4 MB
T = TypeVar("T")


@dataclass(frozen=True)
class _HttpRequest:
    url: str
    subject: str  # the server and model that an error names
    body: bytes | None = None
    header_bytes: int = 0  # of the JSON before the tensors
    headers: Mapping[str, str] = field(default_factory=dict)  # of observers


class HttpTransport:
    """HTTP connections. Opening it imports aiohttp but sends nothing: the first request connects."""

    def __init__(self, url: ServerUrl, credentials: Credentials = ANONYMOUS) -> None:
        import aiohttp  # noqa: F401 (in this thread: the import would block the loop's thread)
        import yarl

        self._url = url
        self._credentials = credentials
        try:
            self._base = yarl.URL(f"{url}/")
        except ValueError as error:
            raise InvalidUrl(f"URL {url}", got=str(error), expected="a host's name or address") from error
        self._ssl = (credentials.tls or ClientTls()).ssl_context() if url.is_encrypted else None
        self._proxy = proxy_from_environment(url)
        self._session: ClientSession | None = None
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._connections = 0
        self._closed = False
        self._pid = os.getpid()
        self._loop = BackgroundLoop(self._close_session)

    @property
    def connections(self) -> int:
        """Counts connections that were made, each before its first response is passed on.

        Also those made while others are open: behind a load balancer, or if a machine disappeared silently,
        an open connection does not prove that the next one leads to the same server.
        """
        return self._connections

    def ready(self, *, timeout_s: float) -> Future[bool]:
        request = self._request("health/ready")

        def read(response: HttpResponse) -> bool:
            """Triton replies with the status and an empty body or its JSON; a proxy's body differs."""
            is_tritons = not response.body or triton_error_text(response.body) is not None
            if response.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE) and is_tritons:
                return False
            check_empty(response, subject=request.subject)
            return True

        return self._start(request, timeout_s, read)

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        request = self._request(f"models/{_quoted(model)}/config", model)
        return self._start(request, timeout_s, partial(config_from_response, subject=request.subject))

    def model_names(self, *, timeout_s: float) -> Future[tuple[str, ...]]:
        request = self._request("models/stats")
        return self._start(request, timeout_s, partial(names_from_response, subject=request.subject))

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        request = self._request(f"models/{_quoted(model)}/stats", model)
        return self._start(request, timeout_s, partial(statistics_from_response, subject=request.subject))

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        request = self._request("systemsharedmemory/status")
        return self._start(request, timeout_s, partial(regions_from_response, subject=request.subject))

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        path = f"systemsharedmemory/region/{_quoted(region.name)}/register"
        request = self._request(path, body=body_from_region(region))
        return self._start(request, timeout_s, partial(check_empty, subject=request.subject))

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        request = self._request(f"systemsharedmemory/region/{_quoted(name)}/unregister", body=b"")
        return self._start(request, timeout_s, partial(check_empty, subject=request.subject))

    def prepare(self, request: InferRequest) -> Message:
        return message_from_request(request)

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        model, started = message.request.model, time.perf_counter()
        subject = subject_of(str(self._url), model, message.request.id)
        request = _HttpRequest(
            f"{self._base}v2/models/{_quoted(model)}/infer",
            subject,
            message.wire,
            message.header_bytes,
            message.headers_for(str(self._url)),
        )

        def read(response: HttpResponse) -> InferReply:
            latency_ms = 1e3 * (time.perf_counter() - started)
            outputs, version = outputs_from_response(response, subject=subject)
            return InferReply(
                outputs=outputs,
                latency_ms=latency_ms,
                request_bytes=len(message.wire),
                model_version=version,
                request_id=message.request.id,
            )

        return self._start(request, timeout_s, read)

    def close(self) -> None:
        self._closed = True
        self._loop.close()

    def _request(self, path: str, model: str = "", body: bytes | None = None) -> _HttpRequest:
        return _HttpRequest(f"{self._base}v2/{path}", subject_of(str(self._url), model), body)

    def _start(self, request: _HttpRequest, timeout_s: float, read: Callable[[HttpResponse], T]) -> Future[T]:
        failed: Future[T] = Future()
        try:
            check_same_process(str(self._url), self._pid, kind=ClientError)
            # In the caller's thread: renewing a token takes time.
            headers = {**self._credentials.headers_now(request.subject), **request.headers}
        except ClientError as error:
            failed.set_exception(error)
            return failed
        try:
            return self._loop.run(self._result(request, headers, timeout_s, read))
        except RuntimeError:
            failed.set_exception(CLOSED.error(request.subject, "a client that is closed"))
            return failed

    async def _result(
        self,
        request: _HttpRequest,
        headers: dict[str, str],
        timeout_s: float,
        read: Callable[[HttpResponse], T],
    ) -> T:
        """The response passed through `read`, or the translated error. Cancelling the future cancels this."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._response(request, headers)
            return read(response)
        except asyncio.CancelledError as error:
            if self._closed:
                raise CLOSED.error(request.subject, "a client that is closed") from error
            raise
        except AlexnetError:
            raise
        except Exception as error:
            raise error_from_exception(error, subject=request.subject, timeout_s=timeout_s) from error

    async def _response(self, request: _HttpRequest, headers: dict[str, str]) -> HttpResponse:
        from yarl import URL

        if self._session is None:
            self._session = self._open_session()
        # In lower case like the caller's, which they replace. No compression: pixels hardly shrink.
        headers = {**headers, "accept-encoding": "identity"}
        if request.header_bytes:
            headers["content-type"] = "application/octet-stream"
            headers[HEADER_LENGTH.lower()] = str(request.header_bytes)
        proxy = self._proxy
        if proxy is not None and not self._url.is_encrypted:  # with TLS, aiohttp sends them for the tunnel
            headers |= proxy.headers
        async with self._session.request(
            "GET" if request.body is None else "POST",
            URL(request.url, encoded=True),
            headers=headers,
            data=None if request.body is None else io.BytesIO(request.body),  # shares the bytes
            allow_redirects=False,
            proxy=proxy.url if proxy is not None else None,
            proxy_headers=proxy.headers if proxy is not None else None,
        ) as response:
            return HttpResponse(
                response.status,
                await _read_body(response, request.subject),
                response.reason or "",
                response.headers.get("Location", ""),
                response.headers.get(HEADER_LENGTH),
            )

    def _open_session(self) -> ClientSession:
        import aiohttp

        transports = self._transports

        class Request(aiohttp.ClientRequest):
            async def send(self, conn: Connection) -> ClientResponse:
                if conn.transport is not None:
                    transports.add(conn.transport)
                return await super().send(conn)

        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(self._count_connection)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # none: `_result` sets the exact one
            trace_configs=[tracing],
            request_class=Request,
        )

    async def _count_connection(self, *_: object) -> None:
        self._connections += 1

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.close()
        # The session no longer knows those whose request was cancelled; TLS may still be closing there.
        for transport in list(self._transports):
            transport.abort()
        for _ in range(2):  # iterations of the loop: the first closes the socket, the next tells TLS
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy and the headers that authenticate this client to it."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)


def proxy_from_environment(url: ServerUrl) -> Proxy | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY select for a server; none for loopback.

    aiohttp would look them up before every request, and passwords in ~/.netrc with them.

    Raises:
        UsageError: the proxy has another protocol than HTTP.
    """
    text = getproxies().get(url.scheme)
    if not text or url.is_loopback or proxy_bypass(url.address):
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{url.scheme.upper()}_PROXY",
            got=f"a proxy of the scheme {parts.scheme!r}",
            expected="http://HOST:PORT",
            next_step=f"Set it to an HTTP proxy, or name {url.host} in NO_PROXY.",
        )
    proxy_url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.username is None:
        return Proxy(proxy_url)
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return Proxy(proxy_url, {"Proxy-Authorization": f"Basic {base64.b64encode(user).decode('ascii')}"})


def _quoted(name: str) -> str:
    return quote(name, safe="")


async def _read_body(response: ClientResponse, subject: str) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_RESPONSE_BYTES:
            expected = f"a response of at most {MAX_RESPONSE_BYTES} bytes"
            raise BadResponse(subject, got=f"more than {size} bytes", expected=expected)
    return b"".join(parts)
