"""What a measurement leaves behind: frozen records that serialise to JSON, every figure with its case."""

from __future__ import annotations

from statistics import median
from typing import Literal

from alexnet_model.manifest import Precision, Record

Through = Literal["in process", "server"]
Speed = Literal["faster", "slower", "no clear difference"]


class Case(Record):
    """What was measured: no figure is shown without all of this."""

    precision: Precision
    through: Through
    runtime: str
    device: str
    computes_in: str
    batch: int
    in_flight: int

    def __str__(self) -> str:
        flight = f", {self.in_flight} in flight" if self.through == "server" else ""
        return f"{self.precision} {self.through}, batch {self.batch}{flight}"


class Throughput(Record):
    """One case over several slices of time: medians, and the slowest and the fastest slice."""

    case: Case
    throughput_per_s: float  # images
    throughput_low_per_s: float
    throughput_high_per_s: float
    latency_p50_ms: float  # of one call or request
    slices: int
    images: int
    client_cpu_share: float | None = None  # of one core, spent by this process on asking the server


class Ratio(Record):
    """One case against another, both measured in every round: the median of the rounds' ratios."""

    of: Case
    against: Case
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    verdict: Speed


class Measurements(Record):
    """One run. `precisions` hold each precision against FP32, `serving` the server against in process."""

    machine: str
    versions: dict[str, str]
    rows: tuple[Throughput, ...]
    precisions: tuple[Ratio, ...]
    serving: tuple[Ratio, ...]
    seconds: float


def ratio_from_rounds(of: Case, against: Case, ratios: list[float]) -> Ratio:
    """The median of the rounds' ratios. One case is faster or slower only where every round says so."""
    low, high = min(ratios), max(ratios)
    verdict: Speed = "faster" if low > 1 else "slower" if high < 1 else "no clear difference"
    return Ratio(
        of=of,
        against=against,
        ratio=median(ratios),
        ratio_low=low,
        ratio_high=high,
        rounds=len(ratios),
        verdict=verdict,
    )
