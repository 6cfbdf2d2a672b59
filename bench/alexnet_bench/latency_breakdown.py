"""From the engine to the encoded image: what each step adds to one request, and the bytes that it sends.

One request at a time, every way of asking in turn, so that a shared machine's noise meets all alike. What a
client sees is from its own clock: the median over rounds of each round's median. What happens inside the
server is from its statistics while it was asked over gRPC, as medians of the rounds' means, so the steps need
not add up to the last digit. Before a way is timed, its answer is held to that of the engine in process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from alexnet_clients import Backoff, Client, Images, ModelStatistics, Prediction
from alexnet_clients.shared_memory import SharedImages
from alexnet_export.runner_factory import runner_from_artifact
from alexnet_export.runners import FloatArray, Runner
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import (
    BadRequest,
    ClientError,
    ImageError,
    ModelNotFound,
    UsageError,
)
from alexnet_model.manifest import Artifact, Manifest
from alexnet_model.progress import Progress, silent

from .figures.intervals import figure_from_repeats
from .figures.verdicts import Reason, gone_reason
from .loads.results import SERVER_GONE, counted_in
from .loads.traffic import SAME_PROBABILITY
from .reference_predictions import device_of_server
from .runs import Log, report_of_run
from .schema import EngineLabel, LatencyStep, LeftOut, Report
from .synthetic_images import synthetic_jpegs

ENCODED_MODEL = "alexnet"
IMAGE_SIZE = (500, 375)  # pixels; ImageNet's images are of about this size
_CLIENT, _SERVER, _HERE = "client", "server", "in process"
_WARM_UP = 3
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class BreakdownOptions:
    """`rounds` of `requests` each, of every way of asking."""

    batches: tuple[int, ...] = (1, 8)
    rounds: int = 5
    requests: int = 20

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            got = ",".join(map(str, self.batches)) or "none"
            raise UsageError("batches", got=got, expected="at least one, each of 1 or more")
        for name, count in (("rounds", self.rounds), ("requests", self.requests)):
            if count < 1:
                raise UsageError(name, got=str(count), expected="at least 1")

    def check_fits(self, manifest: Manifest) -> None:
        """Whether the export has all of the batches.

        Raises:
            UsageError: one is too large for it.
        """
        if max(self.batches) > manifest.max_batch:
            raise UsageError(
                "batches",
                got=str(max(self.batches)),
                expected=f"at most {manifest.max_batch}, the largest batch of this export",
            )


Answer = FloatArray | list[Prediction]  # probabilities (N, classes), or the best classes of each image


@dataclass
class Way:
    """One way of asking for a batch, and how long a request took: the median of each round."""

    name: str
    source: str
    request_bytes: int
    ask: Callable[[], Answer]
    medians_ms: list[float] = field(default_factory=list)

    def run(self, requests: int) -> None:
        """One round: ask so often, one after the other."""
        took_ms = []
        for _ in range(requests):
            started = time.perf_counter()
            self.ask()
            took_ms.append(1e3 * (time.perf_counter() - started))
        self.medians_ms.append(median(took_ms))


def bench_latency_breakdown(
    manifest: Manifest,
    folder: Path,
    *,
    grpc_url: str,
    http_url: str,
    options: BreakdownOptions | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Measure every accepted precision at each batch, on a server that serves this export.

    It must be on this machine, and have nothing else to do. Shared memory is a rung where the server was
    started for it, decoding on the server where it has the model for that; what is left out is said. The
    engine in process is on the device that the server computes on. What the server does not answer is left
    out as a whole, and so is all that comes after it has gone; what was measured by then stays.

    Raises:
        ManifestError: a file is missing or is not the one that was exported.
        ExportError: a file cannot be loaded in process, or not on the server's GPU.
        UsageError: a batch is larger than the export's largest, or there is no room for shared memory.
    """
    options = options or BreakdownOptions()
    options.check_fits(manifest)
    batches = dict.fromkeys(options.batches)  # each once
    cases = [(artifact, batch) for artifact in manifest.accepted for batch in batches]

    def measure_case(artifact: Artifact, batch: int, of: str, log: Log) -> None:
        with ExitStack() as opened:
            model = f"alexnet_{artifact.precision}"
            client = opened.enter_context(Client(grpc_url))
            config = client.transport.model_config(model, timeout_s=_TIMEOUT_S).result()
            if batch > config.max_batch:  # the client would send several requests
                why = f"the server takes at most {config.max_batch} images a request"
                log.left_out.append(LeftOut(what=of, why=why))
                return
            device = device_of_server(config)
            runner = opened.enter_context(runner_from_artifact(artifact, folder, device))
            engine = EngineLabel(
                runtime=runner.runtime.name,
                device=runner.runtime.device,
                computes_in=runner.runtime.computes_in,
                precision=artifact.precision,
            )
            ways, left_out = _ways_of(opened, runner, model, batch, grpc_url, http_url)
            wrong = _warmed_up(ways, of)
            inside = _measured(ways, client, model, options)
        log.breakdown += steps_from_ways(ways, inside, engine, of=of)
        log.left_out += (found for found in left_out if found not in log.left_out)
        log.reasons += wrong

    def measure(log: Log) -> None:
        gone = ""
        for number, (artifact, batch) in enumerate(cases):
            of = f"{artifact.precision}, batch {batch}"
            if gone:
                log.left_out.append(LeftOut(what=of, why=gone))
                continue
            progress("breakdown", number, len(cases), of)
            try:
                measure_case(artifact, batch, of, log)
            except (ClientError, ImageError) as error:  # an image's own: the server could not decode it
                log.left_out.append(LeftOut(what=of, why=str(error)))
                if isinstance(error, SERVER_GONE):
                    gone = str(error).rstrip(".")
                    log.reasons.append(gone_reason(gone))
        if not gone:
            progress("breakdown", len(cases), len(cases))

    return report_of_run(measure, title="From the engine to the encoded image", command=command)


