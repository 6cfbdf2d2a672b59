"""An engine in a process of its own: requests and replies, how it ends, and what it leaves behind."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from alexnet_bench.engines.process import BenchProcess, EngineProcess, Verbs, execute_requests
from alexnet_export.convert import onnx_from_checkpoint
from alexnet_model.errors import ExportError

from ..conftest import Exported
from ..networks import random_checkpoint
from .sweep_fakes import spec

pytestmark = pytest.mark.slow


def program(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import json, os, signal, sys\n{code}")


ECHO = """
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"number": request["number"], "value": request["verb"]}), flush=True)
"""


def test_replies_come_in_order_and_the_process_ends_with_its_input() -> None:
    with BenchProcess(program(ECHO)) as process:
        assert [process.request("load"), process.request("warm")] == ["load", "warm"]
        child = process._process
    assert child.returncode == 0


def test_the_reply_to_an_interrupted_request_is_skipped() -> None:
    answering_twice = """
for line in sys.stdin:
    number = json.loads(line)["number"]
    for one in (number - 1, number):
        print(json.dumps({"number": one, "value": one}), flush=True)
"""
    with BenchProcess(program(answering_twice)) as process:
        assert [process.request("load"), process.request("warm")] == [1, 2]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"its process ended \(killed by signal 9\)$"),
        ("sys.exit('a.so: no such library')", r"ended \(exit code 1\): a\.so: no such library"),
    ],
)
def test_the_end_of_the_process_is_an_error_with_its_last_words(code: str, said: str) -> None:
    with BenchProcess(program(f"sys.stdin.readline(); {code}")) as process:
        with pytest.raises(ExportError, match=said):
            process.request("load")
        with pytest.raises(ExportError, match="its process ended"):
            process.request("warm")


def test_a_process_that_does_not_reply_is_killed_after_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_bench.engines.process.CLOSING_S", 0.1)
    stuck = "import time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"
    with BenchProcess(program(stuck), deadline_s=0.2) as process:
        with pytest.raises(ExportError, match=r"got no reply in 0\.2 s"):
            process.request("load")
        child = process._process
    assert child.returncode == -9


def test_errors_are_replies_and_the_next_request_is_executed() -> None:
    def refuse() -> None:
        raise ExportError("a.onnx", got="nonsense", expected="a model")

    def break_down() -> None:
        raise ZeroDivisionError("by zero\nand more")

    requests = [
        json.dumps({"number": number, "verb": verb, **values}) + "\n"
        for number, (verb, values) in enumerate(
            [("refuse", {}), ("break_down", {}), ("unknown", {}), ("add", {"left": 1, "right": 2})]
        )
    ]
    replies = io.StringIO()
    verbs: Verbs = {"refuse": refuse, "break_down": break_down, "add": lambda left, right: left + right}
    execute_requests(requests, replies, verbs)
    assert [json.loads(line) for line in replies.getvalue().splitlines()] == [
        {"number": 0, "error": "a.onnx: got nonsense, expected a model"},
        {"number": 1, "error": "ZeroDivisionError: by zero"},
        {"number": 2, "error": "KeyError: 'unknown'"},
        {"number": 3, "value": 3},
    ]


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "fp32.onnx"
    onnx_from_checkpoint(random_checkpoint(), path, max_batch=4)
    return path


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_real_engine_is_timed_in_a_process_of_its_own(onnx: Path, runtime: str) -> None:
    chosen = spec(runtime=runtime, file=onnx, size_bytes=onnx.stat().st_size, max_batch=4, classes=10)
    with EngineProcess(chosen, 4) as process:
        assert process.load() > 0
        assert process.warm_up(4, 0.01) > 0
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
        process.load()
        judged = process.judge(export)
        assert judged.accepted
        assert judged.judged_on == "360 images of digits (test)"
        assert judged.report.signal_to_noise_db == pytest.approx(int8.reports[0].signal_to_noise_db, abs=1)
        assert [row.batch for row in judged.report.parity] == [1, 2, 3, 4]

    other = tmp_path / "other.onnx"
    onnx_from_checkpoint(random_checkpoint(), other, max_batch=4)
    with EngineProcess(spec(file=other, contract=contract, classes=10), 4) as process:
        process.load()
        judged = process.judge(export)
        assert not judged.accepted
        assert "dB above their error" in judged.reason


def test_a_file_that_does_not_load_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with EngineProcess(spec(file=path), 1) as process, pytest.raises(ExportError, match=r"broken\.onnx"):
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
        process.load()
