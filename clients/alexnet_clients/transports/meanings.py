"""What a server's refusals mean, told by its own words where its status is not enough.

Triton says UNAVAILABLE (503 in HTTP) for very different things, and what may be asked again depends on which.
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


@dataclass(frozen=True)
class Meaning:
    kind: type[ClientError]
    expected: str = "an answer"
    next_step: str = ""

    def error(self, subject: str, got: str) -> ClientError:
        return self.kind(
            subject,
            got=" ".join(got.split()).rstrip("."),
            expected=self.expected,
            next_step=self.next_step,
        )


REFUSED = Meaning(BadRequest, "a request that the server takes")
FAILED = Meaning(ClientError, next_step="The server's log says more.")
LATE = Meaning(DeadlineExceeded, next_step="Raise timeout_s, or send smaller batches.")
NO_MODEL = Meaning(ModelNotFound, "a model that this server has", "Check the model's name.")
FULL = Meaning(Overloaded, "room in the queue", "Send fewer requests at a time.")
STOPPING = Meaning(NotReady, "a ready server", "Wait until it is up again.")
NOT_LOADED = Meaning(NotReady, "a loaded model", "Wait until it has loaded.")
NOBODY = Meaning(Unreachable, "a server that listens there", "Start one (alexnet serve) or check the URL.")
LOST = Meaning(ConnectionLost, next_step="See whether the server still runs, and ask again.")
FOREIGN = Meaning(
    ForeignServer,
    "a Triton Inference Server",
    "Check the URL; Triton's ports are 8001 for gRPC and 8000 for HTTP.",
)
UNTRUSTED = Meaning(
    Untrusted,
    "certificates that prove who the server and the client are",
    "Check the CA, the host's name in the URL, and the dates of the certificates.",
)
NOT_ENCRYPTED = Meaning(
    Untrusted, "a server that speaks TLS", "Check the port, or write the URL without the s."
)

# The statuses that a sentence comes with, gRPC's names and HTTP's codes: the same words beside another one
# are somebody else's, a backend's say.
Statuses: TypeAlias = frozenset[str | int]
_UNAVAILABLE: Statuses = frozenset({"UNAVAILABLE", 503})
_UNAVAILABLE_MODEL = _UNAVAILABLE | {400}  # over HTTP where its configuration is asked for
_NOT_FOUND: Statuses = frozenset({"NOT_FOUND", 404, 400})

# By a part of the server's text, a pattern in lower case; the first match counts.
MEANING_OF_WORDS: tuple[tuple[str, Statuses, Meaning], ...] = (
    ("exceeds maximum queue size", _UNAVAILABLE, FULL),
    (
        "request timeout expired",
        _UNAVAILABLE,
        Meaning(DeadlineExceeded, "a turn before the queue's own timeout", "Send fewer requests at a time."),
    ),
    ("is restricted, expecting header", frozenset({"UNAVAILABLE", 403}), REFUSED),
    ("unable to open shared memory region", frozenset({"INTERNAL", 500}), REFUSED),
    ("unable to find (system )?shared memory region", _NOT_FOUND, REFUSED),
    ("server is (stopping|exiting)", _UNAVAILABLE, STOPPING),
    ("server (is )?not ready", _UNAVAILABLE, STOPPING),
    # As NOT_FOUND too, from a server that is stopping.
    ("has no available versions", _UNAVAILABLE_MODEL | _NOT_FOUND, NOT_LOADED),
    ("is not at ready state", _UNAVAILABLE_MODEL, NOT_LOADED),
    ("unknown model", _NOT_FOUND | _UNAVAILABLE, NO_MODEL),
    # Of statistics.
    ("requested model '.*' is not available", _NOT_FOUND | {"INVALID_ARGUMENT"}, NO_MODEL),
    ("not ready", _UNAVAILABLE, NOT_LOADED),
)


def meaning_of_words(text: str, status: str | int) -> Meaning | None:
    """The meaning of what Triton says with a status, where it is one of the known sentences."""
    lower = text.lower()
    return next(
        (
            meaning
            for part, statuses, meaning in MEANING_OF_WORDS
            if status in statuses and re.search(part, lower)
        ),
        None,
    )
