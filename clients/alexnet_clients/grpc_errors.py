"""From gRPC's status codes to this project's errors: one table, complete over `grpc.StatusCode`.

Triton says UNAVAILABLE for very different things; they are told apart by the server's text.
"""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_model.errors import (
    BadRequest,
    ClientError,
    DeadlineExceeded,
    ModelNotFound,
    NotReady,
    Overloaded,
    Unreachable,
)


@dataclass(frozen=True)
class Meaning:
    kind: type[ClientError]
    expected: str = "an answer"
    next_step: str = ""


_REFUSED = Meaning(BadRequest, "a request that the server takes")
_FAILED = Meaning(ClientError, next_step="The server's log says more.")

MEANING_OF_STATUS: dict[str, Meaning] = {
    "CANCELLED": Meaning(ClientError),
    "UNKNOWN": _FAILED,
    "INVALID_ARGUMENT": _REFUSED,
    "DEADLINE_EXCEEDED": Meaning(DeadlineExceeded, next_step="Raise timeout_s, or send smaller batches."),
    "NOT_FOUND": Meaning(ModelNotFound, "a model that this server has", "Check the model's name."),
    "ALREADY_EXISTS": _REFUSED,
    "PERMISSION_DENIED": _REFUSED,
    "RESOURCE_EXHAUSTED": Meaning(Overloaded, next_step="Send fewer or smaller requests at a time."),
    "FAILED_PRECONDITION": _REFUSED,
    "ABORTED": _FAILED,
    "OUT_OF_RANGE": _REFUSED,
    "UNIMPLEMENTED": Meaning(
        Unreachable, "a Triton Inference Server", "Check the port; gRPC's is 8001 by default."
    ),
    "INTERNAL": _FAILED,
    "UNAVAILABLE": Meaning(
        Unreachable, "a server that listens there", "Start one (alexnet serve) or check the URL."
    ),
    "DATA_LOSS": _FAILED,
    "UNAUTHENTICATED": _REFUSED,
}

# What Triton's UNAVAILABLE means, by a part of its text in lower case; the first match counts.
MEANING_OF_UNAVAILABLE: tuple[tuple[str, Meaning], ...] = (
    (
        "exceeds maximum queue size",
        Meaning(Overloaded, "room in the queue", "Send fewer requests at a time."),
    ),
    (
        "request timeout expired",
        Meaning(Overloaded, "a turn before the queue's timeout", "Send fewer requests at a time."),
    ),
    ("this protocol is restricted", _REFUSED),
    ("server is stopping", Meaning(NotReady, "a ready server", "Wait until it is up again.")),
    ("server is exiting", Meaning(NotReady, "a ready server", "Wait until it is up again.")),
    ("no available versions", Meaning(NotReady, "a loaded model", "Wait until it has loaded.")),
    ("not ready", Meaning(NotReady, "a ready model", "Wait until it has loaded.")),
    (
        "connect an http1.x server",
        Meaning(Unreachable, "a gRPC port", "This is an HTTP port; gRPC's is 8001 by default."),
    ),
)


def error_from_status(status: str, details: str, *, subject: str) -> ClientError:
    """Translate a status (`grpc.StatusCode`'s name) with the server's words."""
    meaning = MEANING_OF_STATUS[status]
    if status == "UNAVAILABLE":
        text = details.lower()
        meaning = next((found for part, found in MEANING_OF_UNAVAILABLE if part in text), meaning)
    got = " ".join(details.split()).rstrip(".") or status.lower().replace("_", " ")
    return meaning.kind(subject, got=got, expected=meaning.expected, next_step=meaning.next_step)
