"""From gRPC's status codes to this project's errors: one table, complete over `grpc.StatusCode`."""

from __future__ import annotations

import re

from alexnet_model.errors import ClientError, Unreachable

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

RULE_OF_STATUS: dict[str, ErrorRule] = {
    "CANCELLED": STOPPING,  # by a server that is stopping; a client cancels its calls without such an error
    "UNKNOWN": FAILED,
    "INVALID_ARGUMENT": REFUSED,
    "DEADLINE_EXCEEDED": LATE,
    "NOT_FOUND": NO_MODEL,
    "ALREADY_EXISTS": REFUSED,
    "PERMISSION_DENIED": REFUSED,
    "RESOURCE_EXHAUSTED": FULL,
    "FAILED_PRECONDITION": REFUSED,
    "ABORTED": FAILED,
    "OUT_OF_RANGE": REFUSED,
    "UNIMPLEMENTED": FOREIGN,
    "INTERNAL": FAILED,
    "UNAVAILABLE": LOST,
    "DATA_LOSS": FAILED,
    "UNAUTHENTICATED": UNAUTHENTICATED,
}

# The server accepts the connection and closes it at once. gRPC reports the same for a wrong port, for a
# client without TLS, and for a client whose certificate the server rejects.
_CLOSED_WITHOUT_TLS = ErrorRule(
    Unreachable,
    "a server that speaks gRPC without TLS there",
    "Use grpcs:// if the server needs TLS, and check the port: gRPC's default is 8001.",
)
_CLOSED_WITH_TLS = ErrorRule(
    Unreachable,
    "a server that speaks gRPC with TLS there and accepts this client",
    "Give the client a certificate of the CA that the server trusts, and check the port.",
)
_CLOSED = re.compile("failed to connect.*(socket closed|connection reset|broken pipe)", re.DOTALL)

# How gRPC reports that its time to connect was over; the second text while TLS was being negotiated.
_CONNECTED_TOO_LATE = ErrorRule(
    Unreachable, "a server that completes the connection in time", "Check the URL and the network."
)

# By a part of gRPC's own text in lower case; the first match counts.
_RULE_OF_CONNECTING: tuple[tuple[str, ErrorRule], ...] = (
    ("connection attempt timed out", _CONNECTED_TOO_LATE),
    ("endpoint closing", _CONNECTED_TOO_LATE),
    ("wrong_version_number", NOT_ENCRYPTED),
    ("handshake read failed", NOT_ENCRYPTED),
    ("certificate_verify_failed", UNTRUSTED),
    ("hostname verification check failed", UNTRUSTED),
    ("tls handshake failed", UNTRUSTED),
    ("ssl handshake failed", UNTRUSTED),
    ("http1.x server", FOREIGN),
    ("failed to connect", UNREACHABLE),
    ("connection refused", UNREACHABLE),
    ("dns resolution failed", UNREACHABLE),
    ("address resolution failed", UNREACHABLE),
    ("address lookup failed", UNREACHABLE),
    ("errors resolving", UNREACHABLE),
    # A server that is closing the connection did not accept this request. If it had, the text would begin
    # with another reason. So nothing was computed.
    ("stream removed (goaway received", STOPPING),
    ("rst_stream with error code 7", STOPPING),  # REFUSED_STREAM in RFC 9113, section 7
    ("message larger than max", REFUSED),
    ("http status code", FOREIGN),
    ("content-type", FOREIGN),
)
_STATUSES_OF_CONNECTING = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNKNOWN", "INTERNAL")


def error_from_status(
    status: str, details: str, *, subject: str, is_encrypted: bool = False, proxy: str = ""
) -> ClientError:
    """Translate a failed call.

    Args:
        status: `grpc.StatusCode`'s name.
        details: the text that came with it.
        subject: the server and model that the error names.
        is_encrypted: whether the client used TLS.
        proxy: the variable of the proxy that the client used; empty for none.
    """
    rule = rule_from_text(details, status) or RULE_OF_STATUS[status]
    text = details.lower()
    if status in _STATUSES_OF_CONNECTING:
        rule = next((found for part, found in _RULE_OF_CONNECTING if part in text), rule)
    if rule is UNREACHABLE and _CLOSED.search(text):
        rule = _CLOSED_WITH_TLS if is_encrypted else _CLOSED_WITHOUT_TLS
    if proxy and issubclass(rule.kind, Unreachable):
        next_step = f"Check the proxy in {proxy}, or name the host in no_proxy."
        rule = ErrorRule(Unreachable, "a proxy that reaches the server", next_step)
    return rule.error(subject, details or status.lower().replace("_", " "))
