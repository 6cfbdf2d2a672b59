"""An engine in a process of its own: requests and replies, how it ends, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_bench.engines.process import BenchProcess, EngineProcess
from alexnet_export.convert import onnx_from_checkpoint
from alexnet_model.errors import ExportError

from ..conftest import Exported
from ..networks import SMALL, random_checkpoint
from .sweep_fakes import spec

pytestmark = pytest.mark.slow

CHILD = """
import os, signal, sys, time
from alexnet_bench.engines.process import serve_requests
from alexnet_model.errors import ExportError

def refuse():
    raise ExportError("a.onnx", got="nonsense", expected="a model")

def fail():
    raise ZeroDivisionError("by zero\\nand more")

VERBS = {"add": lambda left, right: left + right, "refuse": refuse, "fail": fail,
         "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
         "exit": lambda: sys.exit("a.so: no such library"),
         "print": lambda: print("from a library"), "sleep": time.sleep}

def serve(connection):
    serve_requests(connection, VERBS)

def reply_twice(connection):
    number, *_ = connection.recv()
    for one in (number - 1, number):
        connection.send((one, one, ""))
"""


class Child(BenchProcess):
    """A child that runs a function of `CHILD`."""

    def __init__(self, folder: Path, function: str = "serve", **options: Any) -> None:
        (folder / "child_for_tests.py").write_text(CHILD)
        environment = {"PYTHONPATH": str(folder)}
        super().__init__(function=f"child_for_tests:{function}", environment=environment, **options)


def test_replies_come_in_order_and_the_process_ends_with_its_connection(tmp_path: Path) -> None:
    with Child(tmp_path) as process:
        assert process.request("print") is None  # is not mixed up with replies
        assert [process.request("add", 1, 2), process.request("add", [3], [4])] == [3, [3, 4]]
        child = process._child.process
    assert child.returncode == 0


def test_the_reply_to_an_interrupted_request_is_skipped(tmp_path: Path) -> None:
    with Child(tmp_path, "reply_twice") as process:
        assert process.request("load") == 1


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("kill", r"its process ended \(killed by signal 9\)$"),
        ("exit", r"ended \(exit code 1: a\.so: no such library\)$"),
    ],
)
def test_the_end_of_the_process_is_an_error_with_its_last_line_of_output(
    tmp_path: Path, verb: str, message: str
) -> None:
    with Child(tmp_path) as process:
        with pytest.raises(ExportError, match=message):
            process.request(verb)
        with pytest.raises(ExportError, match="its process ended"):
            process.request("add", 1, 2)


def test_a_process_that_does_not_reply_is_killed_after_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_bench.child_process.CLOSING_S", 0.1)
    with Child(tmp_path, deadline_s=0.2) as process:
        with pytest.raises(ExportError, match=r"got no reply in 0\.2 s"):
            process.request("sleep", 600)
        child = process._child.process
    assert child.returncode == -9


def test_errors_are_replies_and_the_next_request_is_executed(tmp_path: Path) -> None:
    with Child(tmp_path) as process:
        for verb, message in (
            ("refuse", "^a.onnx: got nonsense, expected a model$"),
            ("fail", "^ZeroDivisionError: by zero$"),
            ("unknown", "^KeyError: 'unknown'$"),
        ):
            with pytest.raises(ExportError, match=message):
                process.request(verb)
        assert process.request("add", 1, 2) == 3


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "fp32.onnx"
    onnx_from_checkpoint(random_checkpoint(), path, max_batch=4)
    return path


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_real_engine_is_timed_in_a_process_of_its_own(onnx: Path, runtime: str) -> None:
    chosen = spec(runtime=runtime, file=onnx, size_bytes=onnx.stat().st_size, max_batch=4, classes=10)
    with EngineProcess(chosen, 4) as process:
        process.wait_until_started()
        assert process.load() > 0
        assert process.warm_up(4, 0.01, False) > 0
        found = process.time_calls(4, 0.01, 3)
        assert found.throughput_per_s > 0
        assert found.peak_memory_bytes is not None
        assert found.peak_memory_bytes > onnx.stat().st_size / 2
        described = process.describe()
        assert (described.name, described.device, described.computes_in) == (runtime, "CPU", "f32")


def test_a_real_engine_is_judged_in_the_process_that_timed_it(exported: Exported, tmp_path: Path) -> None:
    export = exported.folder
    (int8,) = (artifact for artifact in exported.manifest.accepted if artifact.precision == "int8")
    contract = exported.manifest.contract.to_json()
    chosen = spec("int8", file=export / int8.file, contract=contract, classes=10)
    with EngineProcess(chosen, 4) as process:
        process.wait_until_started()
        process.load()
        judged = process.judge(export)
        assert judged.accepted
        assert judged.judged_on == "360 images of digits (test)"
        assert judged.report.signal_to_noise_db == pytest.approx(int8.reports[0].signal_to_noise_db, abs=1)
        assert [row.batch for row in judged.report.parity] == [1, 2, 3, 4]

    other = tmp_path / "other.onnx"
    onnx_from_checkpoint(random_checkpoint(contract=SMALL), other, max_batch=4)
    with EngineProcess(spec(file=other, contract=contract, classes=10), 4) as process:
        process.wait_until_started()
        process.load()
        judged = process.judge(export)
        assert not judged.accepted
        assert "dB above their error" in judged.reason


def test_a_file_that_does_not_load_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with EngineProcess(spec(file=path), 1) as process:
        process.wait_until_started()
        with pytest.raises(ExportError, match=r"broken\.onnx"):
            process.load()


def test_a_missing_gpu_is_an_error(onnx: Path) -> None:
    gpu = {
        "index": 0,
        "name": "NVIDIA Z1",
        "compute_capability": "9.0",
        "driver": "580.95.05",
        "memory_mib": None,
    }
    said = r"PyTorch: got .*(without CUDA|no GPU|no NVIDIA Z1)"
    with EngineProcess(spec(file=onnx, gpu=gpu), 1) as process, pytest.raises(ExportError, match=said):
        process.wait_until_started()
