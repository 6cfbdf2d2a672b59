"""Break the latency of one request down, from the engine in process to an encoded image over the network.

One request at a time is sent on each route (in process, gRPC, HTTP, shared memory, JPEG), and the routes
alternate, so that a shared machine's noise affects all alike. Latencies that a client sees are from its own
clock: the median over rounds of each round's median. What happens inside the server is from its statistics of
the gRPC requests, as medians of the rounds' means, so the steps need not add up exactly. Before a route is
timed, its outputs are compared with those of the engine in process, which is the engine that the server runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alexnet_clients import Backoff, Client, Images, ModelStatistics, Prediction, SharedImages
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import BadRequest, ClientError, ImageError, ModelNotFound, UsageError
from alexnet_model.manifest import Artifact, Manifest
from alexnet_model.model_names import network_name
from alexnet_model.progress import Progress, silent

from .engines.selection import served_engine
from .engines.timing import runner_from_spec
from .figures.intervals import figure_from_repeats
from .figures.verdicts import Reason, gone_reason
from .loads.results import SERVER_GONE, counted_in
from .reference_predictions import most_difference
from .runs import Log, report_of_run
from .schema import EngineLabel, LatencyStep, LeftOut, Report
from .synthetic_images import synthetic_jpegs

if TYPE_CHECKING:
    from alexnet_export import Runner

IMAGE_SIZE = (500, 375)  # pixels; ImageNet's images are of about this size
_CLIENT, _SERVER, _IN_PROCESS = "client", "server", "in process"
_WARM_UP = 3
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class BreakdownOptions:
    """Options of the latency breakdown.

    Attributes:
        batches: Images a request.
        rounds: How often each route is measured; each round gives one median.
        requests: Requests of each route in a round.

    Raises:
        UsageError: a value is out of range.
    """

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
        """Check that the export has all of the batches.

        Raises:
            UsageError: one is larger than the export's largest.
        """
        if max(self.batches) > manifest.max_batch:
            raise UsageError(
                "batches",
                got=str(max(self.batches)),
                expected=f"at most {manifest.max_batch}, the largest batch of this export",
            )


Probabilities = npt.NDArray[Any]  # (N, classes)
Output = Probabilities | list[Prediction]  # probabilities, or the best classes of each image


@dataclass
class Route:
    """One way to send a batch, and how long a request took.

    Attributes:
        name: Its name in the report.
        source: Whose clock times it.
        request_bytes: Bytes of a request.
        send: Sends the batch, and returns what came back.
        medians_ms: The median of each round.
    """

    name: str
    source: str
    request_bytes: int
    send: Callable[[], Output]
    medians_ms: list[float] = field(default_factory=list)

    def run(self, requests: int) -> None:
        """Run one round: send so many requests, one after the other."""
        took_ms = []
        for _ in range(requests):
            started = time.perf_counter()
            self.send()
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

    The server must be on this machine, and must have no other work. Shared memory is measured if the server
    supports it, and decoding on the server if it has the model for that; what is left out is in the report.
    The engine in process is the one that the server runs, on the same device. If the server fails at a
    precision and batch, these are left out as a whole; if it has ended, so are all that follow.

    Args:
        manifest: The export's manifest.
        folder: The export's folder.
        grpc_url: The server's address for gRPC.
        http_url: The server's address for HTTP.
        options: What to measure.
        command: The command line, for the report.
        progress: Called as the run proceeds.

    Returns:
        A report with the steps of each precision and batch.

    Raises:
        ManifestError: a file is missing or is not the one that was exported.
        ExportError: the engine cannot be loaded in process, or the server's GPU is not here.
        MissingExtra: the engine's runtime is not installed here.
        UsageError: a batch is larger than the export's largest, or shared memory cannot be allocated.
    """
    options = options or BreakdownOptions()
    options.check_fits(manifest)
    batches = dict.fromkeys(options.batches)  # each once
    cases = [(artifact, batch) for artifact in manifest.accepted for batch in batches]

    def measure_case(artifact: Artifact, batch: int, of: str, log: Log) -> None:
        with ExitStack() as opened:
            model = network_name(manifest.model.name, artifact.precision)
            client = opened.enter_context(Client(grpc_url))
            config = client.transport.model_config(model, timeout_s=_TIMEOUT_S).result()
            if batch > config.max_batch:  # the client would send several requests
                why = f"the server takes at most {config.max_batch} images a request"
                log.left_out.append(LeftOut(what=of, why=why))
                return
            spec = served_engine(config, manifest, folder)
            runner = opened.enter_context(runner_from_spec(spec))
            routes, left_out = _routes(opened, runner, model, manifest.model.name, batch, grpc_url, http_url)
            wrong = _warmed_up(routes, of, most_difference(config))
            inside = _measured(routes, client, model, options)
            engine = spec.label(runner.runtime)
        log.breakdown += steps_from_routes(routes, inside, engine, of=of)
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
            except (ClientError, ImageError) as error:  # ImageError: the server could not decode an image
                log.left_out.append(LeftOut(what=of, why=str(error)))
                if isinstance(error, SERVER_GONE):
                    gone = str(error).rstrip(".")
                    log.reasons.append(gone_reason(gone))
        if not gone:
            progress("breakdown", len(cases), len(cases))

    return report_of_run(measure, title="From the engine to the encoded image", command=command)


