"""The addresses of servers. No other module parses URLs."""

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
        if "," in host:
            raise InvalidUrl(f"URL {text!r}", got="several hosts", expected=f"one server: {_EXAMPLE}")
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


@dataclass(frozen=True)
class Endpoints:
    """The servers that a client sends its requests to.

    Attributes:
        servers: one or more, all with the same scheme. With `by_dns`, the one that is resolved.
        by_dns: the host's name is resolved again and again, and each of its addresses is a server.
    """

    servers: tuple[ServerUrl, ...]
    by_dns: bool = False

    @classmethod
    def parse(cls, text: str) -> Endpoints:
        """Parse one of these forms.

        - a URL as for `ServerUrl.parse`;
        - several hosts with one scheme: `grpc://a:8001,b:8001`, `http://a:8000,b:8000/prefix`;
        - `dns:///name:8001`: gRPC without TLS to each address of a name, such as a headless Service's.

        Raises:
            InvalidUrl: the text does not parse, or names a server twice.
        """
        if text.startswith("dns:"):
            host = text.removeprefix("dns:///")
            if host == text or "/" in host or "," in host:
                raise InvalidUrl(f"URL {text!r}", got="another form", expected="dns:///NAME:PORT")
            return cls((ServerUrl.parse(f"grpc://{host}"),), by_dns=True)
        scheme, separator, rest = text.partition("://")
        hosts, slash, path = rest.partition("/")
        servers = tuple(
            ServerUrl.parse(f"{scheme}{separator}{host}{slash}{path}") for host in hosts.split(",")
        )
        if len(set(servers)) < len(servers):
            raise InvalidUrl(f"URL {text!r}", got="a server twice", expected="each server once")
        return cls(servers)

    @property
    def is_one(self) -> bool:
        """Whether it is one server, whose address is not looked up here."""
        return len(self.servers) == 1 and not self.by_dns

    @property
    def is_loopback(self) -> bool:
        return all(server.is_loopback for server in self.servers)

    def __str__(self) -> str:
        first = self.servers[0]
        if self.by_dns:
            return f"dns:///{first.address}"
        hosts = ",".join(server.address for server in self.servers)
        return f"{first.scheme}://{hosts}{first.path}"
