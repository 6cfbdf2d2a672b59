"""From HTTP's statuses and aiohttp's exceptions to this project's errors.

Triton replies to every refusal with a JSON object, `{"error": "..."}`. Any other reply comes from a proxy in
front of it, or from a different server.
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

from .error_rules import (
    FAILED,
    FOREIGN,
    FULL,
    LATE,
    LOST,
    NO_MODEL,
    NOT_ENCRYPTED,
    REFUSED,
    STOPPING,
    UNAUTHENTICATED,
    UNREACHABLE,
    UNTRUSTED,
    ErrorRule,
    rule_from_text,
)

MAX_EXCERPT = 200  # characters of a text that is not Triton's
_MAX_TRITON_TEXT = 2000  # characters; it may hold a backend's traceback

REDIRECT = ErrorRule(ForeignServer, "the server itself", "Give the final URL.")
# No tunnel, or a proxy without a backend: the server received nothing.
BEHIND_PROXY = ErrorRule(
    Unreachable, "a proxy that reaches the server", "Check whether the server behind the proxy runs."
)
# Proxies reply 502 also if the server crashed with the request, which may have been computed.
LOST_BEHIND_PROXY = ErrorRule(
    ConnectionLost,
    "a proxy that reaches the server",
    "Check whether the server behind the proxy runs, and try again.",
)
NO_PROXY = ErrorRule(
    Unreachable,
    "a proxy that listens there",
    "Check HTTPS_PROXY and HTTP_PROXY, or name the host in NO_PROXY.",
)
BAD_HEADERS = ErrorRule(
    BadRequest, "headers that HTTP can carry", "Check the headers that are passed to the client."
)
BAD_URL = ErrorRule(InvalidUrl, "a URL of a server")

# Replies without Triton's JSON. Statuses that are not here: 3xx REDIRECT, 4xx REFUSED, 5xx FAILED.
RULE_OF_STATUS: dict[int, ErrorRule] = {
    401: UNAUTHENTICATED,
    403: UNAUTHENTICATED,
    407: ErrorRule(
        BadRequest,
        "a client that the proxy knows",
        "Write user and password into HTTPS_PROXY or HTTP_PROXY, or name the host in NO_PROXY.",
    ),
    408: ErrorRule(
        DeadlineExceeded, "a request sent in time", "Send smaller batches, or raise the proxy's limit."
    ),
    413: ErrorRule(BadRequest, "a smaller request", "Send smaller batches, or raise the server's limit."),
    425: ErrorRule(NotReady, "a ready server", "Wait until it is up."),
    429: FULL,
    502: LOST_BEHIND_PROXY,
    503: BEHIND_PROXY,
    504: LATE,
    # Only a server that is not Triton replies so to Triton's paths, methods and content types.
    **dict.fromkeys((404, 405, 406, 410, 415, 418, 421, 422, 426, 451, 501, 505, 511), FOREIGN),
}
_RULE_OF_CLASS = {3: REDIRECT, 4: REFUSED, 5: FAILED}
# Replies with Triton's JSON, where the rule differs.
_RULE_OF_TRITONS_STATUS: dict[int, ErrorRule] = {404: NO_MODEL, 501: REFUSED, 503: STOPPING}
# What Triton says about a path that it does not have, and about one that it has for another method.
_WRONG_PATH = ("not found", "method not allowed")

# By the names of exceptions, aiohttp's and Python's: the first of an exception's classes that is here counts.
RULE_OF_EXCEPTION: dict[str, ErrorRule] = {
    "ClientConnectorCertificateError": UNTRUSTED,
    "ServerFingerprintMismatch": UNTRUSTED,
    "ClientSSLError": UNTRUSTED,
    "ClientProxyConnectionError": NO_PROXY,
    "ClientConnectorError": UNREACHABLE,
    "ServerTimeoutError": LATE,
    "TimeoutError": LATE,
    "ServerConnectionError": LOST,
    "ClientConnectionError": LOST,
    "ClientPayloadError": LOST,
    "UploadAbortedError": LOST,
    "ClientResponseError": FOREIGN,  # the reply was not HTTP
    "InvalidURL": BAD_URL,
    "NonHttpUrlClientError": BAD_URL,
    "RedirectClientError": REDIRECT,
    "OSError": LOST,
    "UnicodeError": BAD_URL,  # a host's name that DNS cannot carry
    "ValueError": BAD_HEADERS,
    "TypeError": BAD_HEADERS,
}
# A server without TLS takes a handshake for a bad request. So does Triton's HTTP port, which has none.
_CLOSED_IN_HANDSHAKE = "the connection closed in the middle of the handshake"
# OpenSSL's texts for a reply that is not TLS.
_NO_TLS = (
    _CLOSED_IN_HANDSHAKE,
    "unexpected eof while reading",
    "wrong version number",
    "record layer failure",
    "http request",
    "packet length too long",
)


@dataclass(frozen=True)
class HttpResponse:
    """A whole response."""

    status: int
    body: bytes
    reason: str = ""  # the text after the status
    location: str = ""  # the target of a redirect
    header_length: str | None = None  # of the JSON before the tensors, as the server reports it


def error_from_response(response: HttpResponse, *, subject: str) -> ClientError:
    """Translate a response that is not the expected one, by Triton's own text if it has some."""
    status, text = response.status, triton_error_text(response.body)
    if text is not None:
        rule = rule_from_text(text, status) or _RULE_OF_TRITONS_STATUS.get(status) or _rule_of_status(status)
        if text.lower().rstrip(".") in _WRONG_PATH:
            rule = FOREIGN
        return rule.error(subject, _shortened(text, _MAX_TRITON_TEXT))
    got = f"HTTP {status} {_phrase(status) or excerpt(response.reason)}".rstrip()
    if response.location:
        got += f", a redirect to {excerpt(response.location.partition('?')[0])}"
    elif response.body:
        got += f" with {description_of_body(response.body)}"
    return _rule_of_status(status).error(subject, got)


