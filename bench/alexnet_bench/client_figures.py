"""Benchmark the clients: what they cost compared with their parts, with raw gRPC, and on their own.

Ratios are taken within a round, whose parts run within seconds of each other; every other round runs
backwards. The server must be on this machine and have nothing else to do.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alexnet_clients import (
    IMAGES_PER_TASK,
    AsyncClient,
    Client,
    FakeTransport,
    ServerUrl,
    SharedImages,
    transport_from_url,
)
from alexnet_model.contract import Contract
from alexnet_model.errors import BadResponse
from alexnet_model.progress import Progress, silent

from .engines.timing import pool_of_images
from .figures.intervals import figure_from_repeats
from .loads.generators import InProcessGenerator
from .loads.loop import LoadRun
from .loads.plans import ClosedLoop, Load, Segment, Timing
from .loads.server_bench import ServerBench
from .loads.traffic import Traffic
from .schema import FigureRow
from .synthetic_images import synthetic_jpegs

IN_FLIGHT = 64  # requests of AsyncClient and of raw gRPC
SHARED_BATCHES = (1, 8, 32)
_BURN_IN_SHARE = 0.2  # of a slice, before it
_SLOW_TO_IMPORT = ("torch", "onnx", "onnxruntime", "tritonclient", "grpc", "aiohttp")
_IMPORT = """
import json, sys, time
started = time.perf_counter()
import alexnet_clients
print(json.dumps([1e3 * (time.perf_counter() - started), sorted(set(sys.modules) & set(sys.argv[1:]))]))
"""


@dataclass(frozen=True, kw_only=True)
class ClientBenchOptions:
    """How often and how long each figure is measured; about two minutes in all."""

    rounds: int = 5
    slice_s: float = 2.0  # of one measurement under load
    calls: int = 3000  # of the client on a fake transport, in each round
    imports: int = 15


def measure_clients(
    url: str,
    folder: Path,
    *,
    model: str = "alexnet_int8",
    options: ClientBenchOptions | None = None,
    progress: Progress = silent,
) -> Iterator[FigureRow]:
    """Measure the clients on a server, and yield each figure as soon as it is measured.

    Args:
        url: The server's gRPC URL. The server must allow shared memory.
        folder: A folder of JPEG files, such as `write_client_images` makes.
        model: The model that classifies them; it must take arrays of pixels.
        options: How often and how long to measure.
        progress: Called before each round.

    Raises:
        ClientError: the server cannot be reached, or did not reply.
        BadResponse: a request failed, so that a rate would be meaningless.
    """
    options = options or ClientBenchOptions()
    slice_s = options.slice_s
    paths = sorted(folder.glob("*.jpg"))
    with Client(url) as client:
        contract = client.model(model).contract
    with closing(transport_from_url(ServerUrl.parse(url))) as transport:
        bench = ServerBench(transport, ServerUrl.parse(url), InProcessGenerator(transport))
        tested = bench.model(model)
        rates = _rounds(
            {
                "decode alone": lambda: decoded_per_s(paths, contract),
                "serve alone": lambda: served_per_s(bench, model, slice_s),
                "folder": lambda: classified_per_s(url, model, paths),
            },
            options.rounds,
            progress,
        )
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    of = f"{len(paths)} JPEGs, {megabytes:.1f} MB, {model} over gRPC"
    for name, values in rates.items():
        yield _row(name, of, values, "images/s", engine=tested.engine, better="higher")
    parts = list(zip(rates["decode alone"], rates["serve alone"], strict=True))
    for name, below in (
        ("folder / the slower of decode and serve alone", [min(part) for part in parts]),
        ("folder / decode and serve in sequence", [1 / (1 / decode + 1 / serve) for decode, serve in parts]),
    ):
        ratios = _ratios(rates["folder"], below)
        yield _row(name, of, ratios, "times", engine=tested.engine, at_least=0.9, better="higher")

    rates = _rounds(
        {
            "raw gRPC": lambda: raw_grpc_per_s(url, model, contract, slice_s),
            "AsyncClient": lambda: asyncio.run(async_client_per_s(url, model, slice_s)),
        },
        options.rounds,
        progress,
    )
    of = f"{model} over gRPC, batch 1, {IN_FLIGHT} requests in flight"
    for name, values in rates.items():
        yield _row(name, of, values, "images/s", engine=tested.engine, better="higher")
    ratios = _ratios(rates["AsyncClient"], rates["raw gRPC"])
    name = "AsyncClient / raw gRPC"
    yield _row(name, of, ratios, "times", engine=tested.engine, at_least=0.95, better="higher")

    name = "shared memory / gRPC, latency"
    for batch in (size for size in SHARED_BATCHES if size <= tested.config.max_batch):
        of = f"{model}, batch {batch}, one request at a time"
        values = _rounds({of: partial(shared_memory_ratio, url, model, batch)}, options.rounds, progress)[of]
        yield _row(name, of, values, "times", engine=tested.engine, better="lower")

    of = "without network and server"
    for name, measure, rounds, unit in (
        ("Client.probabilities, batch 1", partial(call_us, options.calls), options.rounds, "us"),
        ("import alexnet_clients", import_ms, options.imports, "ms"),
    ):
        values = _rounds({name: measure}, rounds, progress)[name]
        yield _row(name, of, values, unit, at_most=150, better="lower")


def write_client_images(folder: Path, count: int) -> None:
    """Write JPEG files for `measure_clients`: nine in ten of 64 x 64 pixels, the rest of 342 x 342.

    Args:
        folder: Where to write; it is created.
        count: How many files.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    small = count * 9 // 10
    jpegs = synthetic_jpegs(small, size=(64, 64), noise_cell_px=8, quality=90)
    jpegs += synthetic_jpegs(count - small, size=(342, 342), quality=90)
    for index, content in enumerate(jpegs):
        (folder / f"{index:05d}.jpg").write_bytes(content)


