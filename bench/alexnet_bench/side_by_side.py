"""Lanes measured in turn, in short slices, so that a shared machine's noise meets all of them alike.

A ratio is taken within each round, where its two lanes ran within seconds of each other, and then the
median over rounds. Every other round runs backwards: a machine that slows down steadily favours neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from alexnet_model.errors import UsageError
from alexnet_model.progress import Progress, silent

from .lanes import Lane, Slice
from .records import Case, Ratio, Throughput, ratio_from_rounds


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often and how long each lane runs. The burn-in of every lane is thrown away."""

    rounds: int
    slice_s: float
    burn_in_s: float = 0.1

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError("rounds", got=str(self.rounds), expected="at least 1")
        if not (self.slice_s > 0 and self.burn_in_s >= 0):
            raise UsageError(
                "slices",
                got=f"{self.slice_s} s with a burn-in of {self.burn_in_s} s",
                expected="a positive length, and a burn-in of 0 s or more",
            )


@dataclass(frozen=True)
class SideBySide:
    """Every lane's slices, one a round, in the order of the rounds."""

    slices: Mapping[Case, Sequence[Slice]]

    def rows(self) -> tuple[Throughput, ...]:
        return tuple(_row(case, slices) for case, slices in self.slices.items())

    def ratio(self, of: Case, against: Case) -> Ratio:
        """How many times as many images a second `of` answered as `against`.

        Raises:
            KeyError: one of them was not measured here.
        """
        pairs = zip(self.slices[of], self.slices[against], strict=True)
        return ratio_from_rounds(
            of, against, [above.throughput_per_s / below.throughput_per_s for above, below in pairs]
        )


def side_by_side(
    lanes: Sequence[Lane], plan: Plan, *, progress: Progress = silent, stage: str = "measuring"
) -> SideBySide:
    """Run every lane once a round, one at a time.

    Raises:
        ClientError: a served lane was not answered.
    """
    done, total = 0, len(lanes) * (plan.rounds + 1)
    progress(stage, done, total)
    for lane in lanes:
        lane.run(plan.burn_in_s)
        done += 1
        progress(stage, done, total, f"burn-in: {lane.case}")
    slices: dict[Case, list[Slice]] = {lane.case: [] for lane in lanes}
    for number in range(plan.rounds):
        for lane in lanes if number % 2 == 0 else reversed(lanes):
            slices[lane.case].append(lane.run(plan.slice_s))
            done += 1
            progress(stage, done, total, str(lane.case))
    return SideBySide(slices)


def _row(case: Case, slices: Sequence[Slice]) -> Throughput:
    rates = [slice_.throughput_per_s for slice_ in slices]
    cpu_shares = [slice_.client_cpu_share for slice_ in slices if slice_.client_cpu_share is not None]
    return Throughput(
        case=case,
        throughput_per_s=median(rates),
        throughput_low_per_s=min(rates),
        throughput_high_per_s=max(rates),
        latency_p50_ms=median(latency for slice_ in slices for latency in slice_.latencies_ms),
        slices=len(slices),
        images=sum(slice_.images for slice_ in slices),
        client_cpu_share=median(cpu_shares) if cpu_shares else None,
    )
