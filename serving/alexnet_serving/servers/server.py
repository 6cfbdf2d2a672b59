"""The seam between those who need a server and the ways to run one: embedded here, Docker beside it."""

from __future__ import annotations

from typing import Protocol, Self


class Server(Protocol):
    """A Triton server that is ready for requests inside its `with`, and gone without a trace after it."""

    @property
    def grpc_url(self) -> str:
        """Such as `grpc://127.0.0.1:8001`, or `grpcs://127.0.0.1:8001` with TLS."""

    @property
    def http_url(self) -> str:
        """Such as `http://127.0.0.1:8000`."""

    @property
    def metrics_url(self) -> str:
        """Such as `http://127.0.0.1:8002/metrics`."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models it serves, sorted."""

    def check(self) -> None:
        """Return at once if the server and what runs its models live.

        Raises:
            ServerDied: one does not; the last lines of the log are in the message.
        """

    def wait(self) -> None:
        """Return when the server has been stopped, from another thread or by a signal handler, and is gone.

        Raises:
            ServerDied: it, or what runs one of its models, ended without being stopped.
        """

    def stop(self) -> None:
        """End the server and clean up behind it; a second call returns when the first is done."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
