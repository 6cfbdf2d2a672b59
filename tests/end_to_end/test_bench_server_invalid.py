"""A starved generator, a slow server and a wrong model each make a row INVALID, with the right reason."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from alexnet_bench import ClosedLoop, Load, MultiProcessGenerator, OpenLoop, ServerBench, Timing
from alexnet_bench.reports.files import report_from_file
from alexnet_bench.schema import LoadRow
from alexnet_cli.main import run
from alexnet_clients import ServerUrl, transport_from_url
from alexnet_serving import EmbeddedServer, write_repository

from .conftest import Exported


@pytest.mark.parametrize(
    ("loop", "rule"),
    [(OpenLoop(rate_per_s=100), "generator late"), (ClosedLoop(concurrency=2), "generator starved")],
)
def test_a_starved_generator_makes_its_row_invalid(
    server: EmbeddedServer, loop: ClosedLoop | OpenLoop, rule: str
) -> None:
    """The worker is stopped half of the time: an open loop sends late, a closed loop looks idle."""
    url = ServerUrl.parse(server.grpc_url)
    transport = transport_from_url(url)
    timing = Timing(burn_in_s=0.2, seconds=1.5, repeats=1)
    with MultiProcessGenerator(server.grpc_url) as generator:
        bench = ServerBench(transport, url, generator, timing=timing)
        bench.measure(Load(model="alexnet_int8", loop=ClosedLoop(concurrency=1)))
        (worker,) = generator.process_ids
        done = threading.Event()

        def starve() -> None:
            while not done.wait(0.05):
                os.kill(worker, signal.SIGSTOP)
                done.wait(0.05)
                os.kill(worker, signal.SIGCONT)

        starving = threading.Thread(target=starve)
        starving.start()
        row = bench.measure(Load(model="alexnet_int8", loop=loop)).row
        done.set()
        starving.join()
    transport.close()
    assert rule in [reason.rule for reason in row.verdict.reasons]
    assert row.client_away_share > 0.3
    if row.loop == "open":
        assert row.late_p99_ms is not None
        assert row.late_p99_ms > 10


def test_a_slow_server_makes_its_row_invalid(server: EmbeddedServer) -> None:
    """The server is stopped for longer than a request may take."""
    url = ServerUrl.parse(server.grpc_url)
    transport = transport_from_url(url)
    timing = Timing(burn_in_s=0.2, seconds=2.0, repeats=1)
    process_id = server._process.pid
    quick_again = threading.Timer(2.5, os.kill, (process_id, signal.SIGCONT))

    # Requests that are open then have begun after the burn-in, whose requests do not count.
    stop_after_s = timing.burn_in_s + 0.2

    def stop_server(elapsed_s: float) -> None:
        if elapsed_s > stop_after_s and not quick_again.is_alive() and not quick_again.finished.is_set():
            os.kill(process_id, signal.SIGSTOP)
            quick_again.start()

    with MultiProcessGenerator(server.grpc_url) as generator:
        bench = ServerBench(transport, url, generator, timing=timing, timeout_s=1.5)
        bench.measure(Load(model="alexnet_int8", loop=ClosedLoop(concurrency=1)))
        row = bench.measure(Load(model="alexnet_int8", loop=ClosedLoop(concurrency=2)), tick=stop_server).row
        quick_again.join()
    transport.close()
    assert "errors" in [reason.rule for reason in row.verdict.reasons]
    assert "DeadlineExceeded" in row.failed_by_kind


def row_checked_against_export(url: str, repository: Path, model: str, file: Path) -> LoadRow:
    """Run the command with `--repository`."""
    words = ["bench", "server", "--url", url, "--model", model, "--repository", str(repository)]
    words += ["--concurrency", "2", "--seconds", "1", "--repeats", "1", "--burn-in", "0.1"]
    assert run([*words, "--output", str(file)]) == 0
    report = report_from_file(file)
    assert f"--repository {repository}" in report.command
    (row,) = report.loads
    return row


@pytest.mark.parametrize("model", ["alexnet_int8", "alexnet"])
def test_the_right_model_agrees_with_the_export_in_process(
    exported: Exported, server: EmbeddedServer, tmp_path: Path, model: str
) -> None:
    repository = exported.repository(tmp_path / "model_repository")
    row = row_checked_against_export(server.grpc_url, repository, model, tmp_path / "load.json")
    assert "wrong answers" not in [reason.rule for reason in row.verdict.reasons]


def test_a_model_that_is_not_in_the_repository_is_a_usage_error(
    exported: Exported, server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifacts = tuple(a for a in exported.manifest.artifacts if a.precision == "fp32")
    write_repository(
        exported.manifest.model_copy(update={"artifacts": artifacts}), exported.folder, tmp_path / "other"
    )
    words = ["bench", "server", "--url", server.grpc_url, "--model", "alexnet_int8"]
    assert run([*words, "--repository", str(tmp_path / "other")]) == 2
    assert "expected one of this export: fp32" in " ".join(capsys.readouterr().err.split())


def test_a_wrong_model_makes_its_row_invalid(exported: Exported, tmp_path: Path) -> None:
    """One bias differs: only the outputs show that it is another model."""
    right = exported.repository(tmp_path / "right")
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
        row = row_checked_against_export(wrong_server.grpc_url, right, "alexnet_int8", tmp_path / "load.json")
    (wrong,) = [reason for reason in row.verdict.reasons if reason.rule == "wrong answers"]
    assert "wrong by up to" in wrong.found
