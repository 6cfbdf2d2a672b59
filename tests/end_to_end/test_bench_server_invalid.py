"""Spoilt on purpose: a starved generator, a slow server, a wrong model: INVALID, each for its reason."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper

from alexnet_bench.loads.generators import Workers
from alexnet_bench.loads.inputs import Asked, asked_from_config
from alexnet_bench.loads.measuring import ServerBench
from alexnet_bench.loads.plans import ClosedLoop, OpenLoop, Timing
from alexnet_bench.reports.schema import LoadRow
from alexnet_clients import ServerUrl, transport_from_url
from alexnet_export.artifacts import runner_from_artifact
from alexnet_serving import EmbeddedServer

from .conftest import Exported


def test_a_starved_generator_makes_its_row_invalid(server: EmbeddedServer) -> None:
    url = ServerUrl.parse(server.grpc_url)
    transport = transport_from_url(url)
    timing = Timing(burn_in_s=0.2, seconds=1.5, repeats=1)
    with Workers(server.grpc_url, 1) as workers:
        bench = ServerBench(transport, url, workers, timing=timing)
        bench.measure("alexnet_int8", ClosedLoop(concurrency=1))
        (worker,) = workers.process_ids
        fed = threading.Event()

        def starve() -> None:
            while not fed.wait(0.05):
                os.kill(worker, signal.SIGSTOP)
                fed.wait(0.05)
                os.kill(worker, signal.SIGCONT)

        starving = threading.Thread(target=starve)
        starving.start()
        row = bench.measure("alexnet_int8", OpenLoop(rate_per_s=100)).row
        fed.set()
        starving.join()
    transport.close()
    (late,) = [reason for reason in row.verdict.reasons if reason.rule == "generator late"]
    assert row.late_p99_ms is not None
    assert row.late_p99_ms > 10
    assert "more worker processes" in late.advice


def test_a_server_made_slow_makes_its_row_invalid(server: EmbeddedServer) -> None:
    """It is stopped every now and then, for longer than a request may take."""
    url = ServerUrl.parse(server.grpc_url)
    transport = transport_from_url(url)
    timing = Timing(burn_in_s=0.2, seconds=2.0, repeats=1)
    with Workers(server.grpc_url, 1) as workers:
        bench = ServerBench(transport, url, workers, timing=timing, timeout_s=1.0)
        bench.measure("alexnet_int8", ClosedLoop(concurrency=1))
        process_id = server._process.pid
        slow = threading.Timer(1.0, os.kill, (process_id, signal.SIGSTOP))
        quick_again = threading.Timer(3.0, os.kill, (process_id, signal.SIGCONT))
        slow.start()
        quick_again.start()
        row = bench.measure("alexnet_int8", ClosedLoop(concurrency=2)).row
        slow.join()
        quick_again.join()
    transport.close()
    assert "errors" in [reason.rule for reason in row.verdict.reasons]
    assert "DeadlineExceeded" in row.failed_by_kind


def truth_of(exported: Exported, asked: Asked) -> tuple[npt.NDArray[Any], ...]:
    """What the export answers in process."""
    (int8,) = [artifact for artifact in exported.manifest.accepted if artifact.precision == "int8"]
    with runner_from_artifact(int8, exported.folder) as runner:
        return tuple(runner.infer(request.images).probabilities for request in asked.requests())


def checked_against_the_truth(exported: Exported, url: str) -> LoadRow:
    address = ServerUrl.parse(url)
    transport = transport_from_url(address)
    timing = Timing(burn_in_s=0.1, seconds=0.5, repeats=1)
    config = transport.model_config("alexnet_int8", timeout_s=10).result()
    truth = truth_of(exported, asked_from_config(config, 1))
    with Workers(url, 1) as workers:
        bench = ServerBench(transport, address, workers, timing=timing, answers={("alexnet_int8", 1): truth})
        row = bench.measure("alexnet_int8", ClosedLoop(concurrency=2)).row
    transport.close()
    return row


def test_the_right_model_answers_as_the_export_in_process(exported: Exported, server: EmbeddedServer) -> None:
    row = checked_against_the_truth(exported, server.grpc_url)
    assert "wrong answers" not in [reason.rule for reason in row.verdict.reasons]


def test_a_wrong_model_makes_its_row_invalid(exported: Exported, tmp_path: Path) -> None:
    """One bias is another: it answers as quickly, and always the same."""
    repository = exported.repository(tmp_path / "model_repository")
    path = repository / "alexnet_int8" / "1" / "model.onnx"
    model = onnx.load(path)
    last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == last.input[2]]
    values = numpy_helper.to_array(bias).copy()
    values[0] += 3
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    path.unlink()  # it may be a hard link to the export's own file
    onnx.save(model, path)
    with EmbeddedServer(repository) as wrong_server:
        row = checked_against_the_truth(exported, wrong_server.grpc_url)
    (wrong,) = [reason for reason in row.verdict.reasons if reason.rule == "wrong answers"]
    assert "away from what they should be" in wrong.found
