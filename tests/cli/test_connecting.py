from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_cli.connecting import Connection, headers_from_lines
from alexnet_model.errors import UsageError


def test_a_header_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "header").write_text("Authorization: Bearer s3cret\n")
    (tmp_path / "link").symlink_to("header")
    for name in ("header", "link"):
        lines = ["X-Team: a", f"@{tmp_path / name}"]
        expected = {"X-Team": "a", "Authorization": "Bearer s3cret"}
        assert headers_from_lines(lines) == expected
        assert Connection(url="grpc://host", timeout_s=1, headers=lines).credentials().headers == expected


@pytest.mark.parametrize("content", ["s3cret", "A: s3cret\nB: s3cret\n", "A:", "A: s3cr\x00et", ""])
def test_a_file_without_one_header_is_named_and_not_shown(tmp_path: Path, content: str) -> None:
    (tmp_path / "header").write_text(content)
    with pytest.raises(UsageError, match=f"--header @{tmp_path}/header: got .*'Name: value'") as caught:
        headers_from_lines([f"@{tmp_path}/header"])
    assert "s3cr" not in str(caught.value)


def test_files_that_cannot_be_read_or_are_not_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"A: " + b"b" * 16 * 1024)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    gots = {
        "large": "more than 16384 bytes",
        "pipe": "no regular file",
        "endless": "no regular file",
        ".": "no regular file",
        "absent": "no such file",
    }
    for name, got in gots.items():
        with pytest.raises(
            UsageError, match=f"--header @.*: got {got}.*expected a readable file with one line"
        ):
            headers_from_lines([f"@{tmp_path / name}"])