def error_from_exception(error: Exception, *, subject: str, timeout_s: float) -> ClientError:
    """Translate an exception that aiohttp, or Python below it, raised instead of a response."""
    rule, got = rule_of_exception(error), _text_of(error)
    connecting = rule in (UNTRUSTED, UNREACHABLE)
    tls = _tls_text(error, connecting=connecting)
    if type(error).__name__ == "ClientHttpProxyError":  # the proxy opened no tunnel
        status = getattr(error, "status", 0)
        rule = _rule_of_status(status)
        rule = BEHIND_PROXY if rule is LOST_BEHIND_PROXY else rule
        got = f"HTTP {status} {_phrase(status)} from the proxy"
    elif tls is not None and rule is not NO_PROXY:
        rule, got = _rule_of_tls(tls, connecting=connecting), tls
    elif rule is FOREIGN:
        got = f"a reply that is not HTTP ({got[:80]})"
    elif rule is LATE:
        got = f"no reply in {timeout_s:g} s"
    return (rule or ErrorRule(ClientError)).error(subject, got)


def rule_of_exception(error: BaseException) -> ErrorRule | None:
    """The rule of the most derived class in `RULE_OF_EXCEPTION`."""
    names = (kind.__name__ for kind in type(error).__mro__)
    return next((RULE_OF_EXCEPTION[name] for name in names if name in RULE_OF_EXCEPTION), None)


def triton_error_text(body: bytes) -> str | None:
    """The text in Triton's `{"error": "..."}`; None for any other body."""
    if not body.lstrip().startswith(b"{"):
        return None
    try:
        text = json.loads(body).get("error")
    except (ValueError, RecursionError):
        return None
    return text if isinstance(text, str) else None


def description_of_body(body: bytes) -> str:
    """An unexpected body in a few words."""
    if not body:
        return "an empty body"
    return "an HTML page" if body.lstrip()[:1] == b"<" else f"the text {excerpt(body)!r}"


def excerpt(found: bytes | str) -> str:
    """The beginning of a foreign text, without characters that a terminal would interpret."""
    text = found if isinstance(found, str) else found[: 4 * MAX_EXCERPT].decode("utf-8", "replace")
    plain = "".join(character if character.isprintable() else " " for character in text)
    return _shortened(" ".join(plain.split()), MAX_EXCERPT)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a proxy's own
        return ""


def _rule_of_status(status: int) -> ErrorRule:
    return RULE_OF_STATUS.get(status) or _RULE_OF_CLASS.get(status // 100, FOREIGN)


def _rule_of_tls(text: str, *, connecting: bool) -> ErrorRule:
    if not connecting:  # since TLS 1.3 a server rejects a client's certificate only after the handshake
        return UNTRUSTED if "alert" in text else LOST
    return NOT_ENCRYPTED if any(part in text for part in _NO_TLS) else UNTRUSTED


def _text_of(error: BaseException) -> str:
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    for text in (getattr(cause, "message", ""), getattr(cause, "strerror", ""), str(cause)):
        if isinstance(text, str) and text:
            return excerpt(text)
    return type(cause).__name__


def _tls_text(error: BaseException, *, connecting: bool) -> str | None:
    """What went wrong in TLS; None if the exception has another cause."""
    for cause in _causes(error):
        verified, reason = getattr(cause, "verify_message", None), getattr(cause, "reason", None)
        if isinstance(cause, ssl.SSLError) and (verified or reason):
            return str(verified).rstrip(".") if verified else str(reason).replace("_", " ").lower()
        # How asyncio reports that the server closed the connection in the handshake.
        if connecting and isinstance(cause, ConnectionResetError) and cause.errno is None:
            return _CLOSED_IN_HANDSHAKE
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):  # a chain of causes may be circular
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
