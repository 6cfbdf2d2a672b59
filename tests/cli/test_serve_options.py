"""`alexnet serve` with TLS and with shared memory: what it starts, and how it says to ask."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trustme

from alexnet_cli.main import run
from alexnet_cli.serve import _print_next_command
from alexnet_serving import EmbeddedServer, Server, ServerTls

from ..certificates import Certificates, make_certificates
from ..conftest import Exported

FREE_PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "certificates")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[EmbeddedServer]:
    """The real servers that were ready, and stopped at once."""
    found: list[EmbeddedServer] = []
    monkeypatch.setattr(EmbeddedServer, "wait", lambda server: found.append(server))
    return found


def tls_options(tls: ServerTls) -> list[str]:
    options = ["--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key)]
    return [*options, "--tls-client-ca", str(tls.client_ca)] if tls.client_ca else options


def test_mutual_tls_and_shared_memory(
    exported: Exported, made: Certificates, served: list[EmbeddedServer], capsys: pytest.CaptureFixture[str]
) -> None:
    tls = ServerTls(made.server.certificate, made.server.key, made.ca)
    options = ["--with", "embedded", "--repository", str(exported.repository), *FREE_PORTS]
    url = "http://127.0.0.1:4318/v1/traces"
    assert run(["serve", *options, *tls_options(tls), "--shared-memory", "--trace-url", url]) == 0
    (server,) = served
    command = server._launch.command
    assert f"--grpc-root-cert={made.ca}" in command
    assert not [option for option in command if "restricted" in option and "shared-memory" in option]
    captured = capsys.readouterr()
    assert f"gRPC     {server.grpc_url}\n" in captured.out
    assert f"HTTP     {server.http_url}\n" in captured.out
    assert "Triton encrypts gRPC only: HTTP and metrics stay on loopback.\n" in captured.err
    assert "Shared memory is open" in captured.err
    assert f"--trace-config=opentelemetry,url={url}" in command
    assert f"traces   {url}\n" in captured.out
    options_text = f"--url {server.grpc_url} --ca FILE --cert FILE --key FILE --model {server.models[0]}\n"
    assert f"Next: alexnet classify IMAGE {options_text}" in captured.err


def test_without_them(
    exported: Exported, served: list[EmbeddedServer], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--with", "embedded", "--repository", str(exported.repository), *FREE_PORTS]) == 0
    (server,) = served
    assert not [option for option in server._launch.command if "ssl" in option]
    said = capsys.readouterr().err
    assert f"Next: alexnet classify IMAGE --url {server.grpc_url} --model {server.models[0]}\n" in said
    assert "Queues have no limit." in said
    assert "loopback" not in said
    assert "Shared memory" not in said


def test_the_rate_of_traces_needs_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--trace-rate", "1"]) == 2
    assert "--trace-rate: got no --trace-url, expected both. " in capsys.readouterr().err


def test_a_file_that_cannot_be_used_is_one_line(
    exported: Exported, made: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tls_options(ServerTls(made.expired.certificate, made.expired.key))
    repository = ["--repository", str(exported.repository)]
    assert run(["serve", "--with", "embedded", *repository, *FREE_PORTS, *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"Error: {made.expired.certificate}: got 'certificate has expired'")


@pytest.mark.parametrize(
    ("url", "names", "expected", "noted"),
    [
        ("grpcs://127.0.0.1:8001", ["127.0.0.1"], "grpcs://127.0.0.1:8001", False),
        ("grpcs://127.0.0.1:8001", ["a.example", "localhost"], "grpcs://localhost:8001", True),
        ("grpcs://127.0.0.1:8001", ["*.example", "a.example"], "grpcs://a.example:8001", True),
        ("grpcs://10.0.0.5:8001", ["localhost", "a.example"], "grpcs://a.example:8001", True),
        ("grpcs://10.0.0.5:8001", ["localhost"], "grpcs://10.0.0.5:8001", True),
        ("grpcs://10.0.0.5:8001", ["*.example"], "grpcs://10.0.0.5:8001", True),
        ("grpcs://127.0.0.1:8001", ["::1"], "grpcs://127.0.0.1:8001", True),
    ],
)
def test_the_next_command_asks_by_a_name_of_the_certificate(
    url: str,
    names: list[str],
    expected: str,
    noted: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    issued = trustme.CA().issue_cert(*names)
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    server = cast("Server", SimpleNamespace(grpc_url=url, models=("alexnet_fp32",)))
    _print_next_command(server, ServerTls(tmp_path / "certificate.pem", tmp_path / "key.pem"))
    said = capsys.readouterr().err
    assert f"--url {expected} --ca FILE --model alexnet_fp32\n" in said
    assert ("The certificate is for " in said) == noted