def steps_from_ways(
    ways: Sequence[Way], inside: Sequence[ModelStatistics], engine: EngineLabel, *, of: str
) -> list[LatencyStep]:
    """Up from the engine, through the server, to gRPC; then the other ways, each by what it adds to its base.

    HTTP and shared memory are held against the server's own time, as gRPC is; encoded images against gRPC.
    """
    computed_ms, copied_ms, queued_ms = [], [], []  # a round: each with what lies below it
    for counted in inside:
        computed_ms.append(_a_request_ms(counted.compute_infer_ns, counted))
        copies_ns = counted.compute_input_ns + counted.compute_output_ns
        copied_ms.append(computed_ms[-1] + _a_request_ms(copies_ns, counted))
        queued_ms.append(copied_ms[-1] + _a_request_ms(counted.queue_ns, counted))
    found: dict[str, LatencyStep] = {}

    def step(name: str, rounds_ms: Sequence[float], base: str, source: str, request_bytes: int = 0) -> None:
        total = figure_from_repeats(rounds_ms, "ms")
        found[name] = LatencyStep(
            name=name,
            of=of,
            engine=engine,
            total=total,
            added_ms=total.value - (found[base].total_ms if base else 0.0),
            request_bytes=request_bytes,
            source=source,
        )

    by_name = {way.name: way for way in ways}
    step("engine", by_name.pop("engine").medians_ms, "", _HERE)
    step("Triton's compute", computed_ms, "engine", _SERVER)
    step("+ copies in Triton", copied_ms, "Triton's compute", _SERVER)
    step("+ queue", queued_ms, "+ copies in Triton", _SERVER)
    for name, way in by_name.items():
        base = "gRPC" if name.startswith("JPEG") else "+ queue"
        step(name, way.medians_ms, base, way.source, way.request_bytes)
    return list(found.values())


