from __future__ import annotations

import re
from http import HTTPStatus

import grpc
import pytest

from alexnet_clients.transports.error_rules import RULE_OF_TEXT
from alexnet_clients.transports.grpc_errors import RULE_OF_STATUS, error_from_status
from alexnet_model.errors import (
    BadRequest,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    ForeignServer,
    ModelNotFound,
    NotReady,
    Overloaded,
    Unreachable,
    Untrusted,
)


def test_every_grpc_status_has_a_rule() -> None:
    assert set(RULE_OF_STATUS) == {status.name for status in grpc.StatusCode} - {"OK"}


def test_text_rules_name_statuses_of_both_protocols() -> None:
    of_grpc, of_http = set(RULE_OF_STATUS), {status.value for status in HTTPStatus}
    for part, statuses, _ in RULE_OF_TEXT:
        assert part == part.lower()
        assert statuses <= of_grpc | of_http
        assert statuses & of_grpc
        assert statuses & of_http


CONNECTING = "failed to connect to all addresses; last error: "
TLS_FAILED = (
    f"{CONNECTING}UNKNOWN: ipv4:127.0.0.1:1: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL"
)


# The texts are Triton's and gRPC's own.
@pytest.mark.parametrize(
    ("status", "details", "kind"),
    [
        ("INVALID_ARGUMENT", "[request id: 1] inference request batch-size must be <= 64", BadRequest),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", ModelNotFound),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("UNAVAILABLE", f"{CONNECTING}Failed to connect to remote host: Connection refused", Unreachable),
        ("UNAVAILABLE", f"{CONNECTING}UNAVAILABLE: ipv4:127.0.0.1:8000: Socket closed", Unreachable),
        ("UNAVAILABLE", f"{TLS_FAILED}:CERTIFICATE_VERIFY_FAILED: certificate has expired", Untrusted),
        ("UNAVAILABLE", f"{TLS_FAILED}:WRONG_VERSION_NUMBER: Invalid certificate context", Untrusted),
        (
            "UNAVAILABLE",
            f"{CONNECTING}Custom verification check failed with error: UNAUTHENTICATED: "
            "Hostname Verification Check failed.",
            Untrusted,
        ),
        ("UNAVAILABLE", f"{CONNECTING}Handshake read failed (Socket closed)", Untrusted),
        ("UNAVAILABLE", f"{CONNECTING}Handshake read failed (Endpoint closing)", Unreachable),
        ("UNAVAILABLE", f"{CONNECTING}connection attempt timed out before receiving SETTINGS", Unreachable),
        ("UNAVAILABLE", "Stream removed (ping timeout)", ConnectionLost),
        ("UNAVAILABLE", "Stream removed (GOAWAY received; Error code: 0; Debug Text: )", NotReady),
        # The server had accepted the request.
        ("UNAVAILABLE", "Stream removed (Socket closed (GOAWAY received; Error code: 0))", ConnectionLost),
        ("UNAVAILABLE", "RST_STREAM (Received RST_STREAM with error code 7)", NotReady),
        ("UNAVAILABLE", "RST_STREAM (Received RST_STREAM with error code 8)", ConnectionLost),
        ("UNAVAILABLE", "Socket closed", ConnectionLost),
        (
            "UNAVAILABLE",
            "errors resolving nosuch.invalid:8001: [field:hostname lookup error:"
            "address lookup failed for nosuch.invalid:8001: Domain name not found]",
            Unreachable,
        ),
        ("NOT_FOUND", "Unable to find shared memory region: 'alexnet_images_1_0123abcd'", BadRequest),
        ("NOT_FOUND", "Unable to find system shared memory region: 'alexnet_images_1'", BadRequest),
        (
            "INTERNAL",
            "Cannot unregister shared memory region 'images', it is currently in use.",
            NotReady,
        ),
        ("UNAVAILABLE", "Server not ready", NotReady),
        ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size", Overloaded),
        ("UNAVAILABLE", "Request timeout expired", DeadlineExceeded),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'x'", BadRequest),
        ("UNAVAILABLE", "Request for unknown model: 'x' has no available versions", NotReady),
        ("NOT_FOUND", "Request for unknown model: 'x' has no available versions", NotReady),
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped", NotReady),
        ("UNAVAILABLE", "Trying to connect an http1.x server", ForeignServer),
        ("INTERNAL", "Failed to process the request(s) for model instance", ClientError),
        # A backend's words, which only resemble Triton's.
        ("INTERNAL", "CUDA device 0 is not available", ClientError),
        ("INVALID_ARGUMENT", "input 'image': the decoder is not ready", BadRequest),
        ("INTERNAL", "the cache exceeds maximum queue size", ClientError),
    ],
)
def test_statuses_become_this_projects_errors(status: str, details: str, kind: type[ClientError]) -> None:
    error = error_from_status(status, details, subject="grpc://host:8001 alexnet_fp32")
    assert type(error) is kind
    assert str(error).startswith("grpc://host:8001 alexnet_fp32: got ")
    text = re.sub(r"^\[request id: .*?\] ", "", details)  # an error's subject names the id
    assert f"got {text.removesuffix('.')}" in str(error)


def test_a_closed_connection_names_the_possible_causes() -> None:
    closed = f"{CONNECTING}UNAVAILABLE: ipv4:127.0.0.1:8000: Socket closed"
    plain = error_from_status("UNAVAILABLE", closed, subject="grpc://host:8000")
    assert "Use grpcs:// if the server needs TLS" in str(plain)
    encrypted = error_from_status("UNAVAILABLE", closed, subject="grpcs://host:8000", is_encrypted=True)
    assert "a certificate of the CA that the server trusts" in str(encrypted)


def test_a_status_without_text_is_named() -> None:
    assert "got data loss" in str(error_from_status("DATA_LOSS", "", subject="grpc://host:8001"))
