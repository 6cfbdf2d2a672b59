"""`export`, `serve` and `classify` as a user runs them: real files, a real server, real signals."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alexnet_cli.demo_images import write_test_images
from alexnet_cli.main import run

from ..conftest import Exported
from ..folders import contents_of

ALEXNET = [sys.executable, "-m", "alexnet_cli"]


@contextmanager
def serving(repository: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`alexnet serve` in a process of its own, with the URL it printed."""
    command = [*ALEXNET, "serve", "--repository", str(repository)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ready"):
                break
        (url,) = re.findall(r"grpc://127\.0\.0\.1:\d+", "".join(lines))
        yield process, url
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_export_prints_a_table_within_80_columns(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    repository = tmp_path / "models"
    arguments = ["export", str(exported.checkpoint), "--max-batch", "2", "--calibration", "digits"]
    assert run([*arguments, "--out", str(tmp_path / "out"), "--repository", str(repository)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    for precision in ("fp32", "fp16", "int8"):
        (row,) = [line for line in lines if line.startswith(f"{precision} ")]
        assert row.rstrip().endswith("served")
        assert (repository / f"alexnet_{precision}" / "1" / "model.onnx").is_file()


def test_export_json_is_the_manifest(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(exported.checkpoint), "--max-batch", "1", "--precision", "fp32", "--json"]
    assert run([*arguments, "--out", str(tmp_path / "out"), "--repository", str(tmp_path / "models")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "export.json").read_text())


def test_a_refused_precision_that_was_requested_by_name_exits_1(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrating on grey images gives really wrong scales, and the real gate refuses them."""
    import numpy as np

    from alexnet_export.convert import int8_from_onnx as real

    dim = np.full((32, 64, 64, 3), 124, np.uint8)  # grey images: nearly nothing to scale by
    monkeypatch.setattr(
        "alexnet_export.onnx_export.int8_from_onnx", lambda source, path, _: real(source, path, dim)
    )
    arguments = ["export", str(exported.checkpoint), "--max-batch", "2", "--precision", "fp32,int8"]
    code = run([*arguments, "--out", str(tmp_path / "out"), "--repository", str(tmp_path / "models")])
    captured = capsys.readouterr()
    assert code == 1
    assert "REFUSED" in captured.out
    assert captured.err.splitlines()[-1].startswith("Error: int8: got ")
    packed = sorted(path.name for path in (tmp_path / "models").iterdir())
    records = ["alexnet.1.export.json", "alexnet.1.reference.safetensors", "repository.json"]
    assert packed == sorted(["alexnet", "alexnet_decode", "alexnet_fp32", *records])


def test_a_full_disk_is_one_line_and_leaves_the_repository(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file-size limit makes the kernel refuse the write, as a full disk does."""
    from alexnet_export.convert import onnx_from_checkpoint

    # Convert, instead of the copy of an earlier file (tests/conftest.py).
    monkeypatch.setattr("alexnet_export.onnx_export.onnx_from_checkpoint", onnx_from_checkpoint)
    shutil.copytree(exported.folder, tmp_path / "out")
    repository = Path(shutil.copytree(exported.repository, tmp_path / "models"))
    before = contents_of(tmp_path)
    arguments = ["export", str(exported.checkpoint), "--max-batch", "1", "--precision", "fp32"]
    arguments += ["--out", str(tmp_path / "out"), "--repository", str(repository)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert run(arguments) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith("Error: ")
    assert "File too large" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert contents_of(tmp_path) == before


def test_serve_and_classify(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_test_images(tmp_path / "images")[:20]
    (tmp_path / "broken.png").write_bytes(b"not an image")
    names = [str(image.path) for image in images]
    with serving(exported.repository) as (process, url):
        assert run(["classify", *names, "--url", url, "--model", "alexnet_int8", "--top", "2", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["image"] for row in rows] == names
        right = [row["classes"][0]["label"] == p.label for row, p in zip(rows, images, strict=True)]
        assert sum(right) >= 16
        assert all(row["error"] is None and 0 < row["request_bytes"] < 64 * 64 * 3 + 1024 for row in rows)

        mixed = [names[0], str(tmp_path / "broken.png"), names[1]]
        assert run(["classify", *mixed, "--url", url, "--json"]) == 1
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [bool(row["error"]) for row in rows] == [False, True, False]
        assert "not an image" in rows[1]["error"]

        assert run(["classify", names[0], "--url", url]) == 0
        assert names[0] in capsys.readouterr().out
        assert run(["classify", names[0], "--url", url, "--model", "alexnet_fp8"]) == 1
        assert "alexnet_fp8" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def one_model(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose server starts in less time."""
    repository = tmp_path_factory.mktemp("one") / "models"
    arguments = ["export", str(exported.folder), "--precision", "fp32", "--no-encoded"]
    assert run([*arguments, "--repository", str(repository)]) == 0
    return repository


def test_sigterm_stops_the_server_cleanly(one_model: Path) -> None:
    with serving(one_model) as (process, url):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert run(["classify", "x.png", "--url", url]) == 1


def test_a_killed_server_ends_the_command_and_prints_its_log(one_model: Path) -> None:
    with serving(one_model) as (process, _):
        found = subprocess.run(
            ["pgrep", "-P", str(process.pid), "tritonserver"], capture_output=True, text=True
        )
        subprocess.run(["kill", "-9", found.stdout.strip()], check=True)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
    assert "Error: embedded server: got killed by signal 9" in errors
    assert "Traceback" not in errors


def test_a_taken_port_is_named(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["serve", "--repository", str(exported.repository), "--grpc-port", str(port)]) == 1
    assert f"port {port}" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "packed"), [([], True), (["--encoded"], True), (["--no-encoded"], False)])
def test_models_for_encoded_images(
    option: list[str], packed: bool, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier export holds is packed again, with nothing built."""
    repository = tmp_path / "models"
    assert run(["export", str(exported.folder), *option, "--repository", str(repository)]) == 0
    for model in ("alexnet", "alexnet_decode"):
        assert (repository / model).is_dir() == packed
    assert ("(alexnet, alexnet_decode, " in " ".join(capsys.readouterr().err.split())) == packed
    assert run(["lint", str(repository)]) == 0
