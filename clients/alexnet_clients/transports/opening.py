"""Which transport speaks a URL's scheme."""

from __future__ import annotations

from ..credentials import ANONYMOUS, Credentials
from ..url import ServerUrl
from .transport import Transport


def transport_from_url(url: ServerUrl, access: Credentials = ANONYMOUS) -> Transport:
    """Open the transport; its protocol's library is imported here and not before. Nothing is sent yet.

    Raises:
        UsageError: certificates for a URL without TLS, or files that are no certificates.
    """
    access.check(url)
    if url.speaks_http:
        from .http_transport import HttpTransport

        return HttpTransport(url, access)
    from .grpc_transport import GrpcTransport

    return GrpcTransport(url, access)
