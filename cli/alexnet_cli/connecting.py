"""Options of commands that connect to a server: its URL, a deadline, TLS files and headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_model.errors import UsageError, os_errors_as

if TYPE_CHECKING:
    from alexnet_clients import Client, Credentials

_CONNECTION = "Connection"
UrlOption = Annotated[
    str,
    typer.Option(
        help="The server: grpc://, grpcs://, http:// or https://.", metavar="URL", rich_help_panel=_CONNECTION
    ),
]
UrlsOption = Annotated[
    str,
    typer.Option(
        "--url",
        help="The server: grpc://, grpcs://, http:// or https://. Several: grpc://a:8001,b:8001 or "
        "dns:///name:8001.",
        metavar="URL",
        rich_help_panel=_CONNECTION,
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0.001,
        help="Deadline of a request.",
        metavar="SECONDS",
        rich_help_panel=_CONNECTION,
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        help="PEM file of the CA to trust.",
        metavar="FILE",
        show_default="the system's",
        rich_help_panel=_CONNECTION,
    ),
]
CertOption = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        help="PEM file of this client's certificate (mutual TLS).",
        metavar="FILE",
        rich_help_panel=_CONNECTION,
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key", help="PEM file of the certificate's key.", metavar="FILE", rich_help_panel=_CONNECTION
    ),
]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        help="'Name: value' for every request; may be repeated. @FILE reads it from a file, for secrets: "
        "other users can read command lines.",
        metavar="HEADER",
        rich_help_panel=_CONNECTION,
    ),
]
MAX_HEADER_BYTES = 16 * 1024
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
        headers: lines of `Name: value`, or `@FILE` for a file with such a line.
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

    Args:
        lines: each is a line, or `@FILE` for a file with that line.

    Raises:
        UsageError: a line has no colon, no name or no value, or a character that headers cannot have; or a
            file cannot be read, or is more than one line or 16 KiB.
    """
    headers = {}
    for given in lines:
        line = _line_of_file(Path(given[1:])) if given.startswith("@") else given
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not name or not value or not name.isascii() or not line.isprintable():
            subject = f"--header {given}" if given.startswith("@") else "--header"
            next_step = "" if given.startswith("@") else "Quote it."
            raise UsageError(
                subject, got=f"{len(line)} characters", expected="'Name: value'", next_step=next_step
            )
        headers[name] = value
    return headers


def _line_of_file(path: Path) -> str:
    expected = f"a readable file with one line of at most {MAX_HEADER_BYTES} bytes"
    with os_errors_as(UsageError, f"--header @{path}", expected=expected):
        got = "no regular file"
        if path.is_file() or not path.exists():  # reading a pipe or a device might never end
            with path.open("rb") as file:
                content = file.read(MAX_HEADER_BYTES + 1)
            if len(content) <= MAX_HEADER_BYTES:
                return content.decode("utf-8", "replace").rstrip("\r\n")
            got = f"more than {MAX_HEADER_BYTES} bytes"
    raise UsageError(f"--header @{path}", got=got, expected=expected)