def steps_from_routes(
    routes: Sequence[Route], inside: Sequence[ModelStatistics], engine: EngineLabel, *, of: str
) -> list[LatencyStep]:
    """Make the steps of one precision and batch, each with what it adds to the step before it.

    HTTP and shared memory are compared with the server's own time, as gRPC is; encoded images with gRPC.

    Args:
        routes: The measured routes, the engine first.
        inside: The server's statistics of each round of gRPC requests.
        engine: The engine that the server runs.
        of: Label of the precision and batch.
    """
    computed_ms, copied_ms, queued_ms = [], [], []  # by round, each with the steps before it
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

    by_name = {route.name: route for route in routes}
    step("engine", by_name.pop("engine").medians_ms, "", _IN_PROCESS)
    step("Triton's compute", computed_ms, "engine", _SERVER)
    step("+ copies in Triton", copied_ms, "Triton's compute", _SERVER)
    step("+ queue", queued_ms, "+ copies in Triton", _SERVER)
    for name, route in by_name.items():
        base = "gRPC" if name.startswith("JPEG") else "+ queue"
        step(name, route.medians_ms, base, route.source, route.request_bytes)
    return list(found.values())


def _routes(
    opened: ExitStack, runner: Runner, model: str, ensemble: str, batch: int, grpc_url: str, http_url: str
) -> tuple[list[Route], list[LeftOut]]:
    """Open the routes that this server supports, and list those that it does not.

    `ensemble` is the model that takes encoded images.
    """
    once = Backoff(max_attempts=1)  # the wait before a second attempt would be timed as latency
    grpc, http = (opened.enter_context(Client(url, backoff=once)) for url in (grpc_url, http_url))
    contract = grpc.model(model).contract
    encoded = synthetic_jpegs(batch, size=IMAGE_SIZE, noise_cell_px=6, quality=85)
    images: Uint8Array = np.stack([contract.prepared(content) for content in encoded])  # (N, S, S, 3)
    sizes = [_bytes_of(client, images, model) for client in (grpc, http)]
    routes = [
        Route("engine", _IN_PROCESS, 0, lambda: runner.infer(images).probabilities),
        Route("gRPC", _CLIENT, sizes[0], lambda: grpc.probabilities(images, model=model)),
        Route("HTTP", _CLIENT, sizes[1], lambda: http.probabilities(images, model=model)),
    ]
    left_out: list[LeftOut] = []
    try:
        shared = opened.enter_context(SharedImages(grpc, capacity=batch, model=model))
        routes.append(Route("shared memory", _CLIENT, 0, lambda: shared_probabilities(shared, images)))
    except BadRequest as error:  # the server was started without it
        left_out.append(LeftOut(what="shared memory", why=error.got))
    routes.append(Route("JPEG, decoded here", _CLIENT, sizes[0], lambda: _classified(grpc, encoded, model)))
    if _decodes_to(grpc, ensemble, grpc.model(model).precision):
        size = sum(map(len, encoded))
        routes.append(
            Route("JPEG, decoded there", _CLIENT, size, lambda: _classified(grpc, encoded, ensemble))
        )
    else:
        left_out.append(
            LeftOut(what=f"JPEG, decoded there, by {model}", why=f"{ensemble} does not use this precision")
        )
    return routes, left_out


