"""What a client shows at the door: TLS certificates, and headers for whoever stands before the server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from alexnet_model.errors import BadRequest, ClientError, UsageError

from .url import ServerUrl

# A function is asked before every request: that is where a bearer token is renewed.
Headers: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str]]

# What gRPC carries, and HTTP as well. Names that end in -bin stand for bytes.
_NAME = re.compile(r"(?!.*-bin\Z)[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """PEM files. `ca`: whose certificates are believed, the system's where it is left out.

    `certificate` and `key` are the client's own, for a server that wants to know its clients (mutual TLS).
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise UsageError(
                "client certificate",
                got="a certificate without its key" if self.key is None else "a key without its certificate",
                expected="both or neither",
            )
        for what, path in (("CA", self.ca), ("certificate", self.certificate), ("key", self.key)):
            if path is not None and not path.is_file():
                raise UsageError(
                    f"client's {what} {path}",
                    got="no such file",
                    expected="a PEM file",
                    next_step="Check the path.",
                )


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """How a client presents itself to the server at a URL."""

    tls: ClientTls | None = None
    headers: Headers | None = None

    def check(self, url: ServerUrl) -> None:
        """Refuse what could not be kept.

        Raises:
            UsageError: certificates for a URL without TLS.
        """
        if self.tls is not None and not url.is_encrypted:
            encrypted = f"{url.scheme}s"
            raise UsageError(
                f"TLS for {url}",
                got=f"{url.scheme}://, which is not encrypted",
                expected=f"{encrypted}://",
                next_step=f"Write {encrypted}://{url.address}.",
            )

    def headers_now(self, subject: str) -> dict[str, str]:
        """The headers of one request, names in lower case as gRPC wants them.

        Raises:
            BadRequest: one that cannot be sent.
            ClientError: the function that gives them failed.
        """
        try:
            given = dict(self.headers() if callable(self.headers) else self.headers or {})
        except Exception as error:
            raise ClientError(
                subject,
                got=" ".join(
                    f"{type(error).__name__} from the function that gives the headers: {error}".split()
                ),
                expected="headers",
            ) from error
        return {_sendable_name(name, value, subject): value for name, value in given.items()}


def _sendable_name(name: object, value: object, subject: str) -> str:
    """Values are not told: they may be secrets."""
    lower = name.lower() if isinstance(name, str) else ""
    if not _NAME.fullmatch(lower):
        got = f"a header of the name {name!r}"
    elif not isinstance(value, str):
        got = f"the header {name} as {type(value).__name__}"
    elif not _VALUE.fullmatch(value):
        got = f"the header {name} with more than printable ASCII"
    else:
        return lower
    raise BadRequest(
        subject,
        got=got,
        expected="headers that gRPC and HTTP can carry",
        next_step="Check the headers that the client is given.",
    )


ANONYMOUS = Credentials()
