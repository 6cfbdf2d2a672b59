"""Wrong use: one clear line, the right exit code, no traceback, nothing written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_cli.main import run

COMMANDS = (
    *("train", "export", "lint", "rollback", "serve", "classify", "predict", "ui", "demo", "doctor", "tune"),
    *("compare", "pack"),
    *("bench cold-start", "bench engine", "bench report", "bench breakdown", "bench server"),
    "bench loader",
)


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on standard error."""
    code = run(list(arguments))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return code, lines[0]


WRONG_USE = [
    (["train", "--arch", "resnet"], ["architecture", "'resnet'", "alexnet, alexnet-bn, alexnet-lecture"]),
    (["train", "--width", "0"], ["width", "0.01 to 4"]),
    (["train", "--width", "wide"], ["--width", "valid number"]),
    (["train", "--epochs", "0"], ["epochs", "got 0"]),
    (["train", "--batch-size", "0"], ["batch size", "got 0"]),
    (["train", "--learning-rate", "-1"], ["learning rate", "-1"]),
    (["train", "--seed", "-1"], ["seed", "-1"]),
    (["train", "--out", "."], ["out", "folder"]),
    (["train", "--out", "weights.pth"], ["out", "weights.pth", ".safetensors"]),
    (["bench", "loader", "digits", "--workers", "0"], ["workers", "got 0", "1 to 256"]),
    (["bench", "loader", "digits", "--batch-size", "5000"], ["batch size", "1 to 4096"]),
    (["bench", "loader", "digits", "--seconds", "0"], ["seconds", "0.1 to 600"]),
    (["bench", "loader", "digits", "--repeats", "0"], ["repeats", "1 to 100"]),
    (["bench", "loader", "digits", "--recipe", "none"], ["recipe", "'none'"]),
    (["export", "x.safetensors", "--precision", "fp8"], ["--precision", "'fp8'", "fp32,fp16,int8"]),
    (["export", "x.safetensors", "--precision", ","], ["--precision", "fp32,fp16,int8"]),
    (["export", "x.safetensors", "--max-top1-drop", "-1"], ["--max-top1-drop", "0 to 100"]),
    (
        ["export", "x.pth", "--out", "a", "--repository", "a"],
        ["out and repository", "neither inside"],
    ),
    (["export", "x.pth", "--out", "a", "--repository", "a/b"], ["out and repository", "a/b"]),
    (["export", "x.pth", "--out", "a/b", "--repository", "a"], ["out and repository", "a/b"]),
    (["export", "x.pth", "--queue-size", "-1"], ["queue size", "-1"]),
    (["export", "x.pth", "--target", "sm89"], ["target", "builds no engine", "--runtime"]),
    (["export", "x.pth", "--profile", "1,2,4"], ["profile", "builds no engine"]),
    (["export", "x.pth", "--version-compatible"], ["version compatible", "builds no engine"]),
    (["export", "x.pth", "--hardware-compatibility", "ampere-plus"], ["hardware compatibility"]),
    (["export", "x.pth", "--engine", "tensorflow"], ["--engine", "tensorflow"]),
    (["export", "x.pth", "--runtime", "tensorflow"], ["runtime", "tensorflow", "openvino, onnxruntime"]),
    (["export", "x.pth", "--runtime", "pytorch"], ["runtime", "pytorch", "openvino, onnxruntime"]),
    (["export", "x.pth", "--build", "docker"], ["build", "builds no engine"]),
    (["export", "x.pth", "--engine", "onnx", "--runtime", "openvino"], ["--engine", "--runtime"]),
    (
        ["export", "x.pth", "--runtime", "tensorrt", "--build", "docker", "--target", "sm89"],
        ["target", "tensorrt-rtx"],
    ),
    (["export", "x.pth", "--runtime", "tensorrt-rtx", "--target", "x"], ["target", "sm89"]),
    (["export", "x.pth", "--runtime", "tensorrt-rtx", "--target", "sm90"], ["sm90", "sm120"]),
    (
        ["export", "x.pth", "--runtime", "tensorrt-rtx", "--target", "sm89", "--profile", "8,4,2"],
        ["profile", "8,4,2", "MIN <= OPT <= MAX"],
    ),
    (
        ["export", "x.pth", "--runtime", "tensorrt-rtx", "--target", "sm89", "--profile", "1,8,128"],
        ["profile", "a max batch of 64", "--max-batch 128"],
    ),
    (["export"], ["'weights'"]),
    (["export", "x.pth", "--arch-option", "width"], ["--arch-option", "'width'", "KEY=VALUE"]),
    (["export", "x.pth", "--arch-option", "=1"], ["--arch-option", "'=1'", "KEY=VALUE"]),
    (
        ["export", "x.pth", "--arch-option", "width=1", "--arch-option", "width=2"],
        ["--arch-option", "'width=2'", "each KEY once"],
    ),
    (["classify"], ["IMAGE"]),
    (["classify", "x.png", "--top", "0"], ["--top"]),
    (
        ["classify", "https://host/x.png"],
        ["a web address", "curl -s https://host/x.png | alexnet classify -"],
    ),
    (["classify", "x.png", "--timeout", "0"], ["--timeout"]),
    (["serve", "models"], ["(models)", "named with --repository", "serve --help"]),
    (["predict", "x.png"], ["--checkpoint and --export: got neither"]),
    (["predict", "x.png", "--checkpoint", "a", "--export", "b"], ["--checkpoint and --export: got both"]),
    (["predict", "x.png", "--checkpoint", "a", "--precision", "int8"], ["--precision", "--export"]),
    (["predict", "x.png", "--export", "a", "--precision", "fp32,int8"], ["--precision", "one precision"]),
    (["predict", "x.png", "--export", "a", "--arch", "lenet"], ["--arch", "--checkpoint"]),
    (["predict", "https://host/x.png", "--export", "a"], ["| alexnet predict -"]),
    (["classify", "x.png", "--concurrency", "0"], ["--concurrency"]),
    (["classify", "x.png", "--json", "--csv"], ["--json and --csv", "one of them"]),
    (["classify", "x.png", "--resume"], ["--resume", "--output FILE"]),
    (["classify", "x.png", "--precision", "fp8"], ["--precision", "'fp8'", "fp32 or fp16 or int8"]),
    (["classify", "x.png", "--precision", "int8", "--model", "m"], ["--model and --precision"]),
    (["classify", "x.png", "--model", ""], ["--model", "no name"]),
    (["classify", "x.png", "--model", "m", "--name", "flowers"], ["--model and --name"]),
    (["classify", "x.png", "--name", "flowers_int8"], ["name: got 'flowers_int8'", "_int8"]),
    (["export", "x.pth", "--name", "My flowers"], ["name: got 'My flowers'", "a-z, 0-9"]),
    (["export", "x.pth", "--model-version", "0"], ["model version: got 0", "1 or more"]),
    (["rollback"], ["name"]),
    (["bench", "server", "--model", "m", "--name", "flowers"], ["--name", "--repository FOLDER"]),
    (["classify", "x.png", "--header", "Bearer secret"], ["--header", "'Name: value'"]),
    (["classify", "x.png", "--ca", "ca.pem"], ["CA ca.pem", "no such file"]),
    (["classify", "x.png", "--cert", "c.pem"], ["a certificate without its key"]),
    (["classify", "x.png", "--url", "nonsense"], ["URL 'nonsense'", "grpc://127.0.0.1:8001"]),
    (["classify", "x.png", "--url", "grpc://host:99999"], ["99999"]),
    (["ui", "--port", "70000"], ["--port", "65535"]),
    (["ui", "--url", "nonsense"], ["URL 'nonsense'"]),
    (["serve", "--with", "podman"], ["--with", "podman"]),
    (["serve", "--grpc-port", "70000"], ["--grpc-port", "65535"]),
    (["serve", "--ready-timeout", "0"], ["--ready-timeout"]),
    (["serve", "--tls-certificate", "c.pem"], ["--tls-key: got nothing beside --tls-certificate"]),
    (["serve", "--tls-key", "k.pem"], ["--tls-certificate: got nothing beside --tls-key"]),
    (["serve", "--tls-client-ca", "a.pem"], ["--tls-certificate: got nothing beside --tls-client-ca"]),
    (
        ["serve", "--tls-key", "k.pem", "--tls-client-ca", "a.pem"],
        ["--tls-certificate: got nothing beside --tls-key", "Add --tls-certificate FILE."],
    ),
    (["lint", "models", "others"], ["others"]),
    (["tune"], ["--limit-p99-ms"]),
    (["tune", "--limit-p99-ms", "0"], ["limit of p99", "more than 0 ms"]),
    (["tune", "--limit-p99-ms", "nan"], ["limit of p99", "nan"]),
    (["tune", "model_repository", "--limit-p99-ms", "50"], ["model_repository"]),
    (["tune", "--limit-p99-ms", "50", "--probes", "1"], ["--probes"]),
    (["tune", "--limit-p99-ms", "50", "--output", "."], ["--output .", "a file"]),
    (["bench", "tune"], ["'tune'"]),
    (["bench", "breakdown", "model_repository"], ["model_repository"]),
    (["bench", "breakdown", "--batch", "one"], ["--batch", "'one'", "such as 1,16"]),
    (["bench", "breakdown", "--batch", "0"], ["batches: got 0", "1 or more"]),
    (["fly"], ["fly"]),
    (["train", "--fly"], ["--fly"]),
]
NOT_THERE = [
    (["train", "--data", "nowhere"], ["nowhere", "no such file or folder"]),
    (["bench", "loader", "nowhere"], ["nowhere", "no such file or folder"]),
    (["export", "missing.safetensors"], ["missing.safetensors", "no such file", "alexnet train"]),
    (["export", "missing.pth"], ["missing.pth", "no such file"]),
    (["export", "alexnet-owt-7be5be79.pth"], ["alexnet-owt-7be5be79.pth", "no such file"]),
    (["export", "."], ["export.json"]),
    (["serve", "--repository", "nowhere"], ["nowhere", "no such folder", "alexnet export"]),
    (["serve", "--repository", "."], ["no model"]),
    (["lint"], ["model_repository", "no such folder", "alexnet export"]),
    (["rollback", "alexnet"], ["model_repository", "no such file", "alexnet export"]),
    (["lint", "."], ["no model"]),
    (["pack", "nowhere"], ["nowhere", "no such folder", "alexnet export"]),
    (["tune", "--limit-p99-ms", "50"], ["model_repository", "no such folder", "alexnet export"]),
    (["tune", "--limit-p99-ms", "50", "--repository", "."], ["no model"]),
    (["bench", "breakdown"], ["model_repository", "no such folder", "alexnet export"]),
    (["bench", "breakdown", "--repository", "."], ["no model"]),
    (["ui", "--url", "grpc://127.0.0.1:1"], ["127.0.0.1:1", "alexnet serve"]),
    (["classify", "sample:digit_3", "--url", "grpc://127.0.0.1:1"], ["127.0.0.1:1", "alexnet serve"]),
    (["classify", "x.png", "--url", "grpc://127.0.0.1:1"], ["x.png: got no such file"]),
    (["predict", "x.png", "--checkpoint", "missing.pth"], ["missing.pth: got no such file"]),
]


