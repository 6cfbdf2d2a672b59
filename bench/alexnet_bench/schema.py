"""The result schema of every benchmark: one `Report` a run, one row type for each kind of measurement.

Every row names its engine, device, precision and batch. A run fills the parts that it measured and leaves the
others empty. Times are in milliseconds, rates in images per second, sizes in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from alexnet_model.manifest import RunnerReport
from alexnet_model.records import Precision, Record

from .environment import Environment
from .figures.intervals import Figure
from .figures.percentiles import Latencies
from .figures.verdicts import Reason, Verdict

SCHEMA_VERSION: Literal[2] = 2
Loop = Literal["closed", "open"]
# Whose memory was measured: the process's own, or all that a GPU has less free, by any program.
MemoryOf = Literal["process", "device"]
_FLOATS = frozenset({"f16", "f32", "f16+f32"})

Derived = Mapping[str, Callable[[Any], Any]]


def _latency(name: str) -> Callable[[Any], Any]:
    return lambda row: getattr(row.latencies, name)


class _Derived(Record):
    """A record whose JSON also has derived fields, which are ignored when it is read."""

    _DERIVED: ClassVar[Derived]  # by field name: its value for a record

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**write(self), **{name: value(self) for name, value in self._DERIVED.items()}}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name not in cls._DERIVED}


class EngineLabel(Record):
    """What computes: `runtime` is such as openvino, `device` is CPU or a GPU's name."""

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
    """The compute and memory limits that this run measured on a device."""

    device: str
    computes_in: str
    operations_per_s: float  # of a large matrix product; a multiply-add is two
    bytes_per_s: float  # of a large copy (read and write) or a large read, whichever is faster


class EngineRow(Record):
    """One engine in process at one batch size."""

    engine: EngineLabel
    batch: int
    throughput: Figure  # images/s
    latencies: Latencies  # of one call
    first_call_ms: float
    load_ms: float
    size_bytes: int  # of its file
    # At this batch, including loading and what is kept for smaller batches (CUDA graphs, contexts).
    peak_memory_bytes: int | None
    memory_of: MemoryOf = "process"
    limit_ms: float | None  # by the roofline no call can be shorter
    bound_by: Literal["compute", "memory", "unknown"] = "unknown"
    verdict: Verdict = Verdict()

    @property
    def share_of_limit(self) -> float | None:
        """The roofline limit divided by the median call: 1 is the limit."""
        if self.limit_ms is None or self.latencies.p50_ms is None:
            return None
        return self.limit_ms / self.latencies.p50_ms

    @property
    def is_int8_in_float_on_gpu(self) -> bool:
        """Whether it is an INT8 file that the runtime computes in float on a GPU, which is no speed-up."""
        engine = self.engine
        return engine.device != "CPU" and engine.precision == "int8" and engine.computes_in in _FLOATS


class Proof(Record):
    """Whether a timed engine is still the model, judged by the accuracy gate in the same process."""

    engine: EngineLabel
    report: RunnerReport  # the parity matrix, signal-to-noise, agreement and accuracy
    accepted: bool
    reason: str
    judged_on: str  # the images


class LoadRow(_Derived):
    """One model on a server under one load.

    In JSON it also has its main figures under flat names with units (`throughput_per_s`, `latency_p50_ms`),
    so that a script can read them easily.
    """

    _DERIVED: ClassVar[Derived] = {
        "throughput_per_s": lambda row: row.throughput.value,
        **{f"latency_{name}": _latency(name) for name in Latencies.model_fields if name != "samples"},
    }
    model: str
    engine: EngineLabel
    url_scheme: str  # grpc, http, ..., or "shared memory"
    loop: Loop
    batch: int  # images per request
    concurrency: int | None  # of a closed loop
    rate_per_s: float | None  # planned requests per second of an open loop
    throughput: Figure  # images/s
    latencies: Latencies  # of a request; in an open loop from its planned send time
    histogram: str  # HdrHistogram's compressed form, in microseconds
    requests: int
    failed: int
    failed_by_kind: dict[str, int] = Field(default_factory=dict)  # by error name
    late_p99_ms: float | None  # how late an open loop sent
    client_cpu_share: float  # of one core, by the busiest client process
    client_away_share: float  # share of time in which the most starved client process could not run
    request_bytes: int
    executions_by_batch: dict[int, int]  # from the server's statistics
    batching: str  # a sentence: whether the server batched, and if not why
    verdict: Verdict


class RateProbe(Record):
    """One rate that a search measured."""

    rate_per_s: float  # requests per second
    p99_ms: float | None
    held: bool
    note: str = ""  # why not, if the percentile alone does not tell


