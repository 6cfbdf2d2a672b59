"""Where a server sends OpenTelemetry spans of its requests: checks, and Triton's options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from alexnet_model.errors import UsageError

# The host of a container's machine, as seen from the container. Docker Desktop knows the name by itself.
HOST_OF_CONTAINER = "host.docker.internal"
# How often Triton sends its spans, milliseconds. When it ends, it drops those that it has not sent. Its own
# default would be 5 s of them.
_SEND_EVERY_MS = 500
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


@dataclass(frozen=True, kw_only=True)
class ServerTrace:
    """An OpenTelemetry receiver for a server's spans.

    A request with a `traceparent` is always recorded: its spans continue the trace of the client.

    Attributes:
        url: Of the receiver, by OTLP over HTTP: `http://127.0.0.1:4318/v1/traces` for a local collector.
        rate: One of this many other requests is recorded too; 0 (the default) records none of them.

    Raises:
        UsageError: the URL has another form, or the rate is negative.
    """

    url: str
    rate: int = 0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the port is no number
            is_valid = False
        # Triton splits the option at commas and equals signs, and every user can read its command line.
        if not is_valid or not re.fullmatch(r"[\w:/.\[\]-]+", self.url, re.ASCII):
            raise UsageError(
                "URL for traces",
                got=re.sub(r"//.*@", "//...@", self.url),
                expected="http://HOST:PORT/PATH without user, query and fragment",
                next_step="A local collector has http://127.0.0.1:4318/v1/traces.",
            )
        if self.rate < 0:
            raise UsageError("rate of traces", got=str(self.rate), expected="0 or more")

    @property
    def host(self) -> str:
        """The host of the URL."""
        return urlsplit(self.url).hostname or ""

    def check_from_container(self) -> None:
        """Refuse a loopback address, which in a container is the container itself.

        Raises:
            UsageError: the host is loopback.
        """
        if _LOOPBACK.fullmatch(self.host):
            raise UsageError(
                "URL for traces",
                got=f"{self.host}, which in a container is the container itself",
                expected="a host that the container reaches",
                next_step=f"For this machine write {HOST_OF_CONTAINER}; "
                "the collector then has to listen on Docker's network too.",
            )


def trace_options(trace: ServerTrace) -> list[str]:
    """Return Triton's options that record requests and send the spans.

    Args:
        trace: The receiver.
    """
    return [
        f"--trace-config={setting}"
        for setting in (
            "mode=opentelemetry",
            f"opentelemetry,url={trace.url}",
            f"opentelemetry,bsp_schedule_delay={_SEND_EVERY_MS}",
            "level=TIMESTAMPS",
            f"rate={trace.rate}",
            "count=-1",
        )
    ]
