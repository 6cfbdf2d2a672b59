"""What the clients' figures are made of: each function does one thing for a while and says how fast it went.

Rates are images a second. The server must be on this machine and have nothing else to do.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alexnet_clients import (
    IMAGES_PER_TASK,
    AsyncClient,
    Client,
    FakeTransport,
    ServedModel,
    ServerUrl,
    SharedImages,
    transport_from_url,
)
from alexnet_model.contract import Contract
from alexnet_model.environment import machine_name
from alexnet_model.errors import BadResponse
from alexnet_model.records import Precision

from .lanes import ServedLane, pool_of_images
from .records import Case

FILLING = 0.2  # of the time, before it: what is answered while a pipeline fills does not count
SLOW_TO_IMPORT = ("torch", "onnx", "onnxruntime", "tritonclient", "grpc", "aiohttp")
IMPORT = """
import json, sys, time
started = time.perf_counter()
import alexnet_clients
print(json.dumps([1e3 * (time.perf_counter() - started), sorted(set(sys.modules) & set(sys.argv[1:]))]))
"""


def decoded_per_s(paths: Sequence[Path]) -> float:
    """Preparing alone, in as many threads as there are cores, by the handful as the client does."""
    contract = Contract()
    handfuls = [paths[start : start + IMAGES_PER_TASK] for start in range(0, len(paths), IMAGES_PER_TASK)]

    def prepare(handful: Sequence[Path]) -> None:
        for path in handful:
            contract.prepared(path)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.perf_counter()
        for _ in pool.map(prepare, handfuls):
            pass
        return len(paths) / (time.perf_counter() - started)


def served_per_s(
    url: str, served: ServedModel, precision: Precision, *, batch: int, in_flight: int, seconds: float
) -> float:
    """Serving alone: messages built beforehand, sent again and again."""
    case = Case(
        precision=precision,
        through="server",
        runtime=served.backend,
        device=machine_name(),
        computes_in=served.computes_in,
        batch=batch,
        in_flight=in_flight,
    )
    transport = transport_from_url(ServerUrl.parse(url))
    try:
        images = pool_of_images(Contract(), 4 * batch)
        lane = ServedLane(case, transport, served.name, images, contract=Contract())
        return lane.run(seconds).throughput_per_s
    finally:
        transport.close()


def classified_per_s(url: str, model: str, folder: Path, images: int) -> float:
    """A folder through the blocking client.

    Raises:
        BadResponse: not every image was answered, so the rate would be of something else.
    """
    with Client(url) as client:
        client.model(model)
        started = time.perf_counter()
        answered = sum(prediction.error is None for prediction in client.classify_folder(folder, model=model))
        seconds = time.perf_counter() - started
    if answered != images:
        raise BadResponse(f"{url} {model}", got=f"{answered} answers", expected=f"{images}, one an image")
    return images / seconds


def plain_grpc_per_s(url: str, model: str, *, in_flight: int, seconds: float) -> float:
    """gRPC's own generated client in a closed loop, without a line of this project's transport.

    Raises:
        BadResponse: a request failed, so the rate would be of something else.
    """
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    messages = []
    for image in pool_of_images(Contract(), in_flight):
        message = service_pb2.ModelInferRequest(model_name=model)
        message.inputs.add(name="image", datatype="UINT8", shape=[1, *image.shape])
        message.outputs.add(name="probabilities")
        message.raw_input_contents.append(image.tobytes())
        messages.append(message)
    slots = threading.Semaphore(in_flight)
    ends_s: list[float] = []
    failures: list[str] = []

    def answered(call: Any) -> None:
        if call.code() is grpc.StatusCode.OK:
            ends_s.append(time.perf_counter())
        else:
            failures.append(f"{call.code().name}: {call.details()}")
        slots.release()

    until = time.perf_counter() + (1 + FILLING) * seconds
    with grpc.insecure_channel(ServerUrl.parse(url).address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for message in itertools.cycle(messages):
            slots.acquire()
            if time.perf_counter() > until or failures:
                slots.release()
                break
            stub.ModelInfer.future(message, timeout=60).add_done_callback(answered)
        for _ in range(in_flight):  # until all have come
            slots.acquire()
    if failures:
        raise BadResponse(f"{url} {model}", got=failures[0], expected="an answer to every request")
    return sum(until - seconds < end <= until for end in ends_s) / seconds


async def asked_per_s(url: str, model: str, *, in_flight: int, seconds: float) -> float:
    """A closed loop of tasks, each of which asks for one image again and again."""
    images = pool_of_images(Contract(), in_flight)
    async with AsyncClient(url, max_in_flight=in_flight) as client:
        await client.model(model)
        ends_s: list[float] = []
        until = time.perf_counter() + (1 + FILLING) * seconds

        async def ask(index: int) -> None:
            while time.perf_counter() < until:
                await client.probabilities(images[index : index + 1], model=model)
                ends_s.append(time.perf_counter())

        await asyncio.gather(*(ask(index) for index in range(in_flight)))
    return sum(until - seconds < end <= until for end in ends_s) / seconds


def shared_memory_ratio(url: str, model: str, *, batch: int, requests: int) -> float:
    """Latency through shared memory over latency through gRPC: one request at a time, in turn; of medians."""
    images = pool_of_images(Contract(), batch)
    through_memory, through_grpc = [], []
    with Client(url) as client, SharedImages(client, capacity=batch) as shared:
        for _ in range(requests):
            started = time.perf_counter()
            shared.images[:] = images
            shared.probabilities(batch, model=model)
            between = time.perf_counter()
            client.probabilities(images, model=model)
            through_memory.append(between - started)
            through_grpc.append(time.perf_counter() - between)
    return median(through_memory) / median(through_grpc)


def call_us(calls: int) -> float:
    """The median of `Client.probabilities` on a server that answers at once, microseconds."""
    image = pool_of_images(Contract(), 1)
    answer = np.full((1, 10), 0.1, np.float32)
    took_us = []
    with Client("grpc://fake", transport=FakeTransport(predict=lambda _: answer)) as client:
        for _ in range(calls):
            started = time.perf_counter()
            client.probabilities(image)
            took_us.append(1e6 * (time.perf_counter() - started))
    return median(took_us)


def import_ms() -> float:
    """`import alexnet_clients` in a new process, milliseconds.

    Raises:
        BadResponse: it brought a protocol's library, or worse.
    """
    command = [sys.executable, "-c", IMPORT, *SLOW_TO_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took_ms, slow = json.loads(done.stdout)
    if slow:
        raise BadResponse("import alexnet_clients", got=", ".join(slow), expected="no protocol's library")
    return float(took_ms)