def _classified(client: Client, images: Images, model: str) -> list[Prediction]:
    """Classify, and raise an image's error: a request that failed must not count as a fast one."""
    predictions = client.classify(images, model=model)
    for prediction in predictions:
        if prediction.error is not None:
            raise prediction.error
    return predictions


def _warmed_up(routes: Sequence[Route], of: str, within: float) -> list[Reason]:
    """Send a few requests on each route, and return which of them differ from the engine, the first route."""
    wrong = []
    expected = routes[0].send()
    assert not isinstance(expected, list)
    for route in routes:
        outputs = [route.send() for _ in range(_WARM_UP)]
        faults = list(filter(None, (_fault(output, expected, within) for output in outputs)))
        if faults:
            wrong.append(
                Reason(
                    rule="wrong answers",
                    found=f"{of}, {route.name}: {faults[0]}",
                    advice="Run alexnet lint on the repository, and check which export is served.",
                )
            )
    return wrong


def _fault(output: Output, expected: Probabilities, within: float) -> str:
    """Describe what is wrong with an output; empty if nothing is. Of classes only the best are checked."""
    if isinstance(output, list):
        best = [
            (row, found)  # row (classes,)
            for prediction, row in zip(output, expected, strict=True)
            for found in prediction.classes
        ]
        if any(found.index >= len(row) for row, found in best):
            return f"class numbers above the engine's {expected.shape[1]} classes"
        apart = max(abs(found.probability - float(row[found.index])) for row, found in best)
    elif output.shape != expected.shape:
        return f"probabilities {output.shape} instead of {expected.shape}"
    else:
        apart = float(np.abs(output - expected).max())
    return "" if apart <= within else f"probabilities that differ from the engine's by up to {apart:.2g}"


def _measured(
    routes: Sequence[Route], client: Client, model: str, options: BreakdownOptions
) -> list[ModelStatistics]:
    """Run all rounds, and return what the server counted in each round of gRPC requests."""
    inside: list[ModelStatistics] = []
    for number in range(options.rounds):
        for route in routes if number % 2 == 0 else reversed(routes):
            before = client.statistics(model)
            route.run(options.requests)
            if route.name == "gRPC":
                inside.append(counted_in([(before, client.statistics(model))]))
    return inside


def shared_probabilities(shared: SharedImages, images: Uint8Array) -> Probabilities:
    """Copy the images into shared memory, as a client would, and request their probabilities."""
    shared.images[:] = images
    return shared.probabilities(len(images))


def _decodes_to(client: Client, ensemble: str, precision: str) -> bool:
    try:
        return client.model(ensemble).precision == precision
    except ModelNotFound:
        return False


def _bytes_of(client: Client, images: Uint8Array, model: str) -> int:
    (prediction, *_) = _classified(client, images, model)
    return (prediction.request_bytes or 0) * len(images)


def _a_request_ms(total_ns: int, counted: ModelStatistics) -> float:
    """Divide by the requests: with one at a time, each is an execution of its own."""
    return total_ns / max(counted.requests, 1) / 1e6
