"""`alexnet classify` on a real server: what it prints, writes and resumes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from alexnet_cli import screen
from alexnet_cli.main import run
from alexnet_clients import Client
from alexnet_serving import EmbeddedServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        Image.effect_noise((300, 260), 40 * number).convert("RGB").save(folder / f"{number}.jpg")
    (folder / "deeper").mkdir()
    Image.new("L", (5, 900), 90).save(folder / "deeper" / "thin.png")
    return folder


def classify(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, *arguments: object, code: int = 0
) -> str:
    words = ["classify", *map(str, arguments), "--url", server.grpc_url]
    assert run(words) == code
    return capsys.readouterr().out


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_equals_the_clients_predictions(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, client: Client, folder: Path
) -> None:
    printed = rows(
        classify(capsys, server, folder, "--recursive", "--json", "--top", 2, "--precision", "int8")
    )
    expected = list(client.classify_folder(folder, recursive=True, model="alexnet_int8", top=2))
    assert [row["image"] for row in printed] == [prediction.image for prediction in expected]
    assert len(printed) == 7
    for row, prediction in zip(printed, expected, strict=True):
        assert row["classes"] == [vars(found) for found in prediction.classes]
        assert row["model"] == "alexnet_int8"


@pytest.mark.parametrize("model", ["alexnet_fp32", "alexnet"])
def test_other_images_are_classified_beside_broken_ones(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, folder: Path, tmp_path: Path, model: str
) -> None:
    torn = tmp_path / "torn.jpg"
    torn.write_bytes((folder / "3.jpg").read_bytes()[:500])
    arguments = [folder / "0.jpg", torn, tmp_path / "missing.png", folder / "1.jpg"]
    printed = rows(classify(capsys, server, *arguments, "--json", "--model", model, code=1))
    assert [row["error_type"] for row in printed] == [None, "ImageError", "UnreadableImage", None]
    assert str(printed[1]["error"]).startswith(f"{torn}: got a broken image")
    assert run(["classify", *map(str, arguments), "--url", server.grpc_url, "--model", model]) == 1
    captured = capsys.readouterr()
    assert str(torn) not in captured.out
    assert [line.split()[1] for line in captured.err.splitlines()] == [
        f"{torn}:",
        f"{tmp_path / 'missing.png'}:",
    ]


def test_csv_is_the_same_on_standard_output_and_in_a_file(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    printed = classify(capsys, server, folder, "--csv", "--top", 1)
    path = tmp_path / "results.csv"
    assert classify(capsys, server, folder, "--csv", "--top", 1, "--output", path) == ""
    # The size of a request is shared by its batch, and a slow machine sends smaller batches.
    depends_on_timing = {"latency_ms", "request_bytes"}
    found = [
        [
            {name: value for name, value in row.items() if name not in depends_on_timing}
            for row in csv.DictReader(io.StringIO(text))
        ]
        for text in (printed, path.read_text())
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_standard_input_is_classified_like_a_file(
    capsys: pytest.CaptureFixture[str],
    server: EmbeddedServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stdin:
        buffer = io.BytesIO((folder / "2.jpg").read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    (from_stdin,) = rows(classify(capsys, server, "-", "--json"))
    (from_file,) = rows(classify(capsys, server, folder / "2.jpg", "--json"))
    assert from_stdin["image"] == "-"
    assert from_stdin["classes"] == from_file["classes"]


def test_closed_standard_input_fails_only_for_a_dash(
    capsys: pytest.CaptureFixture[str],
    server: EmbeddedServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    classify(capsys, server, folder / "2.jpg", "--json")
    assert run(["classify", "-", "--url", server.grpc_url]) == 2
    assert "standard input: got a closed one" in capsys.readouterr().err


def test_file_names_are_written_exactly_and_printed_escaped(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    names = [os.fsdecode(b"caf\xe9.jpg"), "\x1b[31m\r.jpg", ":cat:.jpg"]
    for name in names:
        (tmp_path / name).write_bytes((folder / "0.jpg").read_bytes())
    paths = [tmp_path / name for name in names]
    for kind in ("--json", "--csv"):
        output = tmp_path / f"results{kind}"
        classify(capsys, server, *paths, kind, "--output", output)
        classify(capsys, server, *paths, kind, "--output", output, "--resume")
        assert output.read_bytes().count(b"\n") == len(names) + (kind == "--csv")
    printed = rows(classify(capsys, server, *paths, "--json"))
    assert [row["image"] for row in printed] == [str(path) for path in paths]
    screenful = classify(capsys, server, *paths)
    missing = tmp_path / "\x1b7.jpg"
    assert run(["classify", str(missing), "--url", server.grpc_url]) == 1
    for text, shown in (
        (screenful, ["caf\\udce9.jpg", "\\x1b[31m\\r.jpg", ":cat:.jpg"]),
        (capsys.readouterr().err, ["\\x1b7.jpg"]),
    ):
        assert "\x1b" not in text
        for name in shown:
            assert name in text


def test_resume_skips_finished_images_and_retries_unreadable_ones(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    torn, late, output = tmp_path / "torn.jpg", tmp_path / "late.jpg", tmp_path / "results.jsonl"
    torn.write_bytes(b"no image")
    twice = folder / "0.jpg"
    classify(capsys, server, twice, "--output", output)
    arguments = [twice, twice, torn, late, "--output", output, "--resume"]
    classify(capsys, server, *arguments, code=1)
    late.write_bytes(twice.read_bytes())
    classify(capsys, server, *arguments, code=1)  # an ImageError is final
    assert [(row["image"], row["error_type"]) for row in rows(output.read_text())] == [
        (str(twice), None),
        (str(twice), None),
        (str(torn), "ImageError"),
        (str(late), None),
    ]
    assert run(["classify", str(twice), "--url", server.grpc_url, "--output", str(output), "--resume"]) == 1


def test_resume_refuses_another_top_unless_the_model_limits_it(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    arguments = [folder, "--output", output, "--resume", "--precision", " INT8 "]
    classify(capsys, server, *arguments, "--top", 500)
    classify(capsys, server, *arguments, "--top", 1000)
    assert len(rows(output.read_text())) == 6
    assert run(["classify", *map(str, arguments), "--url", server.grpc_url, "--top", "2"]) == 2
    assert "2 classes per image" in capsys.readouterr().err


def test_a_pattern_without_match_creates_no_output(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.jsonl"
    classify(capsys, server, folder / "0.jpg", folder / "*.jgp", "--output", output, code=1)
    assert not output.exists()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_goes_to_standard_error_unless_results_are_on_the_terminal(
    capsys: pytest.CaptureFixture[str],
    server: EmbeddedServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(screen.Rate, "_FIRST_SHOWN_S", -1.0)
    monkeypatch.setattr(screen, "err", Console(file=errors, force_terminal=True))
    monkeypatch.setattr(screen.out, "_force_terminal", is_terminal)
    assert len(rows(classify(capsys, server, folder, "--json"))) == 6
    assert classify(capsys, server, folder).count(".jpg") == 6
    assert ("classifying" in errors.getvalue()) == (not is_terminal)


def run_and_interrupt(server: EmbeddedServer, arguments: Sequence[object], when: Path) -> tuple[int, str]:
    """Run until the output has lines, then send SIGINT. Returns the exit code and standard error."""
    command = [
        sys.executable,
        "-m",
        "alexnet_cli",
        "classify",
        *map(str, arguments),
        "--url",
        server.grpc_url,
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        deadline = time.monotonic() + 120
        while not (when.exists() and when.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_ctrl_c_leaves_whole_lines_and_resume_continues(
    capsys: pytest.CaptureFixture[str], server: EmbeddedServer, folder: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(600):
        os.link(folder / f"{number % 6}.jpg", many / f"{number:03d}.jpg")
    path = tmp_path / "results.jsonl"
    code, errors = run_and_interrupt(server, [many, "--output", path], when=path)
    assert code == 130, errors
    assert errors.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in errors
    text = path.read_text()
    assert text.endswith("\n")
    before = rows(text)
    assert 0 < len(before) < 600
    assert run(["classify", str(many), "--output", str(path), "--url", server.grpc_url]) == 2
    assert "--resume" in capsys.readouterr().err
    classify(capsys, server, many, "--output", path, "--resume")
    after = rows(path.read_text())
    assert after[: len(before)] == before
    assert [row["image"] for row in after] == [str(many / f"{number:03d}.jpg") for number in range(600)]


def test_a_stopped_server_ends_the_command_and_keeps_the_results(
    exported: object, folder: Path, tmp_path: Path
) -> None:
    """The error is one line, not one for each image that is left."""
    from .conftest import Exported

    assert isinstance(exported, Exported)
    many = tmp_path / "many"
    many.mkdir()
    for number in range(600):
        os.link(folder / f"{number % 6}.jpg", many / f"{number:03d}.jpg")
    path = tmp_path / "results.jsonl"
    with EmbeddedServer(exported.repository(tmp_path / "model_repository")) as server:
        command = [sys.executable, "-m", "alexnet_cli", "classify", str(many), "--output", str(path)]
        command += ["--url", server.grpc_url, "--timeout", "3"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while not (path.exists() and path.stat().st_size) and process.poll() is None:
                time.sleep(0.005)
            server.stop()
            _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "expected a server that listens there" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert 0 < len(rows(path.read_text())) < 600
