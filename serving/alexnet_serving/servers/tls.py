"""TLS for a server's gRPC port: its files, checked before anything starts.

Of a file that it cannot use Triton says, once its models are loaded, that its port is taken. With a
certificate that has expired it starts, and nobody hears of it but its clients.
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
    """PEM files: the server's certificate, with what leads to its CA, and the key to it.

    With `client_ca`, TLS is mutual: only clients with a certificate of that CA are answered.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def names(self) -> tuple[str, ...]:
        """The names and addresses that the certificate is for, such as `localhost` and `127.0.0.1`.

        Raises:
            ServerError: it is no certificate that a client could accept.
        """
        return _names_that_clients_see(self)


def checked_tls(tls: ServerTls) -> ServerTls:
    """The same files with absolute paths, once they can be used.

    Raises:
        ServerError: a file is missing, unreadable or no PEM; the key is open to others, encrypted or another
            certificate's; or a certificate is not valid now.
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
    """What Triton is told. It opens these paths itself, without a shell."""
    options = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={tls.certificate}",
        f"--grpc-server-key={tls.key}",
    ]
    if tls.client_ca is not None:
        options += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={tls.client_ca}"]
    return options


def tls_in(folder: Path, tls: ServerTls) -> ServerTls:
    """The same files under plain names in a folder."""
    client_ca = folder / "client_ca.pem" if tls.client_ca is not None else None
    return ServerTls(folder / "certificate.pem", folder / "key.pem", client_ca)


def copy_tls(tls: ServerTls, folder: Path, *, user: int, group: int) -> None:
    """Copy the files into a new folder that nobody but this user can open.

    Raises:
        OSError: a file cannot be read any more, or the disk is full.
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
        if stat.S_ISREG(path.stat().st_mode):  # else opening it might wait for a writer
            path.open("rb").close()
            return
    except OSError as error:
        got = os_error_reason(error)
        raise ServerError(str(path), got=got, expected="a PEM file") from error
    raise ServerError(str(path), got="no regular file", expected="a PEM file")


def _check_private(key: Path) -> None:
    """As ssh does it: one's own key is nobody else's to read.

    Somebody else's, or root's, may be lent to a group, as /etc/ssl/private does.
    """
    found = key.stat()
    foreign = 0o077 if found.st_uid == os.getuid() != 0 else 0o027
    if found.st_mode & foreign:
        raise ServerError(
            str(key),
            got=f"mode {stat.S_IMODE(found.st_mode):o}",
            expected="a key that nobody but its owner can read",
            next_step=f"Run: {shlex.join(['chmod', '600', str(key)])}",
        )


def _names_that_clients_see(tls: ServerTls) -> tuple[str, ...]:
    """Shake hands with a client that trusts this certificate, all in memory: it checks what clients check."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # by which name it will be asked is not known here
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself, not only a CA
    _trust(client, tls.certificate)
    _load(server, tls)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (asking, answering, asking):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise ServerError(
            str(tls.certificate),
            got=repr(error.verify_message),
            expected="a certificate that is valid now, and for a server",
            next_step=f"See its dates and uses: {_shown(tls.certificate)}",
        ) from error
    except ssl.SSLError as error:
        raise ServerError(
            str(tls.certificate), got=_words(error), expected="a certificate that TLS can use"
        ) from error
    found: Any = asking.getpeercert()
    return tuple(name for _, name in found.get("subjectAltName", ()))


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ServerError(
            str(path),
            got="no whole certificate in it",
            expected="a PEM file with BEGIN CERTIFICATE",
            next_step=f"See what OpenSSL makes of it: {_shown(path)}",
        ) from error


class _EncryptedError(Exception):
    pass


def _load(context: ssl.SSLContext, tls: ServerTls) -> None:
    def password() -> str:  # without which OpenSSL would ask for one at the terminal
        raise _EncryptedError

    try:
        context.load_cert_chain(tls.certificate, tls.key, password)
    except _EncryptedError as error:
        decrypt = ["openssl", "pkey", "-in", str(tls.key), "-out", "plain.pem"]
        raise ServerError(
            str(tls.key),
            got="a key that is encrypted",
            expected="one without a passphrase, which Triton cannot ask for",
            next_step=f"Decrypt it: {shlex.join(decrypt)}",
        ) from error
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):  # of one kind, or of two
            got = "the key to another certificate"
        elif error.reason is None:
            got = "no whole private key in it"
        else:
            raise ServerError(
                str(tls.certificate), got=_words(error), expected="a certificate that TLS can use"
            ) from error
        raise ServerError(str(tls.key), got=got, expected=f"the key to {tls.certificate}") from error


def _check_client_ca(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _trust(context, path)
    dates = [str(found["notAfter"]) for found in context.get_ca_certs()]
    if dates and all(ssl.cert_time_to_seconds(date) < time.time() for date in dates):
        raise ServerError(
            str(path),
            got=f"a CA that has expired: {max(dates, key=ssl.cert_time_to_seconds)}",
            expected="one that is valid now, or no client is answered",
            next_step=f"See its dates: {_shown(path)}",
        )


def _shown(path: Path) -> str:
    return shlex.join(["openssl", "x509", "-noout", "-text", "-in", str(path)])


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