@pytest.mark.parametrize(
    ("code", "arguments", "words"),
    [(2, *case) for case in WRONG_USE] + [(1, *case) for case in NOT_THERE],
)
def test_wrong_use_exits_2_and_what_is_not_there_1(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    got, line = failing(capsys, *arguments)
    assert got == code
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04K\x01."])
def test_a_foreign_checkpoint_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    code, line = failing(capsys, "export", str(path), "--out", str(tmp_path / "out"))
    assert code == 1
    assert f"{len(content)} bytes that are not a complete safetensors file" in line
    assert not (tmp_path / "out").exists()


def test_a_foreign_repository_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    code, line = failing(capsys, "export", "missing.safetensors", "--repository", str(tmp_path))
    assert code == 1
    assert "thesis.tex" in line, "the repository is looked at even before the checkpoint"


def test_a_demo_into_a_file_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("years of work")
    code, line = failing(capsys, "demo", "--quick", "--out", str(out))
    assert code == 2
    assert f"got the file {out}, expected a folder" in line


def test_debug_without_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failing(capsys, "--debug")
    assert code == 2
    assert line == "Error: Missing command. Try 'alexnet --help'."


def test_debug_shows_the_traceback() -> None:
    from alexnet_model.errors import CheckpointError

    with pytest.raises(CheckpointError):
        run(["--debug", "export", "missing.safetensors"])


def test_an_interrupt_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_pipeline import model_export

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_export, "checkpoint_from", interrupted)
    assert run(["export", "x.safetensors"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Interrupted."


def test_a_bug_is_called_a_bug(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_pipeline import model_export

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(model_export, "checkpoint_from", broken)
    code, line = failing(capsys, "export", "x.safetensors")
    assert code == 1
    assert "a bug in alexnet (ZeroDivisionError: oops). Run again with alexnet --debug." in line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_shows_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert f"Example: alexnet {command}" in " ".join(capsys.readouterr().out.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run(["--version"]) == 0
    printed = capsys.readouterr().out.strip()
    assert re.fullmatch(
        rf"alexnet-serving {re.escape(version('alexnet-serving'))}( \([0-9a-f]+\+?\))?", printed
    )


def test_help_imports_nothing_heavy() -> None:
    """Start-up stays quick because nothing slow is imported; unlike seconds, a count never flickers."""
    script = (
        "import sys; from alexnet_cli.main import run; run(['--help']); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'sklearn', 'kornia', 'tritonclient', 'grpc', "
        "'safetensors', 'pytriton', 'scipy'}; sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: alexnet" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("words", [[], ["bench"]])
def test_no_command_prints_the_help_and_no_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    shown = capsys.readouterr()
    assert "Usage: alexnet" in shown.out + shown.err
    assert "Error" not in shown.err


def test_bench_report_does_not_overwrite_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    report.write_text("{}")
    assert run(["bench", "report", str(report), "--html", str(report)]) == 2
    assert "got one of the reports, expected another file" in capsys.readouterr().err
    assert report.read_text() == "{}"


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ([], {}),
        (["width=0.25", "depth=2"], {"width": 0.25, "depth": 2}),
        (["pretrained=false", "act=hard_swish", "name=a=b", "empty="], None),
    ],
)
def test_options_of_a_network_are_numbers_truth_values_or_text(
    texts: list[str], options: dict[str, Any] | None
) -> None:
    from alexnet_cli.options import architecture_options_from

    expected = (
        {"pretrained": False, "act": "hard_swish", "name": "a=b", "empty": ""} if options is None else options
    )
    found = architecture_options_from(texts)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]
