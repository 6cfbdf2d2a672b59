"""The address of a server. No other module parses URLs."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from alexnet_model.errors import InvalidUrl

# Triton's own ports. Triton has no HTTPS: that is a proxy in front of it.
DEFAULT_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 443}
_EXAMPLE = "a URL such as grpc://127.0.0.1:8001"


@dataclass(frozen=True)
class ServerUrl:
    """A parsed URL.

    Attributes:
        scheme: grpc, grpcs, http or https.
        host: a name or an address, IPv6 without brackets.
        port: the given one, or the scheme's default.
        path: a prefix that a proxy needs before HTTP's own paths, such as `/triton`.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> ServerUrl:
        """Parse `SCHEME://HOST[:PORT]`, with a path for HTTP. IPv6 addresses need brackets.

        Raises:
            InvalidUrl: the text does not parse, or its scheme is not supported.
        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:  # a port that is not 0..65535, an open bracket
            raise InvalidUrl(f"URL {text!r}", got=str(error), expected=_EXAMPLE) from error
        if parts.scheme not in DEFAULT_PORTS or "://" not in text:
            raise InvalidUrl(
                f"URL {text!r}",
                got=f"the scheme {parts.scheme!r}" if "://" in text else "no scheme",
                expected=f"{_EXAMPLE}, or {', '.join(f'{scheme}://' for scheme in list(DEFAULT_PORTS)[1:])}",
            )
        if not host or any(character.isspace() for character in text):
            raise InvalidUrl(f"URL {text!r}", got="no host", expected=_EXAMPLE)
        if port == 0:
            raise InvalidUrl(f"URL {text!r}", got="port 0", expected=_EXAMPLE)
        path = parts.path.rstrip("/")
        if parts.username or parts.password:
            raise InvalidUrl(
                "URL",
                got="a user or a password inside it",
                expected=_EXAMPLE,
                next_step="Pass it as a header: Authorization.",
            )
        surplus = parts.query or parts.fragment or (path if parts.scheme.startswith("grpc") else "")
        if surplus:
            raise InvalidUrl(f"URL {text!r}", got=f"{surplus!r} too", expected=f"{_EXAMPLE} and no more")
        return cls(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path)

    @property
    def is_encrypted(self) -> bool:
        return self.scheme in ("grpcs", "https")

    @property
    def speaks_http(self) -> bool:
        return self.scheme in ("http", "https")

    @property
    def address(self) -> str:
        """`host:port`, with brackets around IPv6."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if f".{self.host.removesuffix('.')}".endswith(".localhost"):
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}{self.path}"
