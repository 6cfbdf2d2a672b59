"""Configurations of a server, and the search among them, whatever tries one.

One thing is changed at a time, from the smallest configuration on, and a change is kept only where the server
then holds clearly more within the limit: a busier configuration that holds no more is a worse one. A rate is
searched in steps of some per cent, so a gain is believed when it was found twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from alexnet_model.errors import UsageError
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision
from alexnet_serving import RepositoryOptions

from .loads.plans import Timing
from .loads.searching import SearchOptions

CLEARLY_MORE = 1.05  # times as much, or it is noise


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration."""

    precision: Precision
    instances: int = 1
    queue_delay_us: int = 0
    max_batch: int = 64

    def options(self, base: RepositoryOptions) -> RepositoryOptions:
        """What a repository is written with for it."""
        return replace(
            base,
            instances=self.instances,
            queue_delay_us=self.queue_delay_us,
            max_batch=self.max_batch,
        )

    def __str__(self) -> str:
        return (
            f"{self.precision}, {self.instances} instance{'s' if self.instances > 1 else ''}, "
            f"{self.queue_delay_us} us queue delay, batches to {self.max_batch}"
        )


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """What is tried beside the smallest configuration; a rate is searched for each."""

    limit_p99_ms: float
    instances: tuple[int, ...] = (2,)
    queue_delays_us: tuple[int, ...] = (500, 2000)
    max_batches: tuple[int, ...] = (16,)
    most_probes: int = 5
    timing: Timing = field(default_factory=lambda: Timing(burn_in_s=0.5, seconds=2.0, repeats=1))

    def __post_init__(self) -> None:
        SearchOptions(limit_p99_ms=self.limit_p99_ms, most_probes=self.most_probes)  # refuses what cannot be
        if min((1, *self.instances, *self.max_batches)) < 1 or min((0, *self.queue_delays_us)) < 0:
            raise UsageError(
                "what is tried",
                got=f"instances {self.instances}, batches {self.max_batches}, delays {self.queue_delays_us}",
                expected="instances and batches of 1 or more, and no negative delay",
            )


@dataclass(frozen=True, kw_only=True)
class Held:
    """How much a configuration held: images a second within the limit, None where it held no rate."""

    rate_per_s: float | None
    p99_ms: float | None
    words: str
    device: str = ""
    is_gone: bool = False  # the server: that says nothing of its configuration


Try = Callable[[Candidate], Held]


def search_candidates(
    precisions: Sequence[Precision],
    max_batch: int,
    options: TuningOptions,
    tried: Try,
    *,
    progress: Progress = silent,
) -> tuple[int | None, str]:
    """Every precision as small as can be; then, of the best, each other value of each thing in turn.

    A configuration is held to the median of what it held whenever it was tried. Gives the index of the winner
    among what was tried, the middle one of its tries, and why it won.
    """
    changes = (
        [("max_batch", value) for value in options.max_batches if value < max_batch]
        + [("instances", value) for value in options.instances if value > 1]
        + [("queue_delay_us", value) for value in options.queue_delays_us if value > 0]
    )
    total = len(precisions) + len(changes)
    steps: list[tuple[Candidate, Held]] = []

    def took(candidate: Candidate, number: int) -> Held:
        progress("configurations", number, total, str(candidate))
        held = tried(candidate)
        steps.append((candidate, held))
        return held

    reasons: list[str] = []
    for number, precision in enumerate(precisions):
        took(Candidate(precision=precision, max_batch=max_batch), number)
    best, held = max(steps, key=lambda step: step[1].rate_per_s or 0.0, default=(None, None))
    if best is None or held is None or held.rate_per_s is None:
        progress("configurations", total, total)
        return None, _none_held(steps, options.limit_p99_ms)
    if len(precisions) > 1:
        reasons.append(f"{best.precision} holds the most of the precisions")
    for number, (name, value) in enumerate(changes, start=len(precisions)):
        candidate = replace(best, **{name: value})  # type: ignore[arg-type]  # all are numbers
        what = f"{name.replace('_us', '').replace('_', ' ')} {value}"
        before, after = _median_of(best, steps), took(candidate, number).rate_per_s
        if not _is_clear(before, after):
            reasons.append(f"{what} holds {_share(before, after)}")
            continue
        again_before = took(best, number).rate_per_s
        again_after = took(candidate, number).rate_per_s
        if _is_clear(again_before, again_after):
            best = candidate
            again = _times(again_before, again_after)
            reasons.append(f"{what} holds {_times(before, after)}, tried again {again}")
        else:
            reasons.append(f"{what} held {_times(before, after)}, but not when it was tried again")
    progress("configurations", total, total)
    if best.instances == 1 and any(candidate.instances > 1 for candidate, _ in steps):
        reasons.append("so one instance is best here")
    tries = _tries_of(best, steps)
    return tries[(len(tries) - 1) // 2], "; ".join(reasons)


def _tries_of(candidate: Candidate, steps: Sequence[tuple[Candidate, Held]]) -> list[int]:
    """Indices of its steps, from the one that held the least to the one that held the most."""
    indices = [index for index, (tried, _) in enumerate(steps) if tried == candidate]
    return sorted(indices, key=lambda index: steps[index][1].rate_per_s or 0.0)


def _median_of(candidate: Candidate, steps: Sequence[tuple[Candidate, Held]]) -> float:
    """Images a second within the limit, over its tries; one that held no rate counts as 0."""
    return median(steps[index][1].rate_per_s or 0.0 for index in _tries_of(candidate, steps))


def _is_clear(before: float | None, after: float | None) -> bool:
    """Whether it is a gain, beyond the steps in which a rate is searched."""
    return after is not None and after > CLEARLY_MORE * (before or 0.0)


def _times(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "what the other does not"
    return f"{after / before:.2f} times as much"


def _share(before: float | None, after: float | None) -> str:
    return "no rate within the limit" if after is None else f"{_times(before, after)}: no clear gain"


def _none_held(steps: Sequence[tuple[Candidate, Held]], limit_p99_ms: float) -> str:
    seen = [(held.p99_ms, candidate) for candidate, held in steps if held.p99_ms is not None]
    if not seen:
        said = dict.fromkeys(held.words for _, held in steps)
        return f"no rate held {limit_p99_ms:g} ms; {'; '.join(said)}"
    p99_ms, candidate = min(seen, key=lambda pair: pair[0])
    return f"no rate held {limit_p99_ms:g} ms; the best p99 that was seen is {p99_ms:.4g} ms, of {candidate}"
