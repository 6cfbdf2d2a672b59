"""The documentation's code runs, and the commands, options, files and links that it names exist."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexnet_cli.demo_images import write_test_images
from alexnet_cli.main import run
from alexnet_clients import Client
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE, TRITON_RELEASE
from alexnet_serving import EmbeddedServer

from .conftest import Demo

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "reference"),  # `make docs`
]


def check_options(command: str, rest: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a command's help names every option in `rest`."""
    assert run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for option in re.findall(r"(?<!\S)--[\w-]+", rest):
        assert option in shown, f"alexnet {command} has no {option}"


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def served(demo: Demo) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(demo.folder / "model_repository") as server:
        yield server


@pytest.fixture
def clients_page(served: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page with this server's ports in the place of the default ones, in a folder with its images."""
    cat, dog = write_test_images(tmp_path / "images" / "deeper")[:2]
    for path in (tmp_path / "images" / "deeper").iterdir():
        if path not in (cat.path, dog.path):
            path.unlink()
    (tmp_path / "cat.jpg").write_bytes(cat.path.read_bytes())
    (tmp_path / "dog.png").write_bytes(dog.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "clients.md").read_text()
    for url in (served.grpc_url, served.http_url):
        port = {"grpc": "8001", "http": "8000"}[url.partition("://")[0]]
        page = page.replace(f"127.0.0.1:{port}", url.partition("://")[2])
    return page


@pytest.mark.parametrize("block", range(4))
def test_the_clients_pages_python_runs(
    clients_page: str, block: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.findall(r"^```python\n(.*?)^```", clients_page, re.MULTILINE | re.DOTALL)
    blocks = [each for each in found if "observers" not in each]
    assert len(blocks) == 4
    exec(compile(blocks[block], "clients.md", "exec"), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (2, 2, 2, 3)[block]
    assert "error" not in " ".join(lines).lower()


def test_the_clients_pages_observers_run(clients_page: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.findall(r"^```python\n(.*?)^```", clients_page, re.MULTILINE | re.DOTALL)
    (block,) = [each for each in found if "observers" in each]
    posted: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector, socket.socket() as free:
        threading.Thread(target=collector.serve_forever).start()
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        block = block.replace("127.0.0.1:4318", f"127.0.0.1:{collector.server_port}")
        try:
            exec(compile(block.replace("9000", str(port)), "clients.md", "exec"), {})
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                metrics = response.read().decode()
        finally:
            collector.shutdown()
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert b"upload" in b"".join(posted)
    assert b"inference.GRPCInferenceService/ModelInfer" in b"".join(posted)
    assert 'alexnet_client_request_duration_seconds_count{model="alexnet_int8"} 1.0' in metrics


def test_the_clients_pages_blocks_that_are_not_run_are_still_python(clients_page: str) -> None:
    several, tls, gunicorn = re.findall(
        r"^```python no-run\n(.*?)^```", clients_page, re.MULTILINE | re.DOTALL
    )
    from alexnet_model.errors import UsageError

    with pytest.raises(UsageError, match=r"ca\.pem"):  # the names are right; the files do not exist
        exec(compile(tls, "clients.md", "exec"), {})
    exec(compile(gunicorn, "clients.md", "exec"), {})
    names: dict[str, Any] = {}
    exec(compile(several, "clients.md", "exec"), names)  # clients connect when they are used
    names["client"].close()


def test_the_arithmetic_of_the_scale_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = code_blocks(ROOT / "docs" / "scale.md", "python")
    exec(compile(block, "scale.md", "exec"), {})
    assert capsys.readouterr().out == "5 replicas, 6.0 Gbit/s, 0.40 per million images\n"


def test_the_clients_pages_curl_runs(clients_page: str, served: EmbeddedServer) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```", clients_page, re.MULTILINE | re.DOTALL)
    done = subprocess.run(["bash", "-c", block], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    (output,) = json.loads(done.stdout)["outputs"]
    with Client(served.grpc_url) as client:
        (prediction,) = client.classify("cat.jpg", model="alexnet", top=3)
    assert [text.split(":", 2)[2] for text in output["data"]] == [found.label for found in prediction.classes]


def test_commands_of_the_clients_page_exist_with_their_options(
    clients_page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in re.findall(r"^    .*?alexnet classify (.*?)(?:   .*)?$", clients_page, re.MULTILINE):
        check_options("classify", line, capsys)


def test_the_contract_pages_options_exist_and_its_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "contract.md"
    commands = re.findall(r"^    alexnet export (.*)$", page.read_text(), re.MULTILINE)
    named = re.findall(r"^\| `(--[\w-]+)` \|", page.read_text(), re.MULTILINE)
    assert len(commands) == 4
    assert len(set(named)) == 9  # --resize heads a table of its own too
    check_options("export", " ".join([*commands, *named]), capsys)
    (tmp_path / "contract.json").write_text(code_blocks(page, "json")[0])
    Image.new("RGB", (300, 200)).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code_blocks(page, "python")[0], "contract.md", "exec"), {})
    assert capsys.readouterr().out == "(227, 227, 3)\n"


def test_commands_of_the_export_page_exist_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    options = set(re.findall(r"`(--[\w-]+)", page))
    for line in [*re.findall(r"^    alexnet export (.*)$", page, re.MULTILINE), " ".join(sorted(options))]:
        check_options("export", line, capsys)


def test_commands_of_the_training_page_exist_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    options = set(re.findall(r"`(--[\w-]+)", page))
    for line in [*re.findall(r"^    alexnet train (.*)$", page, re.MULTILINE), " ".join(sorted(options))]:
        check_options("train", line, capsys)


def test_commands_of_the_benchmarks_page_exist_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    lines = re.findall(r"(?:^    |`)alexnet ((?:bench )?[a-z-]+)([^`\n]*)", page, re.MULTILINE)
    benchmarks = {
        f"bench {name}" for name in ("engine", "server", "breakdown", "cold-start", "report", "loader")
    }
    assert {name for name, _ in lines} == {*benchmarks, "tune", "compare"}
    for name, rest in lines:
        check_options(name, rest, capsys)


def test_commands_of_the_repository_page_exist_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "repository.md").read_text()
    lines = re.findall(r"^    alexnet ((?:bench )?[a-z-]+)(.*)$", page, re.MULTILINE)
    names = {"export", "rollback", "tune", "bench breakdown", "bench server", "classify"}
    assert {name for name, _ in lines} == names
    for name, rest in lines:
        check_options(name, rest, capsys)


def test_commands_of_getting_started_exist_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "getting-started.md").read_text()
    lines = re.findall(r"^    alexnet ((?:bench )?[a-z-]+)(.*)$", page, re.MULTILINE)
    assert {name for name, _ in lines} == {"export", "serve", "classify", "ui", "bench server"}
    for name, rest in lines:
        check_options(name, rest, capsys)


def test_recipes_of_the_benchmarks_page_exist() -> None:
    recipes = re.findall(r"python (benchmarks/\w+\.py)", (ROOT / "docs" / "benchmarks.md").read_text())
    assert recipes
    assert all((ROOT / recipe).is_file() for recipe in recipes)


def test_make_targets_in_the_pages_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"^(?:    )?make ([\w-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, page


def test_pages_name_the_images_of_the_code() -> None:
    named = set()
    for page in PAGES:
        named |= set(
            re.findall(r"\b(?:nvcr\.io/nvidia/tritonserver|alexnet-serving/triton):[\w.-]+", page.read_text())
        )
    assert TRITON_IMAGE in named
    assert named <= {TRITON_IMAGE, CPU_IMAGE}
    assert f"**Version {TRITON_RELEASE}**" in (ROOT / "docs" / "decisions" / "docker.md").read_text()


def test_links_between_pages_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_shares_in_the_lecture_equal_those_of_the_network() -> None:
    from alexnet_model.architectures import AlexNet, multiply_adds, parameter_count

    network = AlexNet(1000)
    in_layers = parameter_count(network.classifier) / parameter_count(network)
    linear = sum(p.numel() for name, p in network.classifier.named_parameters() if name.endswith("weight"))
    in_convolutions = 1 - linear / multiply_adds(network)
    page = " ".join((ROOT / "docs" / "lecture.md").read_text().split())
    assert f"hold {in_layers:.0%} of the parameters" in page
    assert f"do {in_convolutions:.0%} of the multiply-adds" in page


def test_counts_in_the_lecture_equal_those_of_the_networks() -> None:
    from alexnet_model.architectures import build, multiply_adds, parameter_count

    page = (ROOT / "docs" / "lecture.md").read_text()
    for name, classes in (
        ("lenet", 10),
        ("alexnet-lecture", 10),
        ("alexnet-lecture", 1000),
        ("alexnet-2012", 1000),
        ("alexnet", 1000),
    ):
        network = build(name, classes)
        # The lecture's LeNet has one input channel; ours averages colours first, so the count is the same.
        assert f"| {parameter_count(network):,} | {multiply_adds(network):,} |" in page
