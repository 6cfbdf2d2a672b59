"""Where a server is: one value object, so that no other module takes a URL apart."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from alexnet_model.errors import InvalidUrl

DEFAULT_GRPC_PORT = 8001
_LATER = ("grpcs", "http", "https")
_EXAMPLE = "a URL such as grpc://127.0.0.1:8001"


@dataclass(frozen=True)
class ServerUrl:
    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ServerUrl:
        """Read `grpc://HOST[:PORT]`; the port is 8001 unless given, and IPv6 goes in brackets.

        Raises:
            InvalidUrl: it does not parse, or its scheme is not spoken.
        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:  # a port that is no number or past 65535, an open bracket
            raise InvalidUrl(f"URL {text!r}", got=str(error), expected=_EXAMPLE) from error
        if parts.scheme in _LATER:
            raise InvalidUrl(
                f"URL {text!r}",
                got=f"{parts.scheme}, which this client does not speak yet",
                expected=_EXAMPLE,
                next_step="Use the server's gRPC port without TLS.",
            )
        if parts.scheme != "grpc" or "://" not in text:
            got = f"the scheme {parts.scheme!r}" if "://" in text else "no scheme"
            raise InvalidUrl(f"URL {text!r}", got=got, expected=_EXAMPLE)
        if not host or any(character.isspace() for character in text):
            raise InvalidUrl(f"URL {text!r}", got="no host", expected=_EXAMPLE)
        if port == 0:
            raise InvalidUrl(f"URL {text!r}", got="port 0", expected=_EXAMPLE)
        surplus = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if surplus:
            raise InvalidUrl(f"URL {text!r}", got=f"{surplus!r} too", expected=f"{_EXAMPLE} and no more")
        return cls(parts.scheme, host, port or DEFAULT_GRPC_PORT)

    @property
    def address(self) -> str:
        """`host:port`, as gRPC takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"
