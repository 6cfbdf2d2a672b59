"""Options of commands that connect to a server: its URL, a deadline, TLS files and headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import UsageError

if TYPE_CHECKING:
    from alexnet_clients import Client, Credentials

UrlOption = Annotated[str, typer.Option(help="The server: grpc://, grpcs://, http:// or https://.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.001, help="Deadline of a request.", metavar="SECONDS")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="PEM file of the CA to trust.", show_default="the system's")
]
CertOption = Annotated[
    Path | None, typer.Option("--cert", help="PEM file of this client's certificate (mutual TLS).")
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="PEM file of the certificate's key.")]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option("--header", help="'Name: value' for every request; may be repeated.", metavar="HEADER"),
]
DEFAULT_URL = "grpc://127.0.0.1:8001"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The values of these options.

    Args:
        url: the server.
        timeout_s: deadline of a request, seconds.
        ca: PEM file of the CA to trust.
        cert: PEM file of this client's certificate.
        key: PEM file of the certificate's key.
        headers: lines of `Name: value`.
    """

    url: str
    timeout_s: float
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    headers: list[str] | None = None

    def client(self) -> Client:
        """A client that is not connected yet.

        Raises:
            UsageError: the options do not fit together.
            InvalidUrl: the URL does not parse.
        """
        from alexnet_clients import Client

        found = self.credentials()
        return Client(self.url, timeout_s=self.timeout_s, tls=found.tls, headers=found.headers)

    def credentials(self) -> Credentials:
        """The TLS files and headers.

        Raises:
            UsageError: the options do not fit together.
        """
        from alexnet_clients import ClientTls, Credentials

        given = self.ca or self.cert or self.key
        tls = ClientTls(ca=self.ca, certificate=self.cert, key=self.key) if given else None
        return Credentials(tls=tls, headers=headers_from_lines(self.headers or []))


def headers_from_lines(lines: list[str]) -> dict[str, str]:
    """Split lines of `Name: value`. A value may be a secret, so no error repeats it.

    Raises:
        UsageError: a line has no colon, no name or no value, or a character that headers cannot have.
    """
    headers = {}
    for line in lines:
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not name or not value or not name.isascii() or not line.isprintable():
            raise UsageError(
                "--header", got=f"{len(line)} characters", expected="'Name: value'", next_step="Quote it."
            )
        headers[name] = value
    return headers