def decoded_per_s(paths: Sequence[Path], contract: Contract) -> float:
    """Images a second that are prepared by a contract in as many threads as there are cores."""
    chunks = [paths[start : start + IMAGES_PER_TASK] for start in range(0, len(paths), IMAGES_PER_TASK)]

    def prepare(chunk: Sequence[Path]) -> None:
        for path in chunk:
            contract.prepared(path)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.perf_counter()
        for _ in pool.map(prepare, chunks):
            pass
        return len(paths) / (time.perf_counter() - started)


def served_per_s(bench: ServerBench, model: str, seconds: float) -> float:
    """Images a second that are served at the largest batch, two requests in flight.

    Raises:
        BadResponse: a request failed, or a reply was wrong.
    """
    load = Load(model=model, batch=bench.model(model).config.max_batch, loop=ClosedLoop(concurrency=2))
    # Replies of large batches are few: twice the time, so that one more or less matters little.
    timing = Timing(burn_in_s=_BURN_IN_SHARE * seconds, seconds=2 * seconds, repeats=1)
    measured = bench.measure(load, timing=timing)
    if measured.result.failures or measured.result.wrong:
        error = measured.result.failure or measured.result.wrong_example
        raise BadResponse(f"{bench.url} {load}", got=error, expected="a correct reply to every request")
    return measured.row.throughput.value


def classified_per_s(url: str, model: str, paths: Sequence[Path]) -> float:
    """Images a second that `Client.classify` classifies, given the files' paths.

    Raises:
        BadResponse: an image was not classified.
    """
    with Client(url) as client:
        client.model(model)
        started = time.perf_counter()
        classified = sum(p.error is None for p in client.classify_folder(paths[0].parent, model=model))
        seconds = time.perf_counter() - started
    if classified != len(paths):
        raise BadResponse(
            f"{url} {model}", got=f"{classified} classified images", expected=f"{len(paths)}, all of them"
        )
    return len(paths) / seconds


class _RawGrpc:
    """The generated gRPC client, without any code of this project's transport."""

    def __init__(self, channel: Any) -> None:
        from tritonclient.grpc import service_pb2_grpc

        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def submit(self, message: Any, *, timeout_s: float) -> Any:
        return self._stub.ModelInfer.future(message, timeout=timeout_s)


