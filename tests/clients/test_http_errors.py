from __future__ import annotations

import asyncio
import builtins
import json
import re
import ssl
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from alexnet_clients.transports.http_errors import (
    MAX_EXCERPT,
    RULE_OF_EXCEPTION,
    RULE_OF_STATUS,
    HttpResponse,
    error_from_exception,
    error_from_response,
    rule_of_exception,
)
from alexnet_model.errors import (
    BadRequest,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    ForeignServer,
    ModelNotFound,
    NotReady,
    Overloaded,
    Unreachable,
    Untrusted,
)

SUBJECT = "http://host:8000 alexnet_fp32"
PAGE = b"<!DOCTYPE html>\n<html><body>" + b"<p>We are sorry.</p>" * 1000 + b"</body></html>"


def of_response(status: int, body: bytes = b"", **more: str) -> ClientError:
    return error_from_response(HttpResponse(status, body, **more), subject=SUBJECT)


def of_exception(error: Exception) -> ClientError:
    return error_from_exception(error, subject=SUBJECT, timeout_s=3)


def aiohttps_exceptions() -> dict[str, type[Exception]]:
    return {
        name: found
        for name, found in vars(aiohttp).items()
        if isinstance(found, type) and issubclass(found, aiohttp.ClientError)
    }


def test_every_exception_of_aiohttp_has_a_rule() -> None:
    exceptions = aiohttps_exceptions()
    assert len(exceptions) > 20
    del exceptions["ClientError"]  # the base class is never raised
    without = [name for name, kind in exceptions.items() if rule_of_exception(kind.__new__(kind)) is None]
    assert without == []


def test_every_exception_in_the_table_exists() -> None:
    known = aiohttps_exceptions().keys() | vars(builtins).keys()
    assert set(RULE_OF_EXCEPTION) <= known


# The texts are Triton's own, over HTTP.
@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (404, "Request for unknown model: 'x' is not found", ModelNotFound),
        (400, "Request for unknown model: 'x' has no available versions", NotReady),
        (400, "requested model 'x' is not available", ModelNotFound),
        (
            400,
            "[request id: <id_unknown>] inference request batch-size must be <= 16 for 'alexnet_int8'",
            BadRequest,
        ),
        (503, "[request id: <id_unknown>] Exceeds maximum queue size", Overloaded),
        (503, "Request timeout expired", DeadlineExceeded),
        (503, "Server is stopping, scheduler for model has stopped", NotReady),
        (403, "This API is restricted, expecting header 'alexnet'", BadRequest),
        (500, "failed to parse the request JSON buffer: Invalid value. at 0", ClientError),
        (404, "Unable to find shared memory region: 'alexnet_images_1_0123abcd'", BadRequest),
        (500, "CUDA device 0 is not available", ClientError),
        (400, "input 'image': the decoder is not ready", BadRequest),
        (404, "Not Found", ForeignServer),
        (405, "Method Not Allowed", ForeignServer),
    ],
)
def test_tritons_text_decides_before_the_status(status: int, words: str, kind: type[ClientError]) -> None:
    error = of_response(status, json.dumps({"error": words}).encode())
    assert type(error) is kind
    text = re.sub(r"^\[request id: .*?\] ", "", words)  # an error's subject names the id
    assert str(error).startswith(f"{SUBJECT}: got {text}")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (301, ForeignServer, "final URL"),
        (401, BadRequest, "Pass headers"),
        (404, ForeignServer, "expected a Triton Inference Server"),
        (407, BadRequest, "HTTPS_PROXY"),
        (408, DeadlineExceeded, "smaller batches"),
        (413, BadRequest, "smaller batches"),
        (425, NotReady, "until it is up"),
        (429, Overloaded, "fewer requests"),
        (500, ClientError, "log"),
        (502, ConnectionLost, "behind the proxy"),
        (503, Unreachable, "behind the proxy"),
        (504, DeadlineExceeded, "timeout_s"),
        (499, BadRequest, "HTTP 499"),  # of nginx and Cloudflare, and in no standard
        (520, ClientError, "HTTP 520"),
        (204, ForeignServer, "HTTP 204 No Content"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"no healthy upstream", PAGE, b'{"detail": "no"}', b'{"error": {}}'])
def test_without_tritons_text_the_status_decides(
    status: int, kind: type[ClientError], words: str, body: bytes
) -> None:
    error = of_response(status, body)
    assert type(error) is kind
    assert f"got HTTP {status}" in str(error)
    assert words in str(error)
    assert len(str(error)) < 500


