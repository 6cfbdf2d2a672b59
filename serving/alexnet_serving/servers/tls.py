"""TLS for a server's gRPC port: check its files before the server starts.

Triton checks them only after its models are loaded, and reports a file that it cannot use as a port that is
taken. With an expired certificate it starts without a message, and every client fails.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_model.errors import ServerError, os_error_reason


@dataclass(frozen=True)
class ServerTls:
    """PEM files for TLS on the gRPC port.

    Attributes:
        certificate: The server's certificate, followed by its intermediate certificates.
        key: The private key of that certificate, without a passphrase.
        client_ca: With it TLS is mutual: only clients with a certificate of this CA are served.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def names(self) -> tuple[str, ...]:
        """Return the names and addresses of the certificate, such as `localhost` and `127.0.0.1`.

        Raises:
            ServerError: no client could accept the certificate.
        """
        return _names_that_clients_see(self)


def checked_tls(tls: ServerTls) -> ServerTls:
    """Check that the files can be used, and return them with absolute paths.

    Raises:
        ServerError: a file is missing, unreadable or not PEM; the key is readable by others, encrypted, or of
            another certificate; or a certificate is not valid now.
    """
    for path in _files(tls):
        _check_readable(path)
    tls.names()
    _check_private(tls.key)
    if tls.client_ca is not None:
        _check_client_ca(tls.client_ca)
    return ServerTls(
        tls.certificate.absolute(), tls.key.absolute(), tls.client_ca and tls.client_ca.absolute()
    )


def tls_options(tls: ServerTls) -> list[str]:
    """Return Triton's options for these files. Triton opens the paths itself, without a shell."""
    options = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={tls.certificate}",
        f"--grpc-server-key={tls.key}",
    ]
    if tls.client_ca is not None:
        options += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={tls.client_ca}"]
    return options


def tls_in(folder: Path, tls: ServerTls) -> ServerTls:
    """Return the same files under fixed names in `folder`, where `copy_tls` puts them."""
    client_ca = folder / "client_ca.pem" if tls.client_ca is not None else None
    return ServerTls(folder / "certificate.pem", folder / "key.pem", client_ca)


def copy_tls(tls: ServerTls, folder: Path, *, user: int, group: int) -> None:
    """Copy the files into a new folder that only one user can open.

    Args:
        tls: The files.
        folder: The folder, which must not exist yet.
        user: The id of that user.
        group: The id of their group.

    Raises:
        OSError: a file can no longer be read, or the disk is full.
    """
    folder.mkdir(mode=0o700)
    for source, copy in zip(_files(tls), _files(tls_in(folder, tls)), strict=True):
        shutil.copyfile(source, copy)
        copy.chmod(0o600)
        os.chown(copy, user, group)
    os.chown(folder, user, group)


def _files(tls: ServerTls) -> list[Path]:
    return [path for path in (tls.certificate, tls.key, tls.client_ca) if path is not None]


def _check_readable(path: Path) -> None:
    try:
        if stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            path.open("rb").close()
            return
    except OSError as error:
        got = os_error_reason(error)
        raise ServerError(str(path), got=got, expected="a PEM file") from error
    raise ServerError(str(path), got="no regular file", expected="a PEM file")


def _check_private(key: Path) -> None:
    """Refuse, as ssh does, a key of this user that others can read.

    A key of root or of another user may be readable by a group, as in /etc/ssl/private.
    """
    found = key.stat()
    forbidden = 0o077 if found.st_uid == os.getuid() != 0 else 0o027
    if found.st_mode & forbidden:
        raise ServerError(
            str(key),
            got=f"mode {stat.S_IMODE(found.st_mode):o}",
            expected="a key that only its owner can read",
            next_step=f"Run: {shlex.join(['chmod', '600', str(key)])}",
        )


def _names_that_clients_see(tls: ServerTls) -> tuple[str, ...]:
    """Make a TLS handshake in memory with a client that trusts this certificate, as other clients would."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # the name that clients will use is not known here
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself, not only a CA
    _trust(client, tls.certificate)
    _load(server, tls)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (client_side, server_side, client_side):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise ServerError(
            str(tls.certificate),
            got=repr(error.verify_message),
            expected="a certificate that is valid now and made for a server",
            next_step=f"See its dates and uses: {_show_command(tls.certificate)}",
        ) from error
    except ssl.SSLError as error:
        raise ServerError(
            str(tls.certificate), got=_reason(error), expected="a certificate that TLS can use"
        ) from error
    peer: Any = client_side.getpeercert()
    return tuple(name for _, name in peer.get("subjectAltName", ()))


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ServerError(
            str(path),
            got="no complete certificate in it",
            expected="a PEM file with BEGIN CERTIFICATE",
            next_step=f"See what OpenSSL reads in it: {_show_command(path)}",
        ) from error


class _EncryptedError(Exception):
    pass


def _load(context: ssl.SSLContext, tls: ServerTls) -> None:
    def password() -> str:  # OpenSSL would otherwise prompt for one at the terminal
        raise _EncryptedError

    try:
        context.load_cert_chain(tls.certificate, tls.key, password)
    except _EncryptedError as error:
        decrypt = ["openssl", "pkey", "-in", str(tls.key), "-out", "plain.pem"]
        raise ServerError(
            str(tls.key),
            got="a key that is encrypted",
            expected="a key without a passphrase: Triton cannot prompt for one",
            next_step=f"Decrypt it: {shlex.join(decrypt)}",
        ) from error
    except ssl.SSLError as error:
        if error.reason in (
            "KEY_VALUES_MISMATCH",
            "NO_CERTIFICATE_ASSIGNED",
        ):  # of the same kind, or of another
            got = "the key of another certificate"
        elif error.reason is None:
            got = "no complete private key in it"
        else:
            raise ServerError(
                str(tls.certificate), got=_reason(error), expected="a certificate that TLS can use"
            ) from error
        raise ServerError(str(tls.key), got=got, expected=f"the key of {tls.certificate}") from error


def _check_client_ca(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _trust(context, path)
    dates = [str(found["notAfter"]) for found in context.get_ca_certs()]
    if dates and all(ssl.cert_time_to_seconds(date) < time.time() for date in dates):
        raise ServerError(
            str(path),
            got=f"a CA that has expired: {max(dates, key=ssl.cert_time_to_seconds)}",
            expected="one that is valid now: with this one every client is refused",
            next_step=f"See its dates: {_show_command(path)}",
        )


def _show_command(path: Path) -> str:
    return shlex.join(["openssl", "x509", "-noout", "-text", "-in", str(path)])


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
