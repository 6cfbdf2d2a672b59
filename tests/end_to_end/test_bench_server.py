"""`alexnet bench server` on a real server: its report, also if the server dies or Ctrl-C comes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_bench.reports.files import report_from_file
from alexnet_bench.schema import Report
from alexnet_cli.main import run
from alexnet_clients import ServerUrl, transport_from_url
from alexnet_serving import EmbeddedServer

from ..waiting import wait_until
from .conftest import Exported

BRIEF = ["--seconds", "1", "--repeats", "1", "--burn-in", "0.1"]  # in less, a busy machine answers nothing


def command(url: str, *arguments: str, model: str = "alexnet_int8") -> list[str]:
    return ["bench", "server", "--url", url, "--model", model, *BRIEF, *arguments]


def line_of(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Run a command that fails, and return its one line of output."""
    assert run(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_a_sweep_writes_a_report_with_flat_names(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results" / "load.json"
    arguments = ["--concurrency", "1,8", "--batch", "1,4", "--rate", "20", "--output", str(path)]
    assert run(command(server.grpc_url, *arguments)) == 0
    content = json.loads(path.read_text())
    rows = content["loads"]
    assert [(row["batch"], row["concurrency"], row["rate_per_s"]) for row in rows] == [
        (1, 1, None),
        (1, 8, None),
        (1, None, 20),
        (4, 1, None),
        (4, 8, None),
        (4, None, 20),
    ]
    for row in rows:
        assert row["throughput_per_s"] > 0
        assert row["latency_mean_ms"] > 0
        assert row["latency_max_ms"] > 0
        assert row["failed"] == 0
        assert row["engine"]["runtime"] == "openvino_dynamic"
        assert (row["engine"]["device"], row["engine"]["computes_in"]) == ("CPU", "i8")
        assert row["request_bytes"] > row["batch"] * 150_528
        assert sum(row["executions_by_batch"].values()) > 0
        assert "wrong answers" not in [reason["rule"] for reason in row["verdict"]["reasons"]]
    assert "synchronous client" in rows[0]["batching"]
    assert set(rows[3]["executions_by_batch"]) == {"4"}
    assert content["calibration_before"] > 1e6
    assert content["calibration_after"] > 1e6
    assert "--concurrency 1,8" in content["command"]
    assert report_from_file(path) == Report.model_validate(content)
    screen = capsys.readouterr().out
    assert "VALID" in screen
    assert "synchronous client" in screen
    assert max(len(line) for line in screen.splitlines() if not line.startswith("batching:")) <= 80


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_executions_of_an_ensemble_are_those_of_its_network(
    server: EmbeddedServer, tmp_path: Path, protocol: str
) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    path = tmp_path / "load.json"
    assert run(command(url, "--concurrency", "4", "--output", str(path), model="alexnet")) == 0
    (row,) = report_from_file(path).loads
    assert (row.url_scheme, row.engine.device, row.engine.precision) == (protocol, "CPU", "int8")
    assert "dynamic_batching" not in row.batching  # the ensemble itself has none
    assert 40_000 < row.request_bytes < 56_000
    assert sum(row.executions_by_batch.values()) > 0
    assert row.failed == 0


FOREIGN_CONFIG = """
name: "adder"
backend: "python"
max_batch_size: 4
input { name: "image" data_type: TYPE_FP32 dims: [3, -1] }
input { name: "ids" data_type: TYPE_INT64 dims: [2] }
output { name: "sums" data_type: TYPE_FP32 dims: [-1] }
output { name: "names" data_type: TYPE_STRING dims: [1] }
instance_group { kind: KIND_CPU count: 1 }
"""
FOREIGN_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
            names = np.full((len(image), 1), "x", dtype=np.object_)
            outputs = [pb_utils.Tensor("sums", image.sum(axis=1)), pb_utils.Tensor("names", names)]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
"""


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_foreign_model_is_loaded_by_its_own_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    version = tmp_path / "models" / "adder" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(FOREIGN_CONFIG)
    (version / "model.py").write_text(FOREIGN_MODEL)
    path = tmp_path / "load.json"
    with EmbeddedServer(tmp_path / "models") as foreign:
        url = foreign.grpc_url if protocol == "grpc" else foreign.http_url
        arguments = command(url, "--concurrency", "4", "--batch", "2", "--output", str(path), model="adder")
        assert "--shape image:3,N" in line_of(capsys, 2, *arguments)
        assert run([*arguments, "--shape", "image:3,5"]) == 0
    (row,) = report_from_file(path).loads
    assert (row.engine.runtime, row.engine.precision, row.engine.device) == ("python", None, "CPU")
    assert row.failed == 0
    assert set(row.executions_by_batch) == {2}
    assert row.batching == "no: the model has no dynamic_batching"


def test_the_decoder_alone_can_be_loaded(server: EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    arguments = ["--concurrency", "2", "--output", str(path)]
    assert run(command(server.grpc_url, *arguments, model="alexnet_decode")) == 0
    (row,) = report_from_file(path).loads
    assert 40_000 < row.request_bytes < 56_000
    assert row.failed == 0


# Usage errors


WRONG_USE = [
    (["--concurrency", "0"], ["concurrency: got 0"]),
    (["--concurrency", "-1"], ["concurrency: got -1"]),
    (["--concurrency", "many"], ["--concurrency", "'many'"]),
    (["--rate", "0"], ["rate: got 0 requests/s"]),
    (["--rate", "-5"], ["rate: got -5 requests/s"]),
    (["--rate", "fast"], ["--rate", "'fast'"]),
    (["--batch", "0"], ["batch for alexnet_int8: got 0, expected 1 to 16"]),
    (["--batch", "17"], ["batch for alexnet_int8: got 17, expected 1 to 16"]),
    (["--seconds", "0"], ["seconds: got 0"]),
    (["--seconds", "-1"], ["seconds: got -1"]),
    (["--repeats", "0"], ["repeats: got 0"]),
    (["--burn-in", "-1"], ["burn-in"]),
    (["--workers", "0"], ["workers: got 0"]),
    (["--limit-p99-ms", "0"], ["limit of p99"]),
    (["--limit-p99-ms", "-3"], ["limit of p99"]),
    (["--shape", "image"], ["--shape", "NAME:1,2,3"]),
    (["--shape", "pixels:3"], ["shape of pixels", "expected image"]),
    (["--header", "secret"], ["--header", "'Name: value'"]),
    (["--output", "."], ["--output .: got a folder"]),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG_USE)
def test_usage_errors_are_one_line_and_nothing_is_measured(
    server: EmbeddedServer, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    line = line_of(capsys, 2, *command(server.grpc_url, *arguments))
    for word in words:
        assert word in line


def test_an_unknown_model_is_a_one_line_error_without_a_report(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(server.grpc_url, "--output", str(tmp_path / "load.json"), model="resnet")
    line = line_of(capsys, 1, *arguments)
    assert "resnet" in line
    assert "expected one of alexnet, alexnet_fp16, alexnet_fp32, alexnet_int8" in line
    assert list(tmp_path.iterdir()) == []


def test_the_only_export_is_measured_if_no_model_is_named(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "load.json"
    arguments = ["--url", server.grpc_url, *BRIEF, "--concurrency", "2", "--output", str(path)]
    assert run(["bench", "server", *arguments]) == 0
    assert [row["model"] for row in json.loads(path.read_text())["loads"]] == ["alexnet_fp32"]


def test_no_server_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "alexnet serve" in line_of(capsys, 1, *command("grpc://127.0.0.1:1"))


def test_a_folder_that_cannot_be_created_is_an_error_before_anything_is_measured(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    line = line_of(capsys, 1, *command(server.grpc_url, "--output", str(tmp_path / "file" / "load.json")))
    assert "file" in line


def test_a_full_disk_is_a_one_line_error_after_the_table(
    server: EmbeddedServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("alexnet_bench.reports.files.write_text_atomically", full)
    path = tmp_path / "load.json"
    assert run(command(server.grpc_url, "--concurrency", "1", "--output", str(path))) == 1
    captured = capsys.readouterr()
    assert "1 at a time" in captured.out  # the figures are not lost
    assert captured.err.splitlines()[-1] == f"Error: {path}: No space left on device. Free some space."
    assert list(tmp_path.iterdir()) == []


# Failures during a load


@pytest.fixture
def own_server(exported: Exported, tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(exported.repository(tmp_path / "model_repository")) as own:
        yield own


def children_of(process_id: int) -> list[int]:
    found = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(child) for child in found.split()]


def started(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alexnet_cli", *command(url), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_requests(url: str, requests: int) -> None:
    """Wait for so many requests: more than the 64 before a load and those of its burn-in."""
    transport = transport_from_url(ServerUrl.parse(url))
    while transport.statistics("alexnet_int8", timeout_s=10).result().requests < requests:
        time.sleep(0.05)
    transport.close()


def test_a_server_that_is_killed_during_a_load_leaves_a_report(own_server: Any, tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    arguments = ["--concurrency", "4,8", "--seconds", "120"]  # killed long before
    with started(own_server.grpc_url, *arguments, "--output", str(path)) as bench:
        wait_for_requests(own_server.grpc_url, 400)
        os.kill(own_server._process.pid, signal.SIGKILL)
        out, err = bench.communicate(timeout=300)
    assert bench.returncode == 1, err
    report = report_from_file(path)
    (row,) = report.loads
    rules = [reason.rule for reason in row.verdict.reasons]
    assert "errors" in rules
    assert "server gone" in [reason.rule for reason in report.reasons]
    assert row.latencies.samples > 50
    assert [left.what for left in report.left_out] == ["alexnet_int8, 8 at a time, batch 1"]
    assert "INVALID" in out
    assert "left out: alexnet_int8, 8 at a time, batch 1" in out


def test_ctrl_c_writes_what_was_measured_and_leaves_no_process(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    path = tmp_path / "load.json"
    transport = transport_from_url(ServerUrl.parse(server.grpc_url))
    before = transport.statistics("alexnet_int8", timeout_s=10).result().requests
    transport.close()
    arguments = ["--concurrency", "2", "--seconds", "120", "--workers", "2"]
    with started(server.grpc_url, *arguments, "--output", str(path)) as bench:
        wait_for_requests(server.grpc_url, before + 400)
        workers = children_of(bench.pid)
        assert len(workers) >= 2
        os.killpg(bench.pid, signal.SIGINT)  # as a terminal does: to all processes in the foreground
        out, err = bench.communicate(timeout=300)
    assert bench.returncode == 130, err
    assert err.splitlines()[-1] == "Interrupted."
    report = report_from_file(path)
    (row,) = report.loads
    assert "interrupted" in [reason.rule for reason in row.verdict.reasons]
    assert "interrupted" in [reason.rule for reason in report.reasons]
    assert row.requests > 50
    assert "INVALID" in out
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "the workers end")
