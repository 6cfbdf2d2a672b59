"""From HTTP's statuses and aiohttp's exceptions to this project's errors.

Two tables: one complete over `http.HTTPStatus` from 300 on, one over the exceptions that aiohttp exports.
Triton answers every refusal with a JSON object, `{"error": "..."}`. Whatever else answers stands in front of
it, or in its place.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from alexnet_model.errors import (
    BadRequest,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    ForeignServer,
    InvalidUrl,
    NotReady,
    Unreachable,
)

from .meanings import (
    FAILED,
    FOREIGN,
    FULL,
    LATE,
    LOST,
    NO_MODEL,
    NOBODY,
    NOT_ENCRYPTED,
    REFUSED,
    STOPPING,
    UNTRUSTED,
    Meaning,
    meaning_of_words,
)

LONGEST_EXCERPT = 200  # characters of somebody else's page
_LONGEST_WORDS = 2000  # of Triton's own, which may hold a backend's traceback

STRANGER = Meaning(
    BadRequest, "a caller that the server or its proxy knows", "Pass headers, such as a bearer token."
)
STRANGER_TO_PROXY = Meaning(
    BadRequest,
    "a caller that the proxy knows",
    "Write user and password into HTTPS_PROXY or HTTP_PROXY, or name the host in NO_PROXY.",
)
REDIRECT = Meaning(ForeignServer, "the server itself", "Give the final URL.")
TOO_LARGE = Meaning(BadRequest, "a smaller request", "Send smaller batches, or raise the server's limit.")
NO_WAY = Meaning(
    Unreachable, "a proxy that reaches the server", "See whether the server behind the proxy runs."
)
# Proxies say 502 also where the server died with the request, which may have been computed.
LOST_BEHIND = Meaning(
    ConnectionLost,
    "a proxy that reaches the server",
    "See whether the server behind the proxy runs, and ask again.",
)
NO_PROXY = Meaning(
    Unreachable,
    "a proxy that listens there",
    "Check HTTPS_PROXY and HTTP_PROXY, or name the host in NO_PROXY.",
)
NOT_YET = Meaning(NotReady, "a ready server", "Wait until it is up.")
UNSENDABLE = Meaning(BadRequest, "headers that HTTP can carry", "Check the headers that the client is given.")
NO_URL = Meaning(InvalidUrl, "a URL of a server")

# Of answers without Triton's JSON.
MEANING_OF_STATUS: dict[int, Meaning] = {
    HTTPStatus.MULTIPLE_CHOICES: REDIRECT,
    HTTPStatus.MOVED_PERMANENTLY: REDIRECT,
    HTTPStatus.FOUND: REDIRECT,
    HTTPStatus.SEE_OTHER: REDIRECT,
    HTTPStatus.NOT_MODIFIED: REDIRECT,
    HTTPStatus.USE_PROXY: REDIRECT,
    HTTPStatus.TEMPORARY_REDIRECT: REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT: REDIRECT,
    HTTPStatus.BAD_REQUEST: REFUSED,
    HTTPStatus.UNAUTHORIZED: STRANGER,
    HTTPStatus.PAYMENT_REQUIRED: REFUSED,
    HTTPStatus.FORBIDDEN: STRANGER,
    HTTPStatus.NOT_FOUND: FOREIGN,
    HTTPStatus.METHOD_NOT_ALLOWED: FOREIGN,
    HTTPStatus.NOT_ACCEPTABLE: FOREIGN,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: STRANGER_TO_PROXY,
    HTTPStatus.REQUEST_TIMEOUT: Meaning(
        DeadlineExceeded, "time to send the request in", "Send smaller batches, or raise the proxy's limit."
    ),
    HTTPStatus.CONFLICT: REFUSED,
    HTTPStatus.GONE: FOREIGN,
    HTTPStatus.LENGTH_REQUIRED: REFUSED,
    HTTPStatus.PRECONDITION_FAILED: REFUSED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG: REFUSED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: FOREIGN,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: REFUSED,
    HTTPStatus.EXPECTATION_FAILED: REFUSED,
    HTTPStatus.IM_A_TEAPOT: FOREIGN,
    HTTPStatus.MISDIRECTED_REQUEST: FOREIGN,
    HTTPStatus.UNPROCESSABLE_ENTITY: FOREIGN,
    HTTPStatus.LOCKED: REFUSED,
    HTTPStatus.FAILED_DEPENDENCY: REFUSED,
    HTTPStatus.TOO_EARLY: NOT_YET,
    HTTPStatus.UPGRADE_REQUIRED: FOREIGN,
    HTTPStatus.PRECONDITION_REQUIRED: REFUSED,
    HTTPStatus.TOO_MANY_REQUESTS: FULL,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: REFUSED,
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS: FOREIGN,
    HTTPStatus.INTERNAL_SERVER_ERROR: FAILED,
    HTTPStatus.NOT_IMPLEMENTED: FOREIGN,
    HTTPStatus.BAD_GATEWAY: LOST_BEHIND,
    HTTPStatus.SERVICE_UNAVAILABLE: NO_WAY,
    HTTPStatus.GATEWAY_TIMEOUT: LATE,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: FOREIGN,
    HTTPStatus.VARIANT_ALSO_NEGOTIATES: FAILED,
    HTTPStatus.INSUFFICIENT_STORAGE: FAILED,
    HTTPStatus.LOOP_DETECTED: FAILED,
    HTTPStatus.NOT_EXTENDED: FAILED,
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED: FOREIGN,
}
# Of answers with it, where that is not the same.
_OF_TRITONS_STATUS: dict[int, Meaning] = {
    HTTPStatus.NOT_FOUND: NO_MODEL,
    HTTPStatus.NOT_IMPLEMENTED: REFUSED,
    HTTPStatus.SERVICE_UNAVAILABLE: STOPPING,
}
# What Triton says of a path that it does not serve, and of one that it serves to another verb.
_WRONG_PATH = ("not found", "method not allowed")

# By the names of exceptions, aiohttp's and Python's: the first of an exception's classes that is here counts.
MEANING_OF_EXCEPTION: dict[str, Meaning] = {
    "ClientConnectorCertificateError": UNTRUSTED,
    "ServerFingerprintMismatch": UNTRUSTED,
    "ClientSSLError": UNTRUSTED,
    "ClientProxyConnectionError": NO_PROXY,
    "ClientConnectorError": NOBODY,
    "ServerTimeoutError": LATE,
    "TimeoutError": LATE,
    "ServerConnectionError": LOST,
    "ClientConnectionError": LOST,
    "ClientPayloadError": LOST,
    "UploadAbortedError": LOST,
    "ClientResponseError": FOREIGN,  # what came was no HTTP
    "InvalidURL": NO_URL,
    "NonHttpUrlClientError": NO_URL,
    "RedirectClientError": REDIRECT,
    "OSError": LOST,
    "UnicodeError": NO_URL,  # a host's name that DNS cannot carry
    "ValueError": UNSENDABLE,
    "TypeError": UNSENDABLE,
}
# A server without TLS takes a handshake for a bad request. So does Triton's HTTP port, which has none.
_HUNG_UP = "the connection closed in the middle of the handshake"
# OpenSSL's words for an answer that is no TLS.
_NO_TLS = (
    _HUNG_UP,
    "unexpected eof while reading",
    "wrong version number",
    "record layer failure",
    "http request",
    "packet length too long",
)


@dataclass(frozen=True)
class Answer:
    """What came over HTTP, whole."""

    status: int
    body: bytes
    reason: str = ""  # the words after the status
    location: str = ""  # where a redirect points
    header_length: str | None = None  # of the JSON before the tensors, as the server says


def error_from_answer(answer: Answer, *, subject: str) -> ClientError:
    """Translate an answer that is not what was asked for, by Triton's own words where it has some."""
    status, words = answer.status, tritons_words(answer.body)
    if words is not None:
        meaning = (
            meaning_of_words(words, status) or _OF_TRITONS_STATUS.get(status) or _meaning_of_status(status)
        )
        if words.lower().rstrip(".") in _WRONG_PATH:
            meaning = FOREIGN
        return meaning.error(subject, _cut(words, _LONGEST_WORDS))
    got = f"HTTP {status} {_phrase(status) or excerpt_of(answer.reason)}".rstrip()
    if answer.location:
        got += f", a redirect to {excerpt_of(answer.location.partition('?')[0])}"
    elif answer.body:
        got += f" with {page_of(answer.body)}"
    return _meaning_of_status(status).error(subject, got)


