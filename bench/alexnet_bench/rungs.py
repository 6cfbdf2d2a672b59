"""From the engine to the encoded picture: what each step adds to one request, and the bytes that it sends.

One request at a time, every way of asking in turn, so that a shared machine's noise meets all alike. What a
client sees is from its own clock: the median over rounds of each round's median. What happens inside the
server is from its statistics while it was asked over gRPC, as medians of the rounds' means, so the steps need
not add up to the last digit.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from alexnet_clients import Client, ModelConfig, ModelStatistics
from alexnet_clients.shared_memory import SharedPictures
from alexnet_export.artifacts import runner_from_artifact
from alexnet_export.engines.cuda import CudaDevice
from alexnet_export.runners import Runner
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import BadRequest, EngineError, ModelNotFound, UsageError
from alexnet_model.gpus import gpus_here
from alexnet_model.manifest import Manifest
from alexnet_model.progress import Progress, silent

from .figures.intervals import figure_from_repeats
from .reports.schema import Engine, LeftOut, Report, Rung
from .runs import Log, report_of_run

ENCODED_MODEL = "alexnet"
PICTURE_SIZE = (500, 375)  # pixels; ImageNet's pictures are of about this size
_CLIENT, _SERVER, _HERE = "client", "server", "in process"
_WARM_UP = 3
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class RungOptions:
    """`rounds` of `requests` each, of every way of asking."""

    batches: tuple[int, ...] = (1, 8)
    rounds: int = 5
    requests: int = 20

    def __post_init__(self) -> None:
        if not self.batches or min(*self.batches, self.rounds, self.requests) < 1:
            raise UsageError("rungs", got=str(self), expected="batches, rounds and requests of 1 or more")


@dataclass
class Way:
    """One way of asking for a batch, and how long a request took: the median of each round."""

    name: str
    source: str
    request_bytes: int
    ask: Callable[[], object]
    medians_ms: list[float] = field(default_factory=list)

    def run(self, requests: int) -> None:
        """One round: ask so often, one after the other."""
        took_ms = []
        for _ in range(requests):
            started = time.perf_counter()
            self.ask()
            took_ms.append(1e3 * (time.perf_counter() - started))
        self.medians_ms.append(median(took_ms))


def bench_rungs(
    manifest: Manifest,
    folder: Path,
    *,
    grpc_url: str,
    http_url: str,
    options: RungOptions | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Measure every accepted precision at each batch, on a server that serves this export.

    It must be on this machine, and have nothing else to do. Shared memory is a rung where the server was
    started for it, decoding on the server where it has the model for that; what is left out is said. The
    engine in process is on the device that the server computes on.

    Raises:
        ManifestError: a file is missing or is not the one that was exported.
        ExportError: a file cannot be loaded in process, or not on the server's GPU.
        ClientError: the server cannot be reached, or did not answer.
        UsageError: there is no room for shared memory.
    """
    options = options or RungOptions()
    cases = [
        (artifact, batch)
        for artifact in manifest.accepted
        for batch in options.batches
        if batch <= manifest.max_batch
    ]

    def measure(log: Log) -> None:
        for number, (artifact, batch) in enumerate(cases):
            of = f"{artifact.precision}, batch {batch}"
            progress("rungs", number, len(cases), of)
            with ExitStack() as opened:
                model = f"alexnet_{artifact.precision}"
                client = opened.enter_context(Client(grpc_url))
                device = device_of_server(client.transport.model_config(model, timeout_s=_TIMEOUT_S).result())
                runner = opened.enter_context(runner_from_artifact(artifact, folder, device))
                engine = Engine(
                    runtime=runner.runtime.name,
                    device=runner.runtime.device,
                    computes_in=runner.runtime.computes_in,
                    precision=artifact.precision,
                )
                ways, left_out = _ways_of(opened, runner, model, batch, grpc_url, http_url)
                inside = _measured(ways, client, model, options)
            log.rungs += rungs_from_ways(ways, inside, engine, of=of)
            log.left_out += (found for found in left_out if found not in log.left_out)
        progress("rungs", len(cases), len(cases))

    return report_of_run(measure, title="From the engine to the encoded picture", command=command)


def device_of_server(config: ModelConfig) -> CudaDevice | None:
    """What a served model computes on, for a runner in process; None for the CPU. Of several GPUs the first.

    Raises:
        MissingExtra: PyTorch is not installed.
        EngineError: it computes on a GPU, and there is none here, or none that PyTorch can use.
    """
    if config.device != "GPU":
        return None
    survey = gpus_here()
    if not survey.gpus:
        raise EngineError(
            config.name,
            got=f"no GPU here: {survey.problem}",
            expected="the one that the server computes on",
            next_step="Measure on the server's own machine.",
        )
    return CudaDevice(survey.gpus[0])


