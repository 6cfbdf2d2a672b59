"""What the clients cost: a folder against its parts, many requests against raw ones, a call, an import.

Ratios are taken within a round, whose parts run within seconds of each other, and every other round runs
backwards. The server must be on this machine and have nothing else to do.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_clients import AsyncClient, Client, FakeTransport, ServerUrl, transport_from_url
from alexnet_clients.preparing import HANDFUL
from alexnet_clients.shared_memory import SharedPictures
from alexnet_model.contract import Contract
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.errors import BadResponse
from alexnet_model.extras import needs
from alexnet_model.manifest import Precision, Record
from alexnet_model.progress import Progress, silent

from .lanes import ServedLane, pool_of_images
from .records import Case

ROUNDS = 5
SLICE_S = 2.0
ASYNC_IN_FLIGHT = 64
CALLS = 3000
IMPORTS = 15
SLOW_TO_IMPORT = ("torch", "onnx", "onnxruntime", "tritonclient", "grpc", "aiohttp")
IMPORT = """
import json, sys, time
started = time.perf_counter()
import alexnet_clients
print(json.dumps([1e3 * (time.perf_counter() - started), sorted(set(sys.modules) & set(sys.argv[1:]))]))
"""


class ClientFigure(Record):
    """The median of the rounds, with the lowest and the highest, and the bound that it is held to."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    bound: float | None  # None: for information
    must_be: Literal["at least", "at most"]
    rounds: int

    @property
    def holds(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.must_be == "at least" else self.value <= self.bound


class ClientFigures(Record):
    """One run. `rates_per_s` are medians of pictures a second, what the ratios were made from."""

    machine: str
    versions: dict[str, str]
    model: str
    computes_in: str
    pictures: str
    figures: tuple[ClientFigure, ...]
    rates_per_s: dict[str, float]
    seconds: float


def client_figures(
    url: str, precision: Precision, folder: Path, *, progress: Progress = silent
) -> ClientFigures:
    """Measure against the server at `url`, with the JPEGs in `folder`; about two minutes.

    Raises:
        ClientError: the server cannot be reached, or did not answer.
        BadResponse: a picture of the folder was not answered, so its rate would be of something else.
    """
    started = time.perf_counter()
    paths = sorted(folder.glob("*.jpg"))
    model = f"alexnet_{precision}"
    with Client(url) as client:
        served = client.model(model)
    shared = _Shared(url, model, precision, served.max_batch, served.computes_in)
    folder_rates = _in_turn(
        {
            "decode alone": lambda: _decoded_per_s(paths),
            "serve alone": lambda: shared.raw_per_s(served.max_batch, 2),
            "folder": lambda: _classified_per_s(url, model, paths, folder),
        },
        progress,
        "folder against its parts",
    )
    async_rates = _in_turn(
        {
            "raw requests": lambda: shared.plain_grpc_per_s(ASYNC_IN_FLIGHT),
            "AsyncClient": lambda: asyncio.run(_asked_per_s(url, model, SLICE_S)),
        },
        progress,
        "AsyncClient against raw requests",
    )
    parts = zip(*(folder_rates[name] for name in ("folder", "decode alone", "serve alone")), strict=True)
    rounds = [
        (whole / min(decode, serve), whole * (1 / decode + 1 / serve)) for whole, decode, serve in parts
    ]
    shared_ms = _shared_memory_ms(url, model, served.max_batch, progress)
    of_raw = [
        ours / raw for ours, raw in zip(async_rates["AsyncClient"], async_rates["raw requests"], strict=True)
    ]
    progress("calls and imports", 0, 2)
    call_us = _calls_us()
    progress("calls and imports", 1, 2)
    import_ms = _imports_ms()
    progress("calls and imports", 2, 2)
    figures = (
        _figure(
            "folder / the slower of decode alone and serve alone", [a for a, _ in rounds], "", 0.9, "at least"
        ),
        _figure(
            "folder / decode and serve one after the other",
            [b for _, b in rounds],
            "",
            0.9,
            "at least",
        ),
        _figure(f"AsyncClient / raw requests, {ASYNC_IN_FLIGHT} in flight", of_raw, "", 0.95, "at least"),
        *(
            _figure(f"shared memory / gRPC, latency of a batch of {batch}", ratios, "", None, "at most")
            for batch, ratios in shared_ms.items()
        ),
        _figure("a call, batch 1, without network and server", call_us, "us", 150, "at most"),
        _figure("import alexnet_clients", import_ms, "ms", 150, "at most"),
    )
    return ClientFigures(
        machine=machine_name(),
        versions=versions_of("aiohttp", "grpcio", "numpy", "openvino", "pillow", "tritonclient"),
        model=model,
        computes_in=served.computes_in,
        pictures=f"{len(paths)} JPEGs, {sum(path.stat().st_size for path in paths) / 1e6:.1f} MB",
        figures=figures,
        rates_per_s={
            name: round(median(rates), 1) for name, rates in {**folder_rates, **async_rates}.items()
        },
        seconds=time.perf_counter() - started,
    )


def write_jpegs(folder: Path, count: int) -> None:
    """All of scikit-learn's digits, enlarged, then crops of its two sample photographs: `count` JPEGs.

    Raises:
        MissingExtra: scikit-learn is not installed.
        OSError: the folder cannot be written.
    """
    with needs("train"):
        from sklearn.datasets import load_digits, load_sample_images
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits().images  # (1797, 8, 8), 0..16
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    random = np.random.default_rng(0)
    for index in range(count):
        if index < len(digits):
            grey = np.rint(digits[index] * (255 / 16)).astype(np.uint8)
            picture = Image.fromarray(grey).resize((64, 64), Image.Resampling.BICUBIC)
        else:
            photograph = photographs[index % len(photographs)]
            width, height = random.integers(256, 428, 2)
            left, top = random.integers(0, (photograph.width - width, photograph.height - height + 1))
            picture = photograph.crop((left, top, left + width, top + height))
        picture.save(folder / f"{index:05d}.jpg", quality=90)


class _Shared:
    """Raw requests: messages built beforehand, sent again and again, their answers not looked at."""

    def __init__(self, url: str, model: str, precision: Precision, max_batch: int, computes_in: str) -> None:
        self._url = url
        self._model = model
        self._precision: Precision = precision
        self._computes_in = computes_in
        self._images = pool_of_images(Contract(), 4 * max_batch)

    def raw_per_s(self, batch: int, in_flight: int) -> float:
        case = Case(
            precision=self._precision,
            through="server",
            runtime="openvino",
            device="CPU",
            computes_in=self._computes_in,
            batch=batch,
            in_flight=in_flight,
        )
        transport = transport_from_url(ServerUrl.parse(self._url))
        try:
            lane = ServedLane(case, transport, self._model, self._images, contract=Contract())
            return lane.run(SLICE_S).throughput_per_s
        finally:
            transport.close()

    def plain_grpc_per_s(self, in_flight: int) -> float:
        """gRPC's own generated client in a closed loop, without a line of this project's transport."""
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        messages = []
        for image in self._images[:in_flight]:
            message = service_pb2.ModelInferRequest(model_name=self._model)
            message.inputs.add(name="image", datatype="UINT8", shape=[1, *image.shape])
            message.outputs.add(name="probabilities")
            message.raw_input_contents.append(image.tobytes())
            messages.append(message)
        slots = threading.Semaphore(in_flight)
        ends_s: list[float] = []

        def answered(call: Any) -> None:
            slots.release()
            if call.code() is grpc.StatusCode.OK:
                ends_s.append(time.perf_counter())

        until = time.perf_counter() + 1.2 * SLICE_S
        with grpc.insecure_channel(ServerUrl.parse(self._url).address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for message in itertools.cycle(messages):
                slots.acquire()
                if time.perf_counter() > until:
                    slots.release()
                    break
                stub.ModelInfer.future(message, timeout=60).add_done_callback(answered)
            for _ in range(in_flight):  # until all have come
                slots.acquire()
        return sum(until - SLICE_S < end <= until for end in ends_s) / SLICE_S


def _in_turn(
    parts: Mapping[str, Callable[[], float]], progress: Progress, stage: str
) -> dict[str, list[float]]:
    """Every part once a round, forwards and backwards in turn. The first round only warms up."""
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(ROUNDS + 1):
        progress(stage, number, ROUNDS + 1)
        names = list(parts)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            rate = parts[name]()
            if number:
                rates[name].append(rate)
    progress(stage, ROUNDS + 1, ROUNDS + 1)
    return rates


def _decoded_per_s(paths: Sequence[Path]) -> float:
    contract = Contract()
    handfuls = [paths[start : start + HANDFUL] for start in range(0, len(paths), HANDFUL)]

    def prepare(handful: Sequence[Path]) -> None:
        for path in handful:
            contract.prepared(path)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.perf_counter()
        for _ in pool.map(prepare, handfuls):
            pass
        return len(paths) / (time.perf_counter() - started)


def _classified_per_s(url: str, model: str, paths: Sequence[Path], folder: Path) -> float:
    with Client(url) as client:
        client.model(model)
        started = time.perf_counter()
        answered = sum(prediction.error is None for prediction in client.classify_folder(folder, model=model))
        seconds = time.perf_counter() - started
    if answered != len(paths):
        raise BadResponse(
            f"{url} {model}", got=f"{answered} answers", expected=f"{len(paths)}, one a picture"
        )
    return len(paths) / seconds


async def _asked_per_s(url: str, model: str, seconds: float) -> float:
    """A closed loop of tasks, each of which asks for one picture again and again."""
    images = pool_of_images(Contract(), ASYNC_IN_FLIGHT)
    async with AsyncClient(url, most_in_flight=ASYNC_IN_FLIGHT) as client:
        await client.model(model)
        ends_s: list[float] = []
        # As in the raw loop, what is answered while the pipeline fills does not count.
        until = time.perf_counter() + 1.2 * seconds

        async def ask(index: int) -> None:
            while time.perf_counter() < until:
                await client.probabilities(images[index : index + 1], model=model)
                ends_s.append(time.perf_counter())

        await asyncio.gather(*(ask(index) for index in range(ASYNC_IN_FLIGHT)))
    start = until - seconds
    counted = [end for end in ends_s if start < end <= until]
    return len(counted) / seconds


def _shared_memory_ms(url: str, model: str, max_batch: int, progress: Progress) -> dict[int, list[float]]:
    """Latency through shared memory over latency through gRPC, by batch: one request at a time, in turn."""
    images = pool_of_images(Contract(), max_batch)
    ratios: dict[int, list[float]] = {}
    batches = sorted({1, 8, min(32, max_batch)})
    with Client(url) as client, SharedPictures(client, capacity=max_batch) as shared:
        for number, batch in enumerate(batches):
            progress("shared memory against gRPC", number, len(batches))
            ratios[batch] = []
            for _ in range(ROUNDS):
                through_memory, through_grpc = [], []
                for _ in range(max(4, 120 // batch)):
                    started = time.perf_counter()
                    shared.images[:batch] = images[:batch]
                    shared.probabilities(batch, model=model)
                    between = time.perf_counter()
                    client.probabilities(images[:batch], model=model)
                    through_memory.append(between - started)
                    through_grpc.append(time.perf_counter() - between)
                ratios[batch].append(median(through_memory) / median(through_grpc))
    progress("shared memory against gRPC", len(batches), len(batches))
    return ratios


def _calls_us() -> list[float]:
    """Each round's median of `Client.probabilities` on a server that answers at once."""
    image: npt.NDArray[np.uint8] = pool_of_images(Contract(), 1)
    answer = np.full((1, 10), 0.1, np.float32)
    rounds = []
    with Client("grpc://fake", transport=FakeTransport(answer=lambda _: answer)) as client:
        for _ in range(ROUNDS):
            took_us = []
            for _ in range(CALLS):
                started = time.perf_counter()
                client.probabilities(image)
                took_us.append(1e6 * (time.perf_counter() - started))
            rounds.append(median(took_us))
    return rounds


def _imports_ms() -> list[float]:
    took_ms = []
    for _ in range(IMPORTS):
        command = [sys.executable, "-c", IMPORT, *SLOW_TO_IMPORT]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        ms, slow = json.loads(done.stdout)
        if slow:
            raise BadResponse("import alexnet_clients", got=", ".join(slow), expected="no protocol's library")
        took_ms.append(ms)
    return took_ms


def _figure(
    name: str,
    values: Sequence[float],
    unit: str,
    bound: float | None,
    must_be: Literal["at least", "at most"],
) -> ClientFigure:
    return ClientFigure(
        name=name,
        value=median(values),
        low=min(values),
        high=max(values),
        unit=unit,
        bound=bound,
        must_be=must_be,
        rounds=len(values),
    )