def error_from_exception(error: Exception, *, subject: str, timeout_s: float) -> ClientError:
    """Translate what aiohttp, or Python below it, raised instead of an answer."""
    meaning, got = meaning_of_exception(error), _words_of(error)
    connecting = meaning in (UNTRUSTED, NOBODY)
    kind, tls = type(error).__name__, _tls_words(error, connecting=connecting)
    if kind == "ClientHttpProxyError":  # to the request for a tunnel
        status = getattr(error, "status", 0)
        meaning = _meaning_of_status(status)
        meaning = NO_WAY if meaning is LOST_BEHIND else meaning  # no tunnel: nothing was sent to the server
        got = f"HTTP {status} {_phrase(status)} from the proxy"
    elif tls is not None and meaning is not NO_PROXY:
        meaning, got = _meaning_of_tls(tls, connecting=connecting), tls
    elif meaning is FOREIGN:
        got = f"an answer that is not HTTP ({got[:80]})"
    elif meaning is LATE:
        got = f"no answer in {timeout_s:g} s"
    return (meaning or Meaning(ClientError)).error(subject, got)


def meaning_of_exception(error: BaseException) -> Meaning | None:
    names = (kind.__name__ for kind in type(error).__mro__)
    return next((MEANING_OF_EXCEPTION[name] for name in names if name in MEANING_OF_EXCEPTION), None)