def rungs_from_ways(
    ways: Sequence[Way], inside: Sequence[ModelStatistics], engine: Engine, *, of: str
) -> list[Rung]:
    """Up from the engine, through the server, to gRPC; then the other ways, each by what it adds to its base.

    HTTP and shared memory are held against the server's own time, as gRPC is; encoded pictures against gRPC.
    """
    computed_ms, copied_ms, queued_ms = [], [], []  # a round: each with what lies below it
    for counted in inside:
        computed_ms.append(_a_request_ms(counted.compute_infer_ns, counted))
        copies_ns = counted.compute_input_ns + counted.compute_output_ns
        copied_ms.append(computed_ms[-1] + _a_request_ms(copies_ns, counted))
        queued_ms.append(copied_ms[-1] + _a_request_ms(counted.queue_ns, counted))
    found: dict[str, Rung] = {}

    def rung(name: str, rounds_ms: Sequence[float], base: str, source: str, request_bytes: int = 0) -> None:
        total = figure_from_repeats(rounds_ms, "ms")
        found[name] = Rung(
            name=name,
            of=of,
            engine=engine,
            total=total,
            added_ms=total.value - (found[base].total_ms if base else 0.0),
            request_bytes=request_bytes,
            source=source,
        )

    by_name = {way.name: way for way in ways}
    rung("engine", by_name.pop("engine").medians_ms, "", _HERE)
    rung("Triton's compute", computed_ms, "engine", _SERVER)
    rung("+ copies in Triton", copied_ms, "Triton's compute", _SERVER)
    rung("+ queue", queued_ms, "+ copies in Triton", _SERVER)
    for name, way in by_name.items():
        base = "gRPC" if name.startswith("JPEG") else "+ queue"
        rung(name, way.medians_ms, base, way.source, way.request_bytes)
    return list(found.values())


def encoded_pictures(count: int) -> list[bytes]:
    """JPEGs of smooth noise of a photograph's size: about as many bytes, and as much work to decode."""
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        coarse = random.integers(0, 256, (PICTURE_SIZE[1] // 6, PICTURE_SIZE[0] // 6, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(coarse).resize(PICTURE_SIZE, Image.Resampling.BICUBIC).save(
            content, "JPEG", quality=85
        )
        encoded.append(content.getvalue())
    return encoded


def _ways_of(
    opened: ExitStack, runner: Runner, model: str, batch: int, grpc_url: str, http_url: str
) -> tuple[list[Way], list[LeftOut]]:
    """The ways that this server has, and what it has not."""
    contract = Contract()
    pictures = encoded_pictures(batch)
    images: Uint8Array = np.stack([contract.prepared(picture) for picture in pictures])  # (N, 224, 224, 3)
    grpc = opened.enter_context(Client(grpc_url))
    http = opened.enter_context(Client(http_url))
    sizes = [_bytes_of(client, images, model) for client in (grpc, http)]
    ways = [
        Way("engine", _HERE, 0, lambda: runner.infer(images)),
        Way("gRPC", _CLIENT, sizes[0], lambda: grpc.probabilities(images, model=model)),
        Way("HTTP", _CLIENT, sizes[1], lambda: http.probabilities(images, model=model)),
    ]
    left_out: list[LeftOut] = []
    try:
        shared = opened.enter_context(SharedPictures(grpc, capacity=batch))
        ways.append(Way("shared memory", _CLIENT, 0, lambda: shared_probabilities(shared, images, model)))
    except BadRequest as error:  # a server that was not started for it
        left_out.append(LeftOut(what="shared memory", why=error.got))
    ways.append(Way("JPEG, decoded here", _CLIENT, sizes[0], lambda: grpc.classify(pictures, model=model)))
    if _decodes_to(grpc, grpc.model(model).precision):
        size = sum(map(len, pictures))
        ways.append(
            Way("JPEG, decoded there", _CLIENT, size, lambda: grpc.classify(pictures, model=ENCODED_MODEL))
        )
    else:
        left_out.append(
            LeftOut(what=f"JPEG, decoded there, by {model}", why=f"{ENCODED_MODEL} is not made of it")
        )
    return ways, left_out


def _measured(ways: Sequence[Way], client: Client, model: str, options: RungOptions) -> list[ModelStatistics]:
    """Run every way in turn; gives what the server counted in each round of the gRPC way."""
    for way in ways:
        way.run(_WARM_UP)
        way.medians_ms.clear()
    inside: list[ModelStatistics] = []
    for number in range(options.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            before = client.statistics(model)
            way.run(options.requests)
            if way.name == "gRPC":
                inside.append(_since(before, client.statistics(model)))
    return inside


def shared_probabilities(shared: SharedPictures, images: Uint8Array, model: str) -> Any:
    """Write the pictures where the server sees them, as a client would have to, and ask."""
    shared.images[:] = images
    return shared.probabilities(len(images), model=model)


def _decodes_to(client: Client, precision: str) -> bool:
    try:
        return client.model(ENCODED_MODEL).precision == precision
    except ModelNotFound:
        return False


def _bytes_of(client: Client, images: Uint8Array, model: str) -> int:
    (prediction, *_) = client.classify(images, model=model, top=1)
    return (prediction.request_bytes or 0) * len(images)


def _since(before: ModelStatistics, after: ModelStatistics) -> ModelStatistics:
    names = ("requests", "queue_ns", "compute_input_ns", "compute_infer_ns", "compute_output_ns")
    return ModelStatistics(**{name: getattr(after, name) - getattr(before, name) for name in names})


def _a_request_ms(total_ns: int, counted: ModelStatistics) -> float:
    """One request at a time: each is an execution of its own."""
    return total_ns / max(counted.requests, 1) / 1e6
