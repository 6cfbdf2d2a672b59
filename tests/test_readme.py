"""README's commands run as written, in its order, beside the demo's folder; its output is the demo's.

Measurements get an option that makes them shorter.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import pytest
import torch
from PIL import Image

from alexnet_cli.main import run
from alexnet_model.architectures import build

from .conftest import Demo

README = (Path(__file__).parents[1] / "README.md").read_text()
FLOWERS = ("daisy", "rose", "tulip")
PORTS = (8000, 8001, 8002, 7860)  # the defaults of `serve` and `ui`
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def blocks(kind: str) -> list[str]:
    """Return the fenced blocks of README of one kind, such as `sh`."""
    found = re.findall(r"^```(.*?)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for named, text in found if named == kind]


@dataclass
class Terminal:
    """Runs lines of README. `serve` and `ui` stay in the background until `interrupt`."""

    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.running:
            process.terminate()
            process.communicate()

    def run(self, line: str, *more: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a line to its end, and return what it printed to standard output."""
        words = [*shlex.split(line, comments=True), *more]
        done = subprocess.run(
            words, cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode in codes, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line: str, until: str) -> None:
        """Start a line, and wait until it prints a line that begins with these words."""
        process = subprocess.Popen(
            shlex.split(line, comments=True),
            cwd=self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        assert process.stdout is not None
        printed = []
        for shown in process.stdout:
            printed.append(shown)
            if shown.startswith(until):
                return
        raise AssertionError(f"{line}\n{''.join(printed)}")

    def interrupt(self) -> None:
        """Send Ctrl-C to what runs; each must end with exit code 0 or 130."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
            assert process.returncode in (0, 130), output
        self.running.clear()


@pytest.fixture
def terminal(demo: Demo, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in a folder with `demo/`, as `make demo` leaves it."""
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))  # README's commands use the default ports
    shutil.copytree(demo.folder, tmp_path / "demo")
    with Terminal(tmp_path) as opened:
        yield opened


def test_the_output_in_the_readme_is_that_of_the_demo(demo: Demo) -> None:
    (block,) = blocks("")
    quoted = block.splitlines()
    assert len(quoted) == 10
    shape = [_without_figures(line) for line in demo.screen.splitlines()]
    for line in quoted:
        assert _without_figures(line) in shape, line


def test_commands_after_the_demo_run_in_order(terminal: Terminal) -> None:
    installing, serving, others, without_server, _own = (block.splitlines() for block in blocks("sh"))
    assert installing == ["make demo", "make test"]
    activate, serve = serving
    assert others.pop(0) == activate == ". .venv/bin/activate"
    terminal.start(serve, until="ready")
    classify, *benches, compare, page = others
    assert "digit_0002_is_2.png" in terminal.run(classify)
    for bench in benches:
        # 1 on a busy machine: INVALID
        assert "VALID" in terminal.run(bench, "--seconds", "0.2", codes=(0, 1))
    terminal.run(compare, codes=(0, 1, 2))  # 1: slower; 2: both are INVALID
    terminal.start(page, until="page")
    terminal.interrupt()
    for line in without_server:
        if line.startswith("alexnet tune"):  # a busy machine makes a search INVALID
            shown = terminal.run(line, "--minutes", "0.1", "--seconds", "0.2", codes=(0, 1))
        else:
            shown = terminal.run(line)
        assert shown.strip()


def test_a_fine_tuned_classifier_in_four_commands(terminal: Terminal, demo: Demo) -> None:
    """As written, but with a narrow network, which has an option of its own and takes seconds."""
    export, lint, serve, classify = blocks("sh")[-1].splitlines()
    torch.manual_seed(0)
    network = build("alexnet", len(FLOWERS), width=0.1)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), terminal.folder / "flowers.pth")
    for name in FLOWERS:
        (terminal.folder / "images" / name).mkdir(parents=True)
        for number, image in enumerate(sorted((demo.folder / "images").glob("*.png"))[:30]):
            shutil.copy(image, terminal.folder / "images" / name / f"{number}_{name}.png")
    Image.new("RGB", (300, 200), "red").save(terminal.folder / "rose.jpg")
    terminal.run(export, "--arch-option", "width=0.1", "--max-batch", "4", codes=(0, 1))
    terminal.run(lint)
    terminal.start(serve, until="ready")
    shown = terminal.run(classify)
    assert any(name in shown for name in FLOWERS), shown
    terminal.start("alexnet ui", until="page")  # the text says that it finds the only export
    terminal.interrupt()


def test_the_python_of_the_readme_runs(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = blocks("python")
    monkeypatch.chdir(terminal.folder)
    exec(compile(block, "README.md", "exec"), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "demo/images/digit_0002_is_2.png",
        "demo/images/digit_0004_is_4.png",
    ]


def test_commands_that_need_a_gpu_exist_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("sh no-run")
    commands = [line.split() for line in block.splitlines() if line.startswith("alexnet ")]
    assert [command[1] for command in commands] == ["export", "serve", "classify"]
    for _, name, *rest in commands:
        assert run([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in rest if word.startswith("--")), name


def test_commands_in_the_text_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands in backticks, such as `alexnet bench engine`."""
    named = set(re.findall(r"`(?:\.venv/bin/)?alexnet ([a-z]+(?: [a-z]+)?)", README))
    assert named >= {"train", "bench engine", "bench breakdown", "compare"}
    for name in sorted(named):
        first = name.split()[0]
        words = name.split() if first == "bench" else [first]
        assert run([*words, "--help"]) == 0
        capsys.readouterr()


def _without_figures(line: str) -> str:
    """Return a line without what another machine or a narrower network may change."""
    line = re.sub(r"equal|-?\d[\d.,]* dB", "# dB", line)  # parity: equal on some CPUs, close on others
    line = re.sub(r"-?\d[\d.,]*", "#", line).replace("wrong", "right")
    return " ".join(line.split())
