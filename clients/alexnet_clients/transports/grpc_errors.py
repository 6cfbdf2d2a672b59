"""From gRPC's status codes to this project's errors: one table, complete over `grpc.StatusCode`."""

from __future__ import annotations

import re

from alexnet_model.errors import BadRequest, ClientError, Unreachable

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
    UNTRUSTED,
    Meaning,
    meaning_of_words,
)

MEANING_OF_STATUS: dict[str, Meaning] = {
    "CANCELLED": Meaning(ClientError),
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
    "UNAUTHENTICATED": Meaning(
        BadRequest, "a caller that the server or its proxy knows", "Pass headers, such as a bearer token."
    ),
}

# Somebody accepts the connection and closes it at once. gRPC has no better word for a wrong port, for a
# client without TLS, and for one whose certificate the server does not want.
_HUNG_UP_ON_PLAIN = Meaning(
    Unreachable,
    "a server that speaks gRPC without TLS there",
    "Write grpcs:// if it wants TLS, and check the port; gRPC's is 8001 by default.",
)
_HUNG_UP_ON_TLS = Meaning(
    Unreachable,
    "a server that speaks gRPC with TLS there, and wants this client",
    "Give the client a certificate of the CA that the server believes, and check the port.",
)
_HANGING_UP = re.compile("failed to connect.*(socket closed|connection reset|broken pipe)", re.DOTALL)

# gRPC's own words, by a part of them in lower case; the first match counts.
_OF_CONNECTING: tuple[tuple[str, Meaning], ...] = (
    ("wrong_version_number", NOT_ENCRYPTED),
    ("handshake read failed", NOT_ENCRYPTED),
    ("certificate_verify_failed", UNTRUSTED),
    ("hostname verification check failed", UNTRUSTED),
    ("tls handshake failed", UNTRUSTED),
    ("ssl handshake failed", UNTRUSTED),
    ("http1.x server", FOREIGN),
    ("failed to connect", NOBODY),
    ("connection refused", NOBODY),
    ("dns resolution failed", NOBODY),
    ("address resolution failed", NOBODY),
    ("address lookup failed", NOBODY),
    ("errors resolving", NOBODY),
    ("message larger than max", REFUSED),
    ("http status code", FOREIGN),
    ("content-type", FOREIGN),
)
_MAY_BE_CONNECTING = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNKNOWN", "INTERNAL")


def error_from_status(status: str, details: str, *, subject: str, is_encrypted: bool = False) -> ClientError:
    """Translate a status (`grpc.StatusCode`'s name) with the words that came with it."""
    meaning = meaning_of_words(details, status) or MEANING_OF_STATUS[status]
    text = details.lower()
    if status in _MAY_BE_CONNECTING:
        meaning = next((found for part, found in _OF_CONNECTING if part in text), meaning)
    if meaning is NOBODY and _HANGING_UP.search(text):
        meaning = _HUNG_UP_ON_TLS if is_encrypted else _HUNG_UP_ON_PLAIN
    return meaning.error(subject, details or status.lower().replace("_", " "))
