"""Measure one load at a time on one server: prepare its requests, have it generated, make its row.

with open_server_bench("grpc://127.0.0.1:8001") as bench:
    measured = bench.measure(Load(model="alexnet_int8", loop=ClosedLoop(concurrency=16)))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from alexnet_clients import (
    ANONYMOUS,
    Credentials,
    InferReply,
    ModelConfig,
    ModelStatistics,
    ServerUrl,
    Transport,
    transport_from_url,
    with_served_models,
)
from alexnet_model.errors import BadResponse, ClientError, ModelNotFound, Unreachable, UsageError
from alexnet_model.gpus import gpus_here

from ..schema import LoadRow
from .generators import LoadGenerator, MultiProcessGenerator, Tick, no_tick
from .plans import Load, Segment, Timing, check_requests
from .results import LoadResult, ModelUnderTest, combined_in_sequence, counters_restarted, load_row
from .traffic import (
    ReferenceOutputs,
    RequestSet,
    Shapes,
    TrafficSpec,
    expected_from_replies,
    request_set_from_config,
)


class ReferenceSource(Protocol):
    """Computes correct outputs elsewhere than on the server that is measured."""

    def __call__(self, tested: ModelUnderTest, requests: RequestSet, /) -> ReferenceOutputs:
        """Compute the outputs of every distinct request."""


class ServerReplaced(BadResponse):
    """Between two loads the server was started again, or another server took its place."""


@dataclass(frozen=True, kw_only=True)
class MeasuredLoad:
    """One load: its row, and the counts that the row was made from."""

    row: LoadRow
    result: LoadResult
    restarted: bool = False  # the server, during the load

    @property
    def ends_run(self) -> bool:
        """Whether measuring further loads makes no sense."""
        return self.result.interrupted or self.result.server_gone or self.restarted


class ServerBench:
    """Measures loads on one server. What it reads about a model it reads once.

    Args:
        transport: Connection for everything but the load itself.
        url: The server's URL, for rows and messages.
        generator: What generates the loads.
        timing: Burn-in and repeats of a load, unless a call gives another; by default `Timing()`.
        timeout_s: Deadline of each request.
        shapes: Shapes of inputs that have open dimensions, by name, without the batch axis.
        reference: Computes the correct outputs elsewhere than on this server, such as `ExportPredictions`
            does from the export. By default the server's replies before the first load count as correct.
    """

    def __init__(
        self,
        transport: Transport,
        url: ServerUrl,
        generator: LoadGenerator,
        *,
        timing: Timing | None = None,
        timeout_s: float = 30.0,
        shapes: Shapes | None = None,
        reference: ReferenceSource | None = None,
    ) -> None:
        self.timing = timing or Timing()
        self.url = url
        self._transport = transport
        self._generator = generator
        self._timeout_s = timeout_s
        self._shapes = shapes or {}
        self._reference = reference
        self._models: dict[str, ModelUnderTest] = {}
        self._prepared: dict[tuple[str, int], TrafficSpec] = {}  # by model and batch
        self._in_generator: TrafficSpec | None = None
        self._statistics: dict[str, ModelStatistics] = {}  # after the latest load, by model

    def model(self, name: str) -> ModelUnderTest:
        """Read the configuration of a model and of the network that computes it.

        Raises:
            ClientError: the server cannot be reached, or has no such model.
        """
        if name not in self._models:
            self._models[name] = read_model(self._transport, self.url, name, timeout_s=self._timeout_s)
        return self._models[name]

    def check(self, loads: Sequence[Load]) -> None:
        """Check that these loads can be generated, before any is.

        Raises:
            ClientError: as `model` does.
            UsageError: a loop has too many requests, a model does not take the batch or has an input whose
                values cannot be made up, or a shape was given for an input that no model has.
        """
        for load in loads:
            check_requests(load.loop, self.timing)
        inputs = dict.fromkeys(name for load in loads for name in self.model(load.model).config.inputs)
        for name in self._shapes:
            if name not in inputs:
                raise UsageError(f"shape of {name}", got="no such input", expected=" or ".join(inputs))
        for load in loads:
            self._request_set(load)

    def measure(self, load: Load, *, timing: Timing | None = None, tick: Tick = no_tick) -> MeasuredLoad:
        """Run a load once and make its row.

        Args:
            load: The load.
            timing: Burn-in and repeats; by default the bench's own.
            tick: Called now and then with the seconds since the load began.

        Raises:
            ClientError: as `run` and `measured` do.
            KeyboardInterrupt: Ctrl-C came before anything was measured.
            UsageError: as `check` does.
        """
        return self.measured(load, [self.run(load, timing=timing, tick=tick)])

    def run(
        self, load: Load, *, timing: Timing | None = None, seed: int = 0, tick: Tick = no_tick
    ) -> LoadResult:
        """Run a load once, without making a row.

        Args:
            load: The load.
            timing: Burn-in and repeats; by default the bench's own.
            seed: Determines the send times of an open loop.
            tick: Called now and then with the seconds since the load began.

        Raises:
            ServerReplaced: since the previous load the server was started again, or its model changed.
            ClientError: the server did not reply before the load, or a process of the generator died.
            UsageError: as `check` does.
        """
        timing = timing or self.timing
        check_requests(load.loop, timing)
        self._prepare(load)
        self._check_same_server(load.model)
        counted = self.model(load.model).counted
        segment = Segment(loop=load.loop, timing=timing, seed=seed, statistics_of=counted)
        try:
            result = self._generator.run(segment, tick)
        except ClientError:
            self._in_generator = None  # the generator has to be prepared again
            raise
        for name, spans in result.statistics.items():
            self._statistics[name] = spans[-1][1]
        return result

    def measured(self, load: Load, results: Sequence[LoadResult]) -> MeasuredLoad:
        """Make one row from the results of a load that was run once or several times.

        Raises:
            ClientError: there was no reply to any request.
            KeyboardInterrupt: Ctrl-C came before anything was measured.
        """
        tested = self.model(load.model)
        prepared = self._prepared[load.model, load.batch]
        result = combined_in_sequence(results)
        row = load_row(tested, load, result, request_bytes=prepared.request_bytes)
        if row is None:
            if result.interrupted:
                raise KeyboardInterrupt
            raise _no_reply_error(f"{self.url} {load}", result)
        return MeasuredLoad(row=row, result=result, restarted=result.was_restarted(tested.network.name))

    def _check_same_server(self, name: str) -> None:
        """Compare the configuration and the counters with those read before, as far as these can tell."""
        before = self._models[name]
        now = read_model(self._transport, self.url, name, timeout_s=self._timeout_s)
        if (now.config, now.network) != (before.config, before.network):
            raise self._replaced_error(name, "a configuration that has changed since then")
        network = before.network.name
        if network in self._statistics:
            counted = self._transport.statistics(network, timeout_s=self._timeout_s).result()
            if counters_restarted(self._statistics[network], counted):
                raise self._replaced_error(name, "counters that have restarted since then")

    def _replaced_error(self, name: str, got: str) -> ServerReplaced:
        expected = "the server of the previous load"
        next_step = "See the server's log, and measure again."
        return ServerReplaced(f"{self.url} {name}", got=got, expected=expected, next_step=next_step)

    def _request_set(self, load: Load) -> RequestSet:
        return request_set_from_config(self.model(load.model).config, load.batch, self._shapes)

    def _prepare(self, load: Load) -> None:
        """Let the generator build the requests of a load, and find out what their replies must be."""
        key = load.model, load.batch
        if key not in self._prepared:
            requests = self._request_set(load)
            replies = self._replies_without_load(requests)
            reference = None if self._reference is None else self._reference(self.model(load.model), requests)
            expected = expected_from_replies(requests, replies, reference)
            self._prepared[key] = TrafficSpec(
                requests=requests,
                expected=expected,
                timeout_s=self._timeout_s,
                request_bytes=max(reply.request_bytes for reply in replies),
            )
        prepared = self._prepared[key]
        if self._in_generator is not prepared:
            self._in_generator = None
            self._generator.prepare(prepared)
            self._in_generator = prepared

    def _replies_without_load(self, requests: RequestSet) -> list[InferReply]:
        """Send every distinct request, one at a time."""
        replies = [
            self._transport.submit(self._transport.prepare(request), timeout_s=self._timeout_s).result()
            for request in requests.requests()
        ]
        missing = set(requests.outputs) - set(replies[0].outputs)
        if missing:
            subject = f"{self.url} {requests.model}"
            raise BadResponse(subject, got="no " + ", ".join(sorted(missing)), expected="all its outputs")
        return replies


@contextmanager
def open_server_bench(
    url: str,
    *,
    processes: int = 1,
    credentials: Credentials = ANONYMOUS,
    timing: Timing | None = None,
    timeout_s: float = 30.0,
    shapes: Shapes | None = None,
    reference: ReferenceSource | None = None,
) -> Iterator[ServerBench]:
    """Connect to a server and start the worker processes that load it; both end with the `with`.

    Args:
        url: The server's URL.
        processes: How many workers share each load.
        credentials: TLS files and headers of the client; the headers must be a mapping.
        timing: As in `ServerBench`, and so are the other arguments.
        timeout_s: Deadline of each request.
        shapes: Shapes of inputs that have open dimensions.
        reference: Computes the correct outputs.

    Raises:
        InvalidUrl: the URL does not parse.
        UsageError: `processes` is below 1.
    """
    address = ServerUrl.parse(url)
    with (
        # The workers are started before gRPC starts threads in this process.
        MultiProcessGenerator(url, processes, credentials=credentials) as generator,
        closing(transport_from_url(address, credentials)) as transport,
    ):
        yield ServerBench(
            transport,
            address,
            generator,
            timing=timing,
            timeout_s=timeout_s,
            shapes=shapes,
            reference=reference,
        )


def read_model(transport: Transport, url: ServerUrl, name: str, *, timeout_s: float) -> ModelUnderTest:
    """Read a model's configuration and that of the network that computes it.

    Args:
        transport: Connection to the server.
        url: The server's URL, which tells whether it is on this machine.
        name: The model's name.
        timeout_s: Deadline of each request.

    Raises:
        ClientError: the server cannot be reached, or has no such model.
    """
    try:
        config = network = transport.model_config(name, timeout_s=timeout_s).result()
    except ModelNotFound as error:
        raise with_served_models(error, transport, timeout_s=timeout_s) from error
    if config.steps:
        network = transport.model_config(config.steps[-1], timeout_s=timeout_s).result()
    return ModelUnderTest(url=url, config=config, network=network, device=_device_of(network, url))


def _device_of(network: ModelConfig, url: ServerUrl) -> str:
    """Name the device that computes. A client can know a GPU's name only of its own machine."""
    device = network.device
    if not url.is_loopback:
        return f"{device or 'unknown'} at {url.host}"
    if device == "CPU":
        return device
    gpus = dict.fromkeys(gpu.name for gpu in gpus_here().gpus)
    if device == "GPU":
        return " + ".join(gpus) or device
    return "unknown" if gpus else "CPU"  # Triton chooses: a GPU if it finds one


def _no_reply_error(subject: str, result: LoadResult) -> ClientError:
    kind = Unreachable if result.server_gone else ClientError
    failures = result.failed_in_words or "none was counted"
    return kind(
        subject,
        got=f"no reply to any of {result.requests:,} requests ({failures})",
        expected="at least one",
        next_step=result.failure or "Measure for longer.",
    )