def raw_grpc_per_s(url: str, model: str, contract: Contract, seconds: float) -> float:
    """Requests a second of the generated gRPC client in a closed loop, batch 1.

    Args:
        url: The server's gRPC URL.
        model: The model's name on the server.
        contract: The model's contract.
        seconds: How long to send requests.

    Raises:
        BadResponse: a request failed, or none had a reply in that time.
    """
    import grpc
    from tritonclient.grpc import service_pb2

    messages: list[Any] = []
    for image in pool_of_images(contract, IN_FLIGHT):
        message = service_pb2.ModelInferRequest(model_name=model)
        message.inputs.add(name=contract.input_name, datatype="UINT8", shape=[1, *image.shape])
        message.outputs.add(name=contract.probabilities_name)
        message.raw_input_contents.append(image.tobytes())
        messages.append(message)
    timing = Timing(burn_in_s=_BURN_IN_SHARE * seconds, seconds=seconds, repeats=1)
    segment = Segment(
        loop=ClosedLoop(concurrency=IN_FLIGHT), timing=timing, starts_s=time.monotonic(), statistics_of=()
    )
    with grpc.insecure_channel(ServerUrl.parse(url).address) as channel:
        transport: Any = _RawGrpc(channel)  # a load without statistics only submits
        traffic = Traffic(transport=transport, messages=messages, expected=None, timeout_s=60)
        result = LoadRun(segment, traffic).result()
    if result.failures or not sum(result.completed):
        error = " ".join(result.failure.split()) or f"no reply in {seconds:g} s"
        raise BadResponse(f"{url} {model}", got=error, expected="a reply to every request")
    return result.rates_per_s()[0]


async def async_client_per_s(url: str, model: str, seconds: float) -> float:
    """Requests a second of `AsyncClient`, batch 1: concurrent tasks, each of which awaits one reply."""
    async with AsyncClient(url, max_in_flight=IN_FLIGHT) as client:
        images = pool_of_images((await client.model(model)).contract, IN_FLIGHT)
        ends_s: list[float] = []
        until_s = time.perf_counter() + (1 + _BURN_IN_SHARE) * seconds

        async def send(index: int) -> None:
            while time.perf_counter() < until_s:
                await client.probabilities(images[index : index + 1], model=model)
                ends_s.append(time.perf_counter())

        await asyncio.gather(*(send(index) for index in range(IN_FLIGHT)))
    return sum(until_s - seconds < end_s <= until_s for end_s in ends_s) / seconds


def shared_memory_ratio(url: str, model: str, batch: int) -> float:
    """Median latency through shared memory divided by that through gRPC, one request at a time."""
    shared_s, grpc_s = [], []
    with Client(url) as client, SharedImages(client, capacity=batch, model=model) as shared:
        images = pool_of_images(client.model(model).contract, batch)
        for _ in range(max(4, 120 // batch)):
            started = time.perf_counter()
            shared.images[:] = images
            shared.probabilities(batch)
            between = time.perf_counter()
            client.probabilities(images, model=model)
            shared_s.append(between - started)
            grpc_s.append(time.perf_counter() - between)
    return median(shared_s) / median(grpc_s)


def call_us(calls: int) -> float:
    """Median time of `Client.probabilities` in microseconds, on a transport that replies at once."""
    image = pool_of_images(Contract(), 1)
    probabilities = np.full((1, 10), 0.1, np.float32)
    took_us = []
    with Client("grpc://fake", transport=FakeTransport(predict=lambda _: probabilities)) as client:
        for _ in range(calls):
            started = time.perf_counter()
            client.probabilities(image)
            took_us.append(1e6 * (time.perf_counter() - started))
    return median(took_us)


def import_ms() -> float:
    """Time of `import alexnet_clients` in a new process, in milliseconds.

    Raises:
        BadResponse: the import also imported a library that is slow to import.
    """
    command = [sys.executable, "-c", _IMPORT, *_SLOW_TO_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took_ms, slow = json.loads(done.stdout)
    if slow:
        raise BadResponse("import alexnet_clients", got=", ".join(slow), expected="none of these libraries")
    return float(took_ms)


def _rounds(
    parts: Mapping[str, Callable[[], float]], rounds: int, progress: Progress
) -> dict[str, list[float]]:
    """Measure every part once a round, every other round backwards. One more round first warms up."""
    stage = " and ".join(parts)
    values: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        progress(stage, number, rounds + 1)
        for name in list(parts)[:: 1 if number % 2 == 0 else -1]:
            value = parts[name]()
            if number:
                values[name].append(value)
    progress(stage, rounds + 1, rounds + 1)
    return values


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _row(name: str, of: str, values: Sequence[float], unit: str, **target: Any) -> FigureRow:
    return FigureRow(name=name, of=of, figure=figure_from_repeats(values, unit), **target)