def tritons_words(body: bytes) -> str | None:
    """What stands in Triton's `{"error": "..."}`, if that is what a body is."""
    if not body.lstrip().startswith(b"{"):
        return None
    try:
        words = json.loads(body).get("error")
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, str) else None


def page_of(body: bytes) -> str:
    """A body that was not expected, in a few words."""
    if not body:
        return "an empty answer"
    if body.lstrip()[:1] == b"<":
        return "an HTML page"
    return f"the text {excerpt_of(body)!r}"


def excerpt_of(found: bytes | str) -> str:
    """The beginning of a text from outside, without what could play tricks on a terminal."""
    text = found if isinstance(found, str) else found[: 4 * LONGEST_EXCERPT].decode("utf-8", "replace")
    plain = "".join(character if character.isprintable() else " " for character in text)
    return _cut(" ".join(plain.split()), LONGEST_EXCERPT)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # one that only somebody's proxy knows
        return ""


def _meaning_of_status(status: int) -> Meaning:
    by_class = {3: REDIRECT, 4: REFUSED, 5: FAILED}
    return MEANING_OF_STATUS.get(status) or by_class.get(status // 100, FOREIGN)


def _meaning_of_tls(words: str, *, connecting: bool) -> Meaning:
    if not connecting:  # from TLS 1.3 on a server says only then that it wants another certificate
        return UNTRUSTED if "alert" in words else LOST
    return NOT_ENCRYPTED if any(part in words for part in _NO_TLS) else UNTRUSTED


def _words_of(error: BaseException) -> str:
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    for words in (getattr(cause, "message", ""), getattr(cause, "strerror", ""), str(cause)):
        if isinstance(words, str) and words:
            return excerpt_of(words)
    return type(cause).__name__


def _tls_words(error: BaseException, *, connecting: bool) -> str | None:
    """What went wrong with TLS, if that is what an exception goes back to."""
    for cause in _causes(error):
        verified, reason = getattr(cause, "verify_message", None), getattr(cause, "reason", None)
        if isinstance(cause, ssl.SSLError) and (verified or reason):
            return str(verified).rstrip(".") if verified else str(reason).replace("_", " ").lower()
        # What asyncio says of a handshake that the other side ended.
        if connecting and isinstance(cause, ConnectionResetError) and cause.errno is None:
            return _HUNG_UP
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):  # chains are short, and may be closed
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
