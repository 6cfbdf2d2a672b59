"""Certificates for tests: a CA, certificates that it signed, and a second CA that clients do not trust."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trustme

HERE = ("127.0.0.1", "localhost")
ELSEWHERE = "elsewhere.example"
LONG_AGO = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Pair:
    """PEM files; the key is readable for its owner only."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    ca: Path
    server: Pair  # for 127.0.0.1 and localhost
    misnamed: Pair  # a server's, for elsewhere.example
    expired: Pair  # a server's
    client: Pair
    other_ca: Path
    other_server: Pair  # for 127.0.0.1 and localhost, of the other CA
    other_client: Pair


def make_certificates(folder: Path) -> Certificates:
    ca, other_ca = trustme.CA(), trustme.CA()
    begun, ended = LONG_AGO
    folder.mkdir(parents=True, exist_ok=True)
    ca.cert_pem.write_to_path(folder / "ca.pem")
    other_ca.cert_pem.write_to_path(folder / "other_ca.pem")
    return Certificates(
        ca=folder / "ca.pem",
        server=_pair(ca.issue_cert(*HERE), folder, "server"),
        misnamed=_pair(ca.issue_cert(ELSEWHERE), folder, "misnamed"),
        expired=_pair(ca.issue_cert(*HERE, not_before=begun, not_after=ended), folder, "expired"),
        client=_pair(ca.issue_cert("client@example.org"), folder, "client"),
        other_ca=folder / "other_ca.pem",
        other_server=_pair(other_ca.issue_cert(*HERE), folder, "other_server"),
        other_client=_pair(other_ca.issue_cert("client@example.org"), folder, "other_client"),
    )


def _pair(issued: trustme.LeafCert, folder: Path, name: str) -> Pair:
    pair = Pair(folder / f"{name}.pem", folder / f"{name}_key.pem")
    for part, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(pair.certificate, append=part > 0)
    pair.key.touch(mode=0o600)
    pair.key.write_bytes(issued.private_key_pem.bytes())
    return pair
