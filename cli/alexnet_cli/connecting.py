"""The options by which a command finds its server and shows who it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import UsageError

if TYPE_CHECKING:
    from alexnet_clients import Client
    from alexnet_clients.credentials import Credentials

UrlOption = Annotated[
    str, typer.Option(help="Where the server listens: grpc://, grpcs://, http:// or https://.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.001, help="Seconds until a request must be answered.")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="PEM file of the CA to believe.", show_default="the system's")
]
CertOption = Annotated[
    Path | None, typer.Option("--cert", help="PEM file of this client's certificate (mutual TLS).")
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="PEM file of its key.")]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option("--header", help="'Name: value' for every request; may be repeated.", metavar="HEADER"),
]
DEFAULT_URL = "grpc://127.0.0.1:8001"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What the options said."""

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

        access = self.access()
        return Client(self.url, timeout_s=self.timeout_s, tls=access.tls, headers=access.headers)

    def access(self) -> Credentials:
        """How this client presents itself.

        Raises:
            UsageError: the options do not fit together.
        """
        from alexnet_clients import ClientTls
        from alexnet_clients.credentials import Credentials

        given = self.ca or self.cert or self.key
        tls = ClientTls(ca=self.ca, certificate=self.cert, key=self.key) if given else None
        return Credentials(tls=tls, headers=headers_from_lines(self.headers or []))


def headers_from_lines(lines: list[str]) -> dict[str, str]:
    """`Name: value` to its parts. A value may be a secret, so no error repeats one.

    Raises:
        UsageError: a line has no colon, no name, or a character that no header may have.
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