def _ways_of(
    opened: ExitStack, runner: Runner, model: str, batch: int, grpc_url: str, http_url: str
) -> tuple[list[Way], list[LeftOut]]:
    """The ways that this server has, and what it has not."""
    contract = Contract()
    encoded = synthetic_jpegs(batch, size=IMAGE_SIZE, noise_cell_px=6, quality=85)
    images: Uint8Array = np.stack([contract.prepared(content) for content in encoded])  # (N, 224, 224, 3)
    once = Backoff(most_attempts=1)  # the wait for a second one would be timed as latency
    grpc, http = (opened.enter_context(Client(url, backoff=once)) for url in (grpc_url, http_url))
    sizes = [_bytes_of(client, images, model) for client in (grpc, http)]
    ways = [
        Way("engine", _HERE, 0, lambda: runner.infer(images).probabilities),
        Way("gRPC", _CLIENT, sizes[0], lambda: grpc.probabilities(images, model=model)),
        Way("HTTP", _CLIENT, sizes[1], lambda: http.probabilities(images, model=model)),
    ]
    left_out: list[LeftOut] = []
    try:
        shared = opened.enter_context(SharedImages(grpc, capacity=batch))
        ways.append(Way("shared memory", _CLIENT, 0, lambda: shared_probabilities(shared, images, model)))
    except BadRequest as error:  # a server that was not started for it
        left_out.append(LeftOut(what="shared memory", why=error.got))
    ways.append(Way("JPEG, decoded here", _CLIENT, sizes[0], lambda: _classified(grpc, encoded, model)))
    if _decodes_to(grpc, grpc.model(model).precision):
        size = sum(map(len, encoded))
        ways.append(
            Way("JPEG, decoded there", _CLIENT, size, lambda: _classified(grpc, encoded, ENCODED_MODEL))
        )
    else:
        left_out.append(
            LeftOut(what=f"JPEG, decoded there, by {model}", why=f"{ENCODED_MODEL} is not made of it")
        )
    return ways, left_out


def _classified(client: Client, images: Images, model: str) -> list[Prediction]:
    """As a caller asks, but an image's error is raised: a request that failed is not one that was quick."""
    predictions = client.classify(images, model=model)
    for prediction in predictions:
        if prediction.error is not None:
            raise prediction.error
    return predictions


def _warmed_up(ways: Sequence[Way], of: str) -> list[Reason]:
    """Ask in every way a few times; gives which of them do not answer what the engine, the first, does."""
    wrong = []
    expected = ways[0].ask()
    assert not isinstance(expected, list)
    for way in ways:
        answers = [way.ask() for _ in range(_WARM_UP)]
        faults = list(filter(None, (_fault(answer, expected) for answer in answers)))
        if faults:
            wrong.append(
                Reason(
                    rule="wrong answers",
                    found=f"{of}, {way.name}: {faults[0]}",
                    advice="Lint the repository and see which export is served.",
                )
            )
    return wrong


def _fault(answer: Answer, expected: FloatArray) -> str:
    """What is wrong with an answer, empty where nothing is. Of classified images the best are checked."""
    if isinstance(answer, list):
        best = [
            (row, found)  # row (classes,)
            for prediction, row in zip(answer, expected, strict=True)
            for found in prediction.classes
        ]
        if any(found.index >= len(row) for row, found in best):
            return f"classes beyond the engine's {expected.shape[1]}"
        apart = max(abs(found.probability - float(row[found.index])) for row, found in best)
    elif answer.shape != expected.shape:
        return f"probabilities {answer.shape} instead of {expected.shape}"
    else:
        apart = float(np.abs(answer - expected).max())
    return "" if apart <= SAME_PROBABILITY else f"probabilities up to {apart:.2g} away from the engine's"


def _measured(
    ways: Sequence[Way], client: Client, model: str, options: BreakdownOptions
) -> list[ModelStatistics]:
    """Run every way in turn; gives what the server counted in each round of the gRPC way."""
    inside: list[ModelStatistics] = []
    for number in range(options.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            before = client.statistics(model)
            way.run(options.requests)
            if way.name == "gRPC":
                inside.append(counted_in([(before, client.statistics(model))]))
    return inside


def shared_probabilities(shared: SharedImages, images: Uint8Array, model: str) -> FloatArray:
    """Write the images where the server sees them, as a client would have to, and ask."""
    shared.images[:] = images
    return shared.probabilities(len(images), model=model)


def _decodes_to(client: Client, precision: str) -> bool:
    try:
        return client.model(ENCODED_MODEL).precision == precision
    except ModelNotFound:
        return False


def _bytes_of(client: Client, images: Uint8Array, model: str) -> int:
    (prediction, *_) = _classified(client, images, model)
    return (prediction.request_bytes or 0) * len(images)


def _a_request_ms(total_ns: int, counted: ModelStatistics) -> float:
    """One request at a time: each is an execution of its own."""
    return total_ns / max(counted.requests, 1) / 1e6