class HeldRate(Record):
    """The highest open-loop rate whose p99 latency stays within a limit."""

    model: str
    engine: EngineLabel
    url_scheme: str
    batch: int
    limit_p99_ms: float
    rate_per_s: float | None  # requests per second; None if no rate held
    throughput: Figure | None  # images/s
    p99_ms: float | None  # at that rate; if none held, the lowest that was measured
    probes: tuple[RateProbe, ...]
    words: str  # a sentence that says what was found


class LatencyStep(Record):
    """One step from the engine to the encoded image: the milliseconds that it adds, the bytes per request.

    The steps of one `of` are in order: each one adds to an earlier one. Several may add to the same step, as
    gRPC and HTTP do; `total_ms - added_ms` is the total of the step below.
    """

    name: str
    of: str  # model, batch and load
    engine: EngineLabel
    total: Figure  # ms up to here
    added_ms: float
    request_bytes: int
    source: str  # the clock: "in process", "server" (Triton's statistics) or "client"

    @property
    def total_ms(self) -> float:
        return self.total.value


class TuningStep(Record):
    """One configuration that tuning measured."""

    precision: Precision
    instances: int
    queue_delay_us: int
    max_batch: int
    held_rate_per_s: float | None  # images/s within the limit; None if no rate held
    p99_ms: float | None
    note: str


class Tuning(Record):
    """The configurations that tuning measured, and the one that it chose."""

    device: str
    limit_p99_ms: float
    steps: tuple[TuningStep, ...]
    winner: int | None  # index into steps
    why: str


class ColdStart(Record):
    """Time from starting a server to its first responses. Every start is one repeat of each figure."""

    model: str
    engine: EngineLabel
    warmed_up: bool
    ready_ms: Figure  # from starting the server until it was ready
    first_ms: dict[int, Figure]  # of the first request of each batch
    second_ms: dict[int, Figure]  # of the request after it


class FigureRow(_Derived):
    """One figure of any kind with its target, such as the overhead of a client or the check of a tool.

    In JSON it also has `reached`, which is None if there is no target.
    """

    _DERIVED: ClassVar[Derived] = {"reached": lambda row: row.reached}
    name: str  # such as "AsyncClient / raw requests"
    of: str  # what was measured, such as "alexnet_int8 over gRPC, 64 requests in flight"
    figure: Figure
    engine: EngineLabel | None = None  # None: no model computes in it
    at_least: float | None = None  # the target, in the unit of the figure
    at_most: float | None = None
    every_repeat: bool = False  # every repeat has to reach the target, not only the median
    better: Literal["higher", "lower", "neither"] = "neither"  # how two runs are compared

    @property
    def reached(self) -> bool | None:
        """Whether the figure reaches its target; None if it has none."""
        if self.at_least is None and self.at_most is None:
            return None
        values = self.figure.repeats if self.every_repeat else (self.figure.value,)
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return all(low <= value <= high for value in values)

    @property
    def target(self) -> str:
        """Such as `at least 0.9` or `0.9 to 1.1`; empty if there is none."""
        low, high = ("" if end is None else f"{end:,.4g}" for end in (self.at_least, self.at_most))
        if low and high:
            target = f"{low} to {high}"
        else:
            target = f"at least {low}" if low else f"at most {high}" if high else ""
        return f"{target}, every repeat" if target and self.every_repeat else target


class LeftOut(Record):
    """What a run did not measure, and why."""

    what: str
    why: str


class Report(Record):
    """All results of one run."""

    schema_version: Literal[2] = SCHEMA_VERSION
    title: str
    command: str
    environment: Environment
    seconds: float | None  # None: not measured, as in results of before schema version 2
    calibration_before: float | None  # operations/s of the calibration workload
    calibration_after: float | None
    gpu_calibration_before: float | None = None  # of the GPU that engines were measured on
    gpu_calibration_after: float | None = None
    roofs: tuple[Roof, ...] = ()
    engines: tuple[EngineRow, ...] = ()
    proofs: tuple[Proof, ...] = ()
    loads: tuple[LoadRow, ...] = ()
    held_rates: tuple[HeldRate, ...] = ()
    breakdown: tuple[LatencyStep, ...] = ()
    tuning: Tuning | None = None
    cold_starts: tuple[ColdStart, ...] = ()
    figures: tuple[FigureRow, ...] = ()
    notes: tuple[str, ...] = ()  # sentences about the figures
    left_out: tuple[LeftOut, ...] = ()
    reasons: tuple[Reason, ...] = ()  # why the whole run is INVALID

    @property
    def verdict(self) -> Verdict:
        """The verdict on the run as a whole; engine and load rows have their own."""
        return Verdict(reasons=self.reasons)
