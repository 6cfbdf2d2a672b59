"""What an HTTP client settles before it connects: whose certificates it believes, and what proxy it takes."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from alexnet_model.errors import UsageError

from ..credentials import ClientTls
from ..url import ServerUrl


@dataclass(frozen=True)
class Proxy:
    url: str
    headers: dict[str, str] = field(default_factory=dict)  # who the proxy is told that it serves


def ssl_context_from_tls(tls: ClientTls) -> ssl.SSLContext:
    """Raises:
    UsageError: a file holds no certificate or key, or the key is another certificate's.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except OSError as error:  # SSLError is one
        raise _unusable("CA", tls.ca, error) from error
    if tls.certificate is not None:
        try:
            context.load_cert_chain(tls.certificate, tls.key, _no_password)
        except (OSError, ValueError) as error:
            raise _unusable("certificate and key", tls.key, error) from error
    return context


def proxy_from_environment(url: ServerUrl) -> Proxy | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for a server; none for one on this machine.

    aiohttp would look them up before every request, and passwords in ~/.netrc with them.

    Raises:
        UsageError: a proxy that speaks another protocol than HTTP.
    """
    text = getproxies().get(url.scheme)
    if not text or url.is_loopback or proxy_bypass(url.address):
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{url.scheme.upper()}_PROXY",
            got=f"a proxy of the scheme {parts.scheme!r}",
            expected="http://HOST:PORT",
            next_step=f"Set it to an HTTP proxy, or name {url.host} in NO_PROXY.",
        )
    host = parts.netloc.rpartition("@")[2]
    if parts.username is None:
        return Proxy(f"{parts.scheme}://{host}")
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return Proxy(
        f"{parts.scheme}://{host}",
        {"Proxy-Authorization": f"Basic {base64.b64encode(user).decode('ascii')}"},
    )


def _no_password() -> str:
    """Without it OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted")


def _unusable(what: str, path: Path | None, error: Exception) -> UsageError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return UsageError(
        f"client's {what} {path or ''}".rstrip(),
        got=str(reason).replace("_", " ").lower(),
        expected="PEM files that belong together" if what != "CA" else "a PEM file with certificates",
        next_step="Check the files.",
    )
