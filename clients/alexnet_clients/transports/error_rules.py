"""Which error a server's refusal becomes, by Triton's own words where its status is ambiguous.

Triton uses UNAVAILABLE (503 in HTTP) for very different failures, and only some of them may be retried.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

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

# A proxy, or the server's own options, may refuse the statistics and still allow inference.
STATISTICS_REFUSED: tuple[type[ClientError], ...] = (BadRequest, ForeignServer, ModelNotFound)


# How Triton begins an error of a request; `<id_unknown>` for one that was sent without an id.
_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")


@dataclass(frozen=True)
class ErrorRule:
    """An error's class, and the parts of its message that do not depend on the reply."""

    kind: type[ClientError]
    expected: str = "a result"
    next_step: str = ""

    def error(self, subject: str, got: str) -> ClientError:
        """The error, with `got` on one line. The subject already names the request's id."""
        text = " ".join(_REQUEST_ID.sub("", got).split()).rstrip(".")
        return self.kind(subject, got=text, expected=self.expected, next_step=self.next_step)


CLOSED = ErrorRule(ClientError, "an open one", "Create a new client.")
REFUSED = ErrorRule(BadRequest, "a request that the server accepts")
FAILED = ErrorRule(ClientError, next_step="The server's log has more details.")
LATE = ErrorRule(DeadlineExceeded, next_step="Raise timeout_s, or send smaller batches.")
NO_MODEL = ErrorRule(ModelNotFound, "a model that this server has", "Check the model's name.")
FULL = ErrorRule(Overloaded, "space in the queue", "Send fewer requests at a time.")
NO_SHARED_MEMORY = ErrorRule(
    ClientError,
    "enough shared memory for the server's models",
    "Send fewer or smaller images at a time, or give the server a larger /dev/shm (docs/serving.md).",
)
IN_USE = ErrorRule(NotReady, "shared memory that no request uses", "Try again.")
STOPPING = ErrorRule(NotReady, "a ready server", "Wait until it is up again.")
NOT_LOADED = ErrorRule(NotReady, "a loaded model", "Wait until it has loaded.")
UNREACHABLE = ErrorRule(
    Unreachable, "a server that listens there", "Start one (alexnet serve) or check the URL."
)
LOST = ErrorRule(ConnectionLost, next_step="Check whether the server still runs, and try again.")
FOREIGN = ErrorRule(
    ForeignServer,
    "a Triton Inference Server",
    "Check the URL; Triton's ports are 8001 for gRPC and 8000 for HTTP.",
)
UNTRUSTED = ErrorRule(
    Untrusted,
    "certificates that prove who the server and the client are",
    "Check the CA, the host's name in the URL, and the dates of the certificates.",
)
NOT_ENCRYPTED = ErrorRule(
    Untrusted, "a server that speaks TLS", "Check the port, or use grpc:// or http:// without TLS."
)
UNAUTHENTICATED = ErrorRule(
    BadRequest, "a client that the server or its proxy knows", "Pass headers, such as a bearer token."
)

# A rule applies only with these statuses (gRPC's names, HTTP's codes): with another status, the same words
# come from somewhere else, for instance from a backend.
Statuses: TypeAlias = frozenset[str | int]
_UNAVAILABLE: Statuses = frozenset({"UNAVAILABLE", 503})
_UNAVAILABLE_MODEL = _UNAVAILABLE | {400}  # HTTP's reply to a request for its configuration
_NOT_FOUND: Statuses = frozenset({"NOT_FOUND", 404, 400})

# By a pattern in Triton's text in lower case; the first match counts.
RULE_OF_TEXT: tuple[tuple[str, Statuses, ErrorRule], ...] = (
    ("exceeds maximum queue size", _UNAVAILABLE, FULL),
    (
        "request timeout expired",
        _UNAVAILABLE,
        ErrorRule(DeadlineExceeded, "execution before the queue's timeout", "Send fewer requests at a time."),
    ),
    ("is restricted, expecting header", frozenset({"UNAVAILABLE", 403}), REFUSED),
    ("unable to open shared memory region", frozenset({"INTERNAL", 500}), REFUSED),
    ("unable to find (system )?shared memory region", _NOT_FOUND, REFUSED),
    # For a moment after a reply, since Triton replies before it lets go of the request's memory.
    ("shared memory region .* is currently in use", frozenset({"INTERNAL", 500}), IN_USE),
    ("failed to increase the shared memory pool", frozenset({"INTERNAL", 500}), NO_SHARED_MEMORY),
    ("server is (stopping|exiting)", _UNAVAILABLE, STOPPING),
    ("server (is )?not ready", _UNAVAILABLE, STOPPING),
    # Also with NOT_FOUND, from a server that is stopping.
    ("has no available versions", _UNAVAILABLE_MODEL | _NOT_FOUND, NOT_LOADED),
    ("is not at ready state", _UNAVAILABLE_MODEL, NOT_LOADED),
    ("unknown model", _NOT_FOUND | _UNAVAILABLE, NO_MODEL),
    # In reply to a request for statistics.
    ("requested model '.*' is not available", _NOT_FOUND | {"INVALID_ARGUMENT"}, NO_MODEL),
    ("not ready", _UNAVAILABLE, NOT_LOADED),
)


def rule_from_text(text: str, status: str | int) -> ErrorRule | None:
    """The rule for a text that Triton sent with a status; None if the text is not in `RULE_OF_TEXT`."""
    lower = text.lower()
    for pattern, statuses, rule in RULE_OF_TEXT:
        if status in statuses and re.search(pattern, lower):
            return rule
    return None
