"""How a client identifies itself and the server: TLS certificates, and headers sent with every request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from alexnet_model.errors import BadRequest, ClientError, UsageError

from .url import ServerUrl

if TYPE_CHECKING:
    import ssl

#: Headers of every request: a mapping, or a function that returns one. The function is called before every
#: request, so that it can renew a bearer token.
Headers: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str]]

# What both gRPC and HTTP can carry. In gRPC, a name that ends in -bin has a binary value.
_NAME = re.compile(r"(?!.*-bin\Z)[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """PEM files for an encrypted connection.

    Args:
        ca: certificates of the CA to trust. Default: those of the system.
        certificate: this client's own certificate, for a server that requires one (mutual TLS).
        key: the private key of `certificate`.

    Raises:
        UsageError: a file does not exist, or only one of `certificate` and `key` is given.
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

    def ssl_context(self) -> ssl.SSLContext:
        """Load the files.

        Raises:
            UsageError: a file holds no certificate or key, or the key belongs to another certificate.
        """
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # SSLError is one
            raise _unusable(f"CA {self.ca}", error, "a PEM file with certificates") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, _no_password)
            except (OSError, ValueError) as error:
                what = f"certificate and key {self.key}"
                raise _unusable(what, error, "PEM files that belong together") from error
        return context


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """TLS files and headers of a client.

    Args:
        tls: for `grpcs://` and `https://`. Default: the system's CAs, and no certificate.
        headers: sent with every request, or a function that returns them and is called for each.
    """

    tls: ClientTls | None = None
    headers: Headers | None = None

    def check(self, url: ServerUrl) -> None:
        """Check that the credentials can be used with a URL.

        Raises:
            UsageError: TLS files for a URL without TLS.
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
        """The headers of one request, names in lower case as gRPC requires.

        Args:
            subject: the server and model that an error names.

        Raises:
            BadRequest: a header cannot be sent.
            ClientError: the function that returns them failed.
        """
        try:
            given = dict(self.headers() if callable(self.headers) else self.headers or {})
        except Exception as error:
            got = f"{type(error).__name__} from the function that gives the headers: {error}"
            raise ClientError(subject, got=" ".join(got.split()), expected="headers") from error
        return {_checked_name(name, value, subject): value for name, value in given.items()}


#: Credentials without a certificate and without headers.
ANONYMOUS = Credentials()


def _checked_name(name: object, value: object, subject: str) -> str:
    """The name in lower case. Errors never repeat a value: it may be a secret."""
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
        next_step="Check the headers that are passed to the client.",
    )


def _no_password() -> str:
    """Without this, OpenSSL would ask for a password at the terminal."""
    raise ValueError("the key is encrypted")


def _unusable(what: str, error: Exception, expected: str) -> UsageError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return UsageError(
        f"client's {what}",
        got=str(reason).replace("_", " ").lower(),
        expected=expected,
        next_step="Check the files.",
    )