def test_401_in_json_suggests_headers_too() -> None:
    assert "Pass headers" in str(of_response(401, b'{"error": "invalid token"}'))


def test_html_is_named_and_text_is_shortened() -> None:
    assert "HTTP 502 Bad Gateway with an HTML page, expected" in str(of_response(502, PAGE))
    text = f"with the text '{'x' * MAX_EXCERPT}...'"
    assert text in str(of_response(500, b"x" * 100_000))
    assert "\x1b" not in str(of_response(500, b"\x1b[31mred"))
    assert "\n" not in str(of_response(500, b'{"error": "one\\ntwo"}'))


def test_a_redirect_names_its_target_without_the_query() -> None:
    error = of_response(302, b"", location="https://login.example/start?state=secret")
    assert "HTTP 302 Found, a redirect to https://login.example/start" in str(error)
    assert "secret" not in str(error)


def test_an_unknown_status_is_reported_with_its_reason() -> None:
    assert "HTTP 521 Web Server Is Down," in str(of_response(521, reason="Web Server\x1bIs Down"))


def test_endlessly_nested_json_is_not_read() -> None:
    assert type(of_response(500, b'{"error":' + b"[" * 100_000)) is ClientError


KEY: Any = SimpleNamespace(host="host", port=8000, ssl=True, is_ssl=False)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (aiohttp.ClientConnectorError(KEY, OSError(111, "x")), Unreachable, "got connection refused"),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(None, "no such name")), Unreachable, "no such name"),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(111, "x")), Unreachable, "a proxy that listens"),
        (aiohttp.ServerDisconnectedError(), ConnectionLost, "got Server disconnected"),
        (aiohttp.ClientOSError(104, "x"), ConnectionLost, "got connection reset by peer"),
        (aiohttp.ClientConnectionResetError("Cannot write"), ConnectionLost, "got Cannot write"),
        (aiohttp.ClientPayloadError("not completed"), ConnectionLost, "got not completed"),
        (aiohttp.ServerTimeoutError(), DeadlineExceeded, "got no reply in 3 s"),
        (TimeoutError(), DeadlineExceeded, "got no reply in 3 s"),
        (ConnectionResetError(104, "x"), ConnectionLost, "got connection reset by peer"),
        (asyncio.IncompleteReadError(b"", 1), ClientError, "0 bytes read"),
        (ValueError("Newline in header"), BadRequest, "headers that HTTP can carry"),
        (RuntimeError("odd"), ClientError, "got odd"),
    ],
)
def test_exceptions_become_this_projects_errors(
    error: Exception, kind: type[ClientError], words: str
) -> None:
    found = of_exception(error)
    assert type(found) is kind
    assert words in str(found)
    assert str(found).startswith(f"{SUBJECT}: got ")


def test_a_reply_that_is_not_http_is_shortened() -> None:
    request: Any = SimpleNamespace(real_url="http://host:8000")
    error = of_exception(aiohttp.ClientResponseError(request, (), message="\x00binary" * 1000))
    assert type(error) is ForeignServer
    assert "a reply that is not HTTP" in str(error)
    assert len(str(error)) < 400


def test_502_for_a_tunnel_is_unreachable() -> None:
    request: Any = SimpleNamespace(real_url="http://host:8000")
    error = of_exception(aiohttp.ClientHttpProxyError(request, (), status=502, message="no"))
    assert type(error) is Unreachable


@pytest.mark.parametrize("status", [407, 503])
def test_a_proxys_refusal_of_a_tunnel_is_translated_by_status(status: int) -> None:
    request: Any = SimpleNamespace(real_url="http://host:8000")
    error = of_exception(aiohttp.ClientHttpProxyError(request, (), status=status, message="no"))
    assert type(error) is RULE_OF_STATUS[status].kind
    assert f"HTTP {status} {HTTPStatus(status).phrase} from the proxy" in str(error)


def test_a_tls_alert_after_the_handshake_is_untrusted() -> None:
    def lost(reason: str) -> ClientError:
        error = aiohttp.ClientOSError(1, "x")
        error.__cause__ = ssl.SSLError(1, "x")
        error.__cause__.reason = reason
        return of_exception(error)

    assert type(lost("TLSV13_ALERT_CERTIFICATE_REQUIRED")) is Untrusted
    assert type(lost("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")) is ConnectionLost
