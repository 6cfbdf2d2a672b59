"""What a server's refusals mean, told by its own words where its status is not enough.

Triton says UNAVAILABLE (503 in HTTP) for very different things, and what may be asked again depends on which.
"""

from __future__ import annotations

from dataclasses import dataclass

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

# By a part of the server's text, in lower case; the first match counts.
MEANING_OF_WORDS: tuple[tuple[str, Meaning], ...] = (
    ("exceeds maximum queue size", FULL),
    (
        "request timeout expired",
        Meaning(DeadlineExceeded, "a turn before the queue's own timeout", "Send fewer requests at a time."),
    ),
    ("is restricted, expecting header", REFUSED),
    ("unable to open shared memory region", REFUSED),
    ("server is stopping", STOPPING),
    ("server is exiting", STOPPING),
    ("server is not ready", STOPPING),
    ("has no available versions", NOT_LOADED),
    ("is not at ready state", NOT_LOADED),
    ("unknown model", NO_MODEL),
    ("is not available", NO_MODEL),  # of statistics
    ("not ready", NOT_LOADED),
)


def meaning_of_words(text: str) -> Meaning | None:
    """The meaning of what Triton says, where it is one of the known sentences."""
    lower = text.lower()
    return next((meaning for part, meaning in MEANING_OF_WORDS if part in lower), None)
