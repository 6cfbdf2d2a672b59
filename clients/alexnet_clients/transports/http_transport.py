"""HTTP to a Triton server, or to what stands in front of it.

aiohttp is used directly, on a thread of its own, not `tritonclient.http`: that one keeps a thread busy for
every open request, and cannot cancel one.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote
from weakref import WeakSet

from alexnet_model.errors import AlexnetError, BadResponse, ClientError, InvalidUrl

from ..credentials import ANONYMOUS, ClientTls, Credentials
from ..url import ServerUrl
from .background import BackgroundLoop
from .http_errors import Answer, error_from_exception, tritons_words
from .http_messages import (
    HEADER_LENGTH,
    body_from_region,
    config_from_answer,
    message_from_request,
    nothing_from_answer,
    outputs_from_answer,
    regions_from_answer,
    statistics_from_answer,
)
from .http_setup import proxy_from_environment, ssl_context_from_tls
from .transport import InferReply, InferRequest, Message, ModelConfig, ModelStatistics, Region

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from aiohttp.connector import Connection

LONGEST_ANSWER = 256 * 2**20  # bytes; a thousand classes of a thousand images are 4 MB
T = TypeVar("T")


@dataclass(frozen=True)
class _Question:
    url: str
    subject: str
    body: bytes | None = None
    header_bytes: int = 0  # of the JSON before the tensors


class HttpTransport:
    """Opening it imports aiohttp but sends nothing: the first request connects."""

    def __init__(self, url: ServerUrl, access: Credentials = ANONYMOUS) -> None:
        import aiohttp  # noqa: F401 (on this thread: the loop's would stand still for it)
        import yarl

        self._url = url
        self._access = access
        try:
            self._base = yarl.URL(f"{url}/")
        except ValueError as error:
            raise InvalidUrl(f"URL {url}", got=str(error), expected="a host's name or address") from error
        self._ssl = ssl_context_from_tls(access.tls or ClientTls()) if url.is_encrypted else None
        self._proxy = proxy_from_environment(url)
        self._session: ClientSession | None = None
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._connections = 0
        self._closed = False
        self._loop = BackgroundLoop(self._end)

    @property
    def connections(self) -> int:
        """Counts connections that were made, each before its first answer is handed out.

        Also those beside others that are open: behind a balancer, or where a machine vanished without a word,
        an open connection does not say that the next one leads to the same server.
        """
        return self._connections

    def ready(self, *, timeout_s: float) -> Future[bool]:
        question = self._question("health/ready")

        def is_ready(answer: Answer) -> bool:
            """Triton says so by the status; its answer is empty or its JSON, and a proxy's is not."""
            is_tritons = not answer.body or tritons_words(answer.body) is not None
            if answer.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE) and is_tritons:
                return False
            nothing_from_answer(answer, subject=question.subject)
            return True

        return self._asked(question, timeout_s, is_ready)

    def model_config(self, model: str, *, timeout_s: float) -> Future[ModelConfig]:
        question = self._question(f"models/{_quoted(model)}/config", model)
        return self._asked(question, timeout_s, partial(config_from_answer, subject=question.subject))

    def statistics(self, model: str, *, timeout_s: float) -> Future[ModelStatistics]:
        question = self._question(f"models/{_quoted(model)}/stats", model)
        return self._asked(question, timeout_s, partial(statistics_from_answer, subject=question.subject))

    def regions(self, *, timeout_s: float) -> Future[tuple[Region, ...]]:
        question = self._question("systemsharedmemory/status")
        return self._asked(question, timeout_s, partial(regions_from_answer, subject=question.subject))

    def register(self, region: Region, *, timeout_s: float) -> Future[None]:
        path = f"systemsharedmemory/region/{_quoted(region.name)}/register"
        question = self._question(path, body=body_from_region(region))
        return self._asked(question, timeout_s, partial(nothing_from_answer, subject=question.subject))

    def unregister(self, name: str, *, timeout_s: float) -> Future[None]:
        question = self._question(f"systemsharedmemory/region/{_quoted(name)}/unregister", body=b"")
        return self._asked(question, timeout_s, partial(nothing_from_answer, subject=question.subject))

    def prepare(self, request: InferRequest) -> Message:
        return message_from_request(request)

    def submit(self, message: Message, *, timeout_s: float) -> Future[InferReply]:
        model, started = message.request.model, time.perf_counter()
        path = f"models/{_quoted(model)}/infer"
        question = self._question(path, model, message.wire, message.header_bytes)

        def reply_from_answer(answer: Answer) -> InferReply:
            latency_ms = 1e3 * (time.perf_counter() - started)
            return InferReply(
                outputs=outputs_from_answer(answer, subject=question.subject),
                latency_ms=latency_ms,
                request_bytes=len(message.wire),
            )

        return self._asked(question, timeout_s, reply_from_answer)

    def close(self) -> None:
        self._closed = True
        self._loop.close()

    def _question(
        self, path: str, model: str = "", body: bytes | None = None, header_bytes: int = 0
    ) -> _Question:
        return _Question(f"{self._base}v2/{path}", f"{self._url} {model}".rstrip(), body, header_bytes)

    def _asked(self, question: _Question, timeout_s: float, answer_from: Callable[[Answer], T]) -> Future[T]:
        failed: Future[T] = Future()
        try:
            # On the caller's thread: to renew a token takes its time.
            headers = self._access.headers_now(question.subject)
        except ClientError as error:
            failed.set_exception(error)
            return failed
        try:
            return self._loop.run(self._answered(question, headers, timeout_s, answer_from))
        except RuntimeError:
            failed.set_exception(_closed_error(question))
            return failed

    async def _answered(
        self,
        question: _Question,
        headers: dict[str, str],
        timeout_s: float,
        answer_from: Callable[[Answer], T],
    ) -> T:
        """The answer or the translated error; whoever cancels the future cancels this."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._exchanged(question, headers)
            return answer_from(answer)
        except asyncio.CancelledError as error:
            if self._closed:
                raise _closed_error(question) from error
            raise
        except AlexnetError:
            raise
        except Exception as error:
            raise error_from_exception(error, subject=question.subject, timeout_s=timeout_s) from error

    async def _exchanged(self, question: _Question, headers: dict[str, str]) -> Answer:
        from yarl import URL

        if self._session is None:
            self._session = self._opened()
        # In lower case like the caller's, which they replace. Nothing is compressed: pixels hardly shrink.
        headers = {**headers, "accept-encoding": "identity"}
        if question.header_bytes:
            headers["content-type"] = "application/octet-stream"
            headers[HEADER_LENGTH.lower()] = str(question.header_bytes)
        proxy = self._proxy
        if proxy is not None and not self._url.is_encrypted:  # else aiohttp asks for a tunnel with them
            headers |= proxy.headers
        async with self._session.request(
            "GET" if question.body is None else "POST",
            URL(question.url, encoded=True),
            headers=headers,
            data=None if question.body is None else io.BytesIO(question.body),  # shares the bytes
            allow_redirects=False,
            proxy=proxy.url if proxy is not None else None,
            proxy_headers=proxy.headers if proxy is not None else None,
        ) as response:
            return Answer(
                response.status,
                await _body_of(response, question.subject),
                response.reason or "",
                response.headers.get("Location", ""),
                response.headers.get(HEADER_LENGTH),
            )

    def _opened(self) -> ClientSession:
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
            timeout=aiohttp.ClientTimeout(),  # none: `_answered` has the exact one
            trace_configs=[tracing],
            request_class=Request,
        )

    async def _count_connection(self, *_: object) -> None:
        self._connections += 1

    async def _end(self) -> None:
        if self._session is not None:
            await self._session.close()
        # The session has forgotten those whose request was cancelled. TLS may still be saying goodbye there.
        for transport in list(self._transports):
            transport.abort()
        for _ in range(2):  # turns of the loop: one closes the socket, the next tells TLS
            await asyncio.sleep(0)


def _quoted(name: str) -> str:
    return quote(name, safe="")


async def _body_of(response: ClientResponse, subject: str) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > LONGEST_ANSWER:
            raise BadResponse(
                subject, got=f"more than {size} bytes", expected=f"at most {LONGEST_ANSWER} of an answer"
            )
    return b"".join(parts)


def _closed_error(question: _Question) -> ClientError:
    return ClientError(question.subject, got="a client that is closed", expected="an open one")
