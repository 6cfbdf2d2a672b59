"""The worker processes of the load generator, on a real server; some of them are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from alexnet_bench import ClosedLoop, Load, MultiProcessGenerator, OpenLoop, ServerBench, Timing
from alexnet_clients import ServerUrl, transport_from_url
from alexnet_model.errors import ClientError, UsageError

from ..clients.wire_server import WireServer, config, infer, ready

MODEL = "alexnet_int8"
SHORT = Timing(burn_in_s=0.1, seconds=1.0, repeats=2)  # a busy machine answers nothing in a shorter time
LONG = Timing(burn_in_s=0.0, seconds=60, repeats=1)


@pytest.fixture
def wire_server() -> Iterator[WireServer]:
    server = WireServer({"ServerReady": ready, "ModelConfig": config, "ModelInfer": infer})
    running = grpc.server(
        ThreadPoolExecutor(4), handlers=[server], options=[("grpc.max_receive_message_length", -1)]
    )
    server.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield server
    running.stop(grace=None).wait()


@pytest.fixture
def make_bench(wire_server: WireServer) -> Iterator[Callable[..., ServerBench]]:
    url = ServerUrl.parse(wire_server.url)
    transport = transport_from_url(url)

    def make(generator: MultiProcessGenerator, timing: Timing = SHORT) -> ServerBench:
        return ServerBench(transport, url, generator, timing=timing, timeout_s=60)

    yield make
    transport.close()


def closed(concurrency: int) -> Load:
    return Load(model=MODEL, loop=ClosedLoop(concurrency=concurrency))


def is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def ends(process_ids: tuple[int, ...]) -> bool:
    """Whether the processes end within a time that is long enough on any machine."""
    until_s = time.monotonic() + 60
    while any(map(is_running, process_ids)) and time.monotonic() < until_s:
        time.sleep(0.02)
    return not any(map(is_running, process_ids))


def test_workers_share_a_load_and_their_counts_are_added(
    wire_server: WireServer, make_bench: Callable[..., ServerBench]
) -> None:
    with MultiProcessGenerator(wire_server.url, 2) as generator:
        bench = make_bench(generator)
        shared = bench.measure(closed(4))
        opened = bench.measure(Load(model=MODEL, loop=OpenLoop(rate_per_s=60)))
        alone = bench.measure(closed(1))
        process_ids = generator.process_ids
        assert len(process_ids) == 2
    assert ends(process_ids)
    for measured in (shared, opened, alone):
        assert measured.result.failures == 0
        assert measured.row.requests == measured.row.latencies.samples > 0
        assert measured.result.wrong == 0
        assert measured.result.checked >= 1
    assert opened.row.requests == pytest.approx(120, abs=4 * 11)
    assert opened.row.late_p99_ms is not None
    assert shared.row.request_bytes > 150_528
    assert shared.row.batching.startswith("unknown")  # this server reports no statistics


def test_workers_check_replies(wire_server: WireServer, make_bench: Callable[..., ServerBench]) -> None:
    with MultiProcessGenerator(wire_server.url, 1) as generator:
        bench = make_bench(generator)
        bench.measure(closed(1))

        def wrong(request: Any, context: Any) -> Any:
            response = infer(request, context)
            response.raw_output_contents[0] = np.linspace(0, 0.2, 10, dtype="<f4").tobytes()
            return response

        wire_server.handlers["ModelInfer"] = wrong
        row = bench.measure(closed(1)).row
    assert "wrong answers" in [reason.rule for reason in row.verdict.reasons]


def test_a_worker_that_dies_is_an_error_and_is_replaced(
    wire_server: WireServer, make_bench: Callable[..., ServerBench]
) -> None:
    with MultiProcessGenerator(wire_server.url, 2) as generator, ThreadPoolExecutor(1) as pool:
        bench = make_bench(generator, LONG)
        running = pool.submit(bench.measure, closed(2))
        while len(wire_server.received) < 100:
            time.sleep(0.01)
        first = generator.process_ids
        os.kill(first[1], signal.SIGKILL)
        with pytest.raises(ClientError, match=r"process 2 of the load generator: got killed by signal 9"):
            running.result(120)
        assert ends(first)
        bench.timing = SHORT
        assert bench.measure(closed(2)).row.requests > 0
        assert set(generator.process_ids).isdisjoint(first)


def test_ctrl_c_keeps_what_was_measured(
    wire_server: WireServer, make_bench: Callable[..., ServerBench]
) -> None:
    def interrupt(elapsed_s: float) -> None:
        if elapsed_s > 0 and len(wire_server.received) > 200:
            raise KeyboardInterrupt

    with MultiProcessGenerator(wire_server.url, 2) as generator:
        measured = make_bench(generator, LONG).measure(closed(2), tick=interrupt)
    assert measured.result.interrupted
    assert measured.row.requests > 100
    assert measured.result.measured_s < 59
    assert measured.ends_run


ORPHANS = """
import sys
from alexnet_bench import ClosedLoop, Load, MultiProcessGenerator, ServerBench, Timing
from alexnet_clients import ServerUrl, transport_from_url

url = ServerUrl.parse(sys.argv[1])
with MultiProcessGenerator(sys.argv[1], 2) as generator:
    print(*generator.process_ids, flush=True)
    timing = Timing(burn_in_s=0, seconds=600, repeats=1)
    bench = ServerBench(transport_from_url(url), url, generator, timing=timing)
    bench.measure(Load(model="alexnet_int8", loop=ClosedLoop(concurrency=2)))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(wire_server: WireServer, end: signal.Signals) -> None:
    command = [sys.executable, "-c", ORPHANS, wire_server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process_ids = tuple(map(int, parent.stdout.readline().split()))
        assert len(process_ids) == 2
        while len(wire_server.received) < 200:
            time.sleep(0.01)
        assert all(map(is_running, process_ids))
        parent.send_signal(end)
        parent.wait(120)
    assert ends(process_ids)


def test_open_workers_have_imported_their_modules(wire_server: WireServer) -> None:
    # Imports that go on would slow down the calibration workload, which comes next.
    with MultiProcessGenerator(wire_server.url, 2) as generator:
        for process_id in generator.process_ids:
            assert "_multiarray_umath" in Path(f"/proc/{process_id}/maps").read_text()


def test_a_module_in_the_current_folder_is_not_imported(
    wire_server: WireServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    with MultiProcessGenerator(wire_server.url, 1) as generator:
        assert len(generator.process_ids) == 1


@pytest.mark.parametrize("count", [0, -1])
def test_less_than_one_process_is_a_usage_error(count: int) -> None:
    with pytest.raises(UsageError, match=f"workers: got {count}"):
        MultiProcessGenerator("grpc://127.0.0.1:8001", count)


def test_a_url_that_does_not_parse_is_an_error() -> None:
    with pytest.raises(ClientError, match="nonsense"):
        MultiProcessGenerator("nonsense")
