"""The files of TLS, looked at before a server starts: what is refused, and in which words."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

from alexnet_model.errors import ServerError
from alexnet_serving import DockerServer, EmbeddedServer, ServerTls
from alexnet_serving.servers.tls import checked_tls, tls_options

from ..certificates import Certificates, make_certificates


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "it's a folder")


@pytest.fixture
def good(made: Certificates) -> ServerTls:
    return ServerTls(made.server.certificate, made.server.key, made.ca)


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def refusal_of(tls: ServerTls) -> ServerError:
    with pytest.raises(ServerError) as caught:
        checked_tls(tls)
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_triton_is_told(good: ServerTls) -> None:
    one_way = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={good.certificate}",
        f"--grpc-server-key={good.key}",
    ]
    assert tls_options(replace(good, client_ca=None)) == one_way
    mutual = ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={good.client_ca}"]
    assert tls_options(good) == [*one_way, *mutual]


def test_good_files_are_found_from_elsewhere_too(good: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs in a folder of its own."""
    assert checked_tls(good) == good
    monkeypatch.chdir(good.key.parent)
    assert good.client_ca is not None
    relative = ServerTls(*(Path(path.name) for path in (good.certificate, good.key, good.client_ca)))
    assert checked_tls(relative) == good


def test_the_names_of_a_certificate(good: ServerTls, made: Certificates) -> None:
    assert good.names() == ("127.0.0.1", "localhost")
    assert ServerTls(made.misnamed.certificate, made.misnamed.key).names() == ("elsewhere.example",)


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_no_file(which: str, good: ServerTls, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    error = refusal_of(replace(good, **{which: missing}))
    assert str(error) == f"{missing}: got no such file or directory, expected a PEM file"
    assert refusal_of(replace(good, **{which: tmp_path})).got == "no regular file"
    os.mkfifo(tmp_path / "pipe")
    assert refusal_of(replace(good, **{which: tmp_path / "pipe"})).got == "no regular file"


def test_an_unreadable_file(good: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refusing(path: Path, mode: str) -> object:
        if path == good.key:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode)

    monkeypatch.setattr(Path, "open", refusing)  # root, who may run this test, can read anything
    assert str(refusal_of(good)).startswith(f"{good.key}: got permission denied")


@pytest.mark.parametrize("content", [b"", b"no PEM at all", b"\x30\x82\x01\x0a\x02\x82"])
@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_no_pem(which: str, content: bytes, good: ServerTls, tmp_path: Path) -> None:
    path = tmp_path / "it's foreign.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    error = refusal_of(replace(good, **{which: path}))
    assert error.subject == str(path)
    assert error.got == f"no complete {'private key' if which == 'key' else 'certificate'} in it"
    if which != "key":
        assert error.next_step.endswith(shlex.quote(str(path)))


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_half_a_pem(which: str, good: ServerTls, tmp_path: Path) -> None:
    whole = getattr(good, which).read_text()
    half = tmp_path / "half.pem"
    half.write_text(whole[: len(whole) // 2])
    half.chmod(0o600)
    assert refusal_of(replace(good, **{which: half})).subject == str(half)


def test_certificate_and_key_in_each_others_place(good: ServerTls) -> None:
    error = refusal_of(ServerTls(good.key, good.certificate))
    assert error.subject == str(good.key)
    assert error.got == "no complete certificate in it"


@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_the_key_to_another_certificate(kind: str, good: ServerTls, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    options = {"EC": ["-pkeyopt", "ec_paramgen_curve:P-256"], "RSA": ["-pkeyopt", "rsa_keygen_bits:2048"]}
    openssl("genpkey", "-algorithm", kind, *options[kind], "-out", other)
    error = refusal_of(replace(good, key=other))
    assert error.subject == str(other)
    assert error.got == "the key of another certificate"
    assert error.expected == f"the key of {good.certificate}"


def test_an_encrypted_key_asks_nobody(good: ServerTls, tmp_path: Path) -> None:
    encrypted = tmp_path / "encrypted.pem"
    openssl("pkey", "-in", good.key, "-aes256", "-passout", "pass:secret", "-out", encrypted)
    error = refusal_of(replace(good, key=encrypted))
    assert error.got == "a key that is encrypted"
    assert error.next_step == f"Decrypt it: openssl pkey -in {encrypted} -out plain.pem"


def test_an_expired_certificate(made: Certificates) -> None:
    error = refusal_of(ServerTls(made.expired.certificate, made.expired.key))
    assert error.subject == str(made.expired.certificate)
    assert error.got == "'certificate has expired'"
    assert error.next_step.endswith(shlex.quote(str(made.expired.certificate)))


def test_a_certificate_of_the_future(tmp_path: Path) -> None:
    later = trustme.CA().issue_cert("localhost", not_before=datetime(2100, 1, 1, tzinfo=UTC))
    later.cert_chain_pems[0].write_to_path(tmp_path / "later.pem")
    later.private_key_pem.write_to_path(tmp_path / "key.pem")
    error = refusal_of(ServerTls(tmp_path / "later.pem", tmp_path / "key.pem"))
    assert error.got == "'certificate is not yet valid'"


def self_signed(folder: Path, *options: str) -> ServerTls:
    key, certificate = folder / "self_key.pem", folder / "self.pem"
    openssl("req", "-x509", *options, "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=x")
    return ServerTls(certificate, key)


def test_a_self_signed_certificate_will_do(tmp_path: Path) -> None:
    tls = self_signed(tmp_path, "-newkey", "rsa:2048", "-addext", "subjectAltName=DNS:*.example.org")
    assert checked_tls(tls).names() == ("*.example.org",)


def test_a_certificate_that_no_client_accepts(tmp_path: Path) -> None:
    tls = self_signed(tmp_path, "-newkey", "rsa:2048", "-addext", "extendedKeyUsage=clientAuth")
    assert "purpose" in refusal_of(tls).got
    error = refusal_of(self_signed(tmp_path, "-newkey", "rsa:512"))
    assert (error.subject, error.got) == (str(tls.certificate), "ee key too small")


def test_a_client_ca_that_has_expired(
    good: ServerTls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_ca = self_signed(tmp_path, "-newkey", "rsa:2048", "-days", "30").certificate
    checked_tls(replace(good, client_ca=old_ca))
    monkeypatch.setattr(time, "time", lambda: datetime(2036, 1, 1, tzinfo=UTC).timestamp())
    error = refusal_of(replace(good, client_ca=old_ca))
    assert error.subject == str(old_ca)
    assert error.got.startswith("a CA that has expired: ")
    assert good.client_ca is not None
    with old_ca.open("a") as bundle:  # one of several may be old
        bundle.write(good.client_ca.read_text())
    checked_tls(replace(good, client_ca=old_ca))


@pytest.mark.parametrize(
    ("mode", "owner", "me", "refused"),
    [
        (0o600, 7, 7, False),
        (0o400, 7, 7, False),
        (0o640, 7, 7, True),  # my own
        (0o604, 7, 7, True),
        (0o640, 0, 7, False),  # lent to my group by root
        (0o640, 0, 0, False),
        (0o644, 0, 0, True),
        (0o660, 0, 7, True),
        (0o604, 0, 7, True),
    ],
)
def test_whose_key_may_be_read_by_whom(
    mode: int, owner: int, me: int, refused: bool, good: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: me)
    stat = Path.stat

    def found(path: Path, *, follow_symlinks: bool = True) -> object:
        if path != good.key:
            return stat(path, follow_symlinks=follow_symlinks)
        return SimpleNamespace(st_mode=0o100000 | mode, st_uid=owner)

    monkeypatch.setattr(Path, "stat", found)
    if not refused:
        checked_tls(good)
        return
    error = refusal_of(good)
    assert error.got == f"mode {mode:o}"
    assert error.next_step == f"Run: chmod 600 {shlex.quote(str(good.key))}"


def test_a_key_that_is_open_to_others(good: ServerTls) -> None:
    good.key.chmod(0o644)
    assert refusal_of(good).got == "mode 644"


@pytest.mark.parametrize("server", [EmbeddedServer, DockerServer])
def test_a_server_looks_before_it_starts(
    server: Callable[..., object], repository: Path, made: Certificates
) -> None:
    with pytest.raises(ServerError, match="certificate has expired"):
        server(repository, tls=ServerTls(made.expired.certificate, made.expired.key))
