"""The record of a benchmark run. Every row says what it is a figure of, so that none can be mistaken.

A run fills the parts that it measured; the others stay empty. Times are milliseconds, rates images a
second, sizes bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from alexnet_model.manifest import RunnerReport
from alexnet_model.records import Precision, Record

from .environment import Environment
from .figures.intervals import Figure
from .figures.percentiles import Latencies
from .figures.verdicts import Reason, Verdict

SCHEMA_VERSION: Literal[1] = 1
Loop = Literal["closed", "open"]


class EngineLabel(Record):
    """What computes: `runtime` such as openvino, `device` such as CPU or a GPU's name."""

    runtime: str
    device: str
    computes_in: str
    precision: Precision | None  # None: not a model of this project
    options: str = ""  # such as "CUDA graphs", "torch.compile"

    def __str__(self) -> str:
        extra = f", {self.options}" if self.options else ""
        where = f"{self.device}, computes in {self.computes_in}{extra}"
        return f"{self.precision or 'model'} on {self.runtime} ({where})"


class Roof(Record):
    """The limits that were measured on a device in this run, and what a network asks of it."""

    device: str
    computes_in: str
    operations_per_s: float  # two a multiply-add, of a large matrix product
    bytes_per_s: float  # of a large copy, read and written, or a large read


class EngineRow(Record):
    """One engine in process at one batch."""

    engine: EngineLabel
    batch: int
    throughput: Figure  # images/s
    latencies: Latencies  # of one call
    first_call_ms: float
    load_ms: float
    size_bytes: int  # of its file
    # At this batch, with loading and what is kept of smaller ones (CUDA graphs: a graph and a context each).
    peak_memory_bytes: int | None
    limit_ms: float | None  # the roofline's: no call can be shorter
    bound_by: Literal["compute", "memory", "unknown"] = "unknown"
    verdict: Verdict = Verdict()

    @property
    def share_of_limit(self) -> float | None:
        """1 is the roof."""
        if self.limit_ms is None or self.latencies.p50_ms is None:
            return None
        return self.limit_ms / self.latencies.p50_ms


class Proof(Record):
    """Whether an engine that was timed is still the model: the gate's figures of that same process."""

    engine: EngineLabel
    report: RunnerReport  # the parity matrix, signal-to-noise, agreement and accuracy
    accepted: bool
    reason: str
    judged_on: str  # which images


class LoadRow(Record):
    """One model on a server under one load.

    In JSON its headline figures are there once more under plain names with their units (`throughput_per_s`,
    `latency_p50_ms`, ...), for whoever reads it with a line of script.
    """

    model: str
    engine: EngineLabel
    url_scheme: str  # grpc, http, ..., or "shared memory"
    loop: Loop
    batch: int  # images a request
    concurrency: int | None  # of a closed loop
    rate_per_s: float | None  # requests a second that an open loop meant to send
    throughput: Figure  # images/s
    latencies: Latencies  # of a request; of an open loop from when it was meant to be sent
    histogram: str  # HdrHistogram's compressed form, of latencies in microseconds
    requests: int
    failed: int
    failed_by_kind: dict[str, int] = Field(default_factory=dict)  # by the error's name
    late_p99_ms: float | None  # how late an open loop sent
    client_cpu_share: float  # of one core, the busiest process
    client_away_share: float  # of the time, that the most starved process was kept from running
    request_bytes: int
    executions_by_batch: dict[int, int]  # from the server's statistics
    batching: str  # in words: whether batching happened, and if not why
    verdict: Verdict

    @property
    def plain_figures(self) -> dict[str, float | None]:
        """Images a second and milliseconds, None where a percentile was refused."""
        latencies = self.latencies.model_dump(exclude={"samples"})
        named = {f"latency_{name}": value for name, value in latencies.items()}
        return {"throughput_per_s": self.throughput.value, **named}

    @model_serializer(mode="wrap")
    def _with_plain_figures(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**write(self), **self.plain_figures}

    @model_validator(mode="before")
    @classmethod
    def _without_plain_figures(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        plain = {"throughput_per_s", *(f"latency_{name}" for name in Latencies.model_fields)}
        return {name: value for name, value in values.items() if name not in plain}


class RateProbe(Record):
    """One rate that was tried in a search."""

    rate_per_s: float  # requests
    p99_ms: float | None
    held: bool
    note: str = ""  # why not, where the percentile alone does not say it


class HeldRate(Record):
    """The highest rate of an open loop whose p99 stays within a limit."""

    model: str
    engine: EngineLabel
    url_scheme: str
    batch: int
    limit_p99_ms: float
    rate_per_s: float | None  # requests a second; None where no rate held
    throughput: Figure | None  # images/s
    p99_ms: float | None  # at that rate; where none held, the best that was seen
    probes: tuple[RateProbe, ...]
    words: str  # what was found, and what was not


class LatencyStep(Record):
    """One step from the engine to the encoded image: milliseconds that it adds, and bytes a request.

    The steps of one `of` are in the order in which each stands on the one before; where several stand on the
    same one, as gRPC and HTTP do, their `total_ms - added_ms` says on which.
    """

    name: str
    of: str  # model, batch and load
    engine: EngineLabel
    total: Figure  # ms up to here
    added_ms: float
    request_bytes: int
    source: str  # whose clock: "in process", "server" (Triton's statistics), "client"

    @property
    def total_ms(self) -> float:
        return self.total.value


class TuningStep(Record):
    """One configuration that was tried."""

    precision: Precision
    instances: int
    queue_delay_us: int
    max_batch: int
    held_rate_per_s: float | None  # images/s within the limit; None where none was
    p99_ms: float | None
    note: str


class Tuning(Record):
    device: str
    limit_p99_ms: float
    steps: tuple[TuningStep, ...]
    winner: int | None  # an index of steps
    why: str


class ColdStart(Record):
    """From nothing to the first answer. Every start of the server is a repeat of each figure."""

    model: str
    engine: EngineLabel
    warmed_up: bool
    ready_ms: Figure  # from starting the server until it was ready
    first_ms: dict[int, Figure]  # of the first request of each batch
    second_ms: dict[int, Figure]  # and of the one after it


class LeftOut(Record):
    """What a run has no figure of, and why."""

    what: str
    why: str


class Report(Record):
    """Everything of one run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    title: str
    command: str
    environment: Environment
    seconds: float
    calibration_before: float  # of the same fixed work, operations/s
    calibration_after: float
    roofs: tuple[Roof, ...] = ()
    engines: tuple[EngineRow, ...] = ()
    proofs: tuple[Proof, ...] = ()
    loads: tuple[LoadRow, ...] = ()
    held_rates: tuple[HeldRate, ...] = ()
    breakdown: tuple[LatencyStep, ...] = ()
    tuning: Tuning | None = None
    cold_starts: tuple[ColdStart, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    reasons: tuple[Reason, ...] = ()  # against the whole run

    @property
    def verdict(self) -> Verdict:
        """Of the run as a whole; a load keeps its own."""
        return Verdict(reasons=self.reasons)
