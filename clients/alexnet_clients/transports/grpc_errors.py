"""From gRPC's status codes to this project's errors: one table, complete over `grpc.StatusCode`."""

from __future__ import annotations

from alexnet_model.errors import BadRequest, ClientError

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

# gRPC's own words, by a part of them in lower case; the first match counts.
_OF_CONNECTING: tuple[tuple[str, Meaning], ...] = (
    ("certificate", UNTRUSTED),
    ("hostname verification", UNTRUSTED),
    ("peer name", UNTRUSTED),
    ("wrong_version_number", NOT_ENCRYPTED),
    ("ssl handshake failed", UNTRUSTED),
    ("http1.x server", FOREIGN),
    ("failed to connect", NOBODY),
    ("connection refused", NOBODY),
    ("dns resolution failed", NOBODY),
    ("address resolution failed", NOBODY),
    ("message larger than max", REFUSED),
    ("http status code", FOREIGN),
    ("content-type", FOREIGN),
)
_MAY_BE_CONNECTING = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNKNOWN", "INTERNAL")


def error_from_status(status: str, details: str, *, subject: str) -> ClientError:
    """Translate a status (`grpc.StatusCode`'s name) with the words that came with it."""
    meaning = meaning_of_words(details) or MEANING_OF_STATUS[status]
    if status in _MAY_BE_CONNECTING:
        text = details.lower()
        meaning = next((found for part, found in _OF_CONNECTING if part in text), meaning)
    return meaning.error(subject, details or status.lower().replace("_", " "))
