"""A small, explained search for how to serve: instances, queue delay, largest batch and precision.

One thing is changed at a time, from the smallest configuration on, and a change is kept only where the server
then holds clearly more within the limit: a busier configuration that holds no more is a worse one. A rate is
searched in steps of some per cent, so a gain is believed when it was found twice. Every configuration is
served for real, on an embedded server of its own, and its answers are held to the export's in process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from alexnet_clients import ServerUrl, transport_from_url
from alexnet_model.errors import ClientError, RepositoryError, ServerError, UsageError
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision
from alexnet_serving import (
    EmbeddedServer,
    RepositoryOptions,
    lint,
    raise_if_findings,
    write_repository,
)

from .figures.verdicts import Reason
from .loads.generators import Workers
from .loads.measuring import ServerBench
from .loads.outcomes import GONE
from .loads.plans import ClosedLoop, Timing
from .loads.rows import Measured
from .loads.searching import SearchOptions
from .reports.schema import Report, Tuning, TuningStep
from .runs import Log, report_of_run
from .truth import ExportTruth

CLEARLY_MORE = 1.05  # times as much, or it is noise
_ESTIMATE_AT = ClosedLoop(concurrency=16)


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
    """How much a configuration held: pictures a second within the limit, None where it held no rate."""

    rate_per_s: float | None
    p99_ms: float | None
    words: str
    device: str = ""
    is_gone: bool = False  # the server: that says nothing of its configuration


Try = Callable[[Candidate], Held]


def bench_tuning(
    manifest: Manifest,
    folder: Path,
    options: TuningOptions,
    base: RepositoryOptions,
    *,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Search, and say why the winner won. After Ctrl-C there is what was tried, and no winner.

    `base` is what is not searched for. Each configuration is packed beside the export's `folder`, where large
    files are linked, and is gone after.

    A configuration that does not start has held nothing.

    Raises:
        RepositoryError: nothing can be packed.
    """
    precisions = tuple(artifact.precision for artifact in manifest.accepted)
    truth = ExportTruth(manifest, folder)
    steps: list[TuningStep] = []
    devices: dict[str, None] = {}

    def measure(log: Log) -> None:
        def tried(candidate: Candidate) -> Held:
            try:
                held = _held_by(
                    candidate, only_of(manifest, candidate.precision), folder, options, base, truth
                )
            except (RepositoryError, ServerError) as error:  # such as no memory for another instance
                held = Held(rate_per_s=None, p99_ms=None, words=str(error))
            steps.append(_step(candidate, held))
            devices.update({held.device: None} if held.device else {})
            if held.is_gone:
                log.note(_gone_reason(candidate, held))
            return held

        winner, why = None, "the search was ended before its end"
        try:
            winner, why = search_candidates(precisions, manifest.max_batch, options, tried, progress=progress)
        finally:
            log.tuning = Tuning(
                device=" + ".join(devices) or "unknown",
                limit_p99_ms=options.limit_p99_ms,
                steps=tuple(steps),
                winner=winner,
                why=why,
            )

    title = f"Tuning within {options.limit_p99_ms:g} ms"
    return report_of_run(measure, title=title, command=command)


def winner_of(report: Report, base: RepositoryOptions) -> RepositoryOptions | None:
    """What a repository is written with for the winner; None where there is none."""
    tuning = report.tuning
    if tuning is None or tuning.winner is None:
        return None
    step = tuning.steps[tuning.winner]
    return Candidate(
        precision=step.precision,
        instances=step.instances,
        queue_delay_us=step.queue_delay_us,
        max_batch=step.max_batch,
    ).options(base)


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
    """Pictures a second within the limit, over its tries; one that held no rate counts as 0."""
    return median(steps[index][1].rate_per_s or 0.0 for index in _tries_of(candidate, steps))


def _held_by(
    candidate: Candidate,
    manifest: Manifest,
    folder: Path,
    options: TuningOptions,
    base: RepositoryOptions,
    truth: ExportTruth,
) -> Held:
    """Serve it, and search. `manifest` is of its precision alone."""
    model = f"alexnet_{candidate.precision}"
    search = SearchOptions(limit_p99_ms=options.limit_p99_ms, most_probes=options.most_probes)
    with ExitStack() as opened:
        beside = opened.enter_context(tempfile.TemporaryDirectory(dir=folder.parent))
        place = Path(beside) / "model_repository"
        write_repository(manifest, folder, place, candidate.options(base))
        server = opened.enter_context(EmbeddedServer(place))
        generator = opened.enter_context(Workers(server.grpc_url, 1))
        url = ServerUrl.parse(server.grpc_url)
        transport = transport_from_url(url)
        opened.callback(transport.close)
        bench = ServerBench(transport, url, generator, timing=options.timing, truth=truth)
        try:
            estimate = _whole(bench.measure(model, _ESTIMATE_AT)).row.throughput.value
            held = bench.held_rate(model, 1, search, estimate_per_s=estimate)
        except ClientError as error:
            return Held(rate_per_s=None, p99_ms=None, words=str(error), is_gone=isinstance(error, GONE))
        if held.over is not None:
            _whole(held.over)
        if isinstance(held.cut_by, KeyboardInterrupt):
            raise held.cut_by
    found = held.record
    return Held(
        rate_per_s=found.rate_per_s,
        p99_ms=found.p99_ms,
        words=found.words,
        device=found.engine.device,
        is_gone=held.over is not None or isinstance(held.cut_by, GONE),
    )


def only_of(manifest: Manifest, precision: Precision) -> Manifest:
    """As if the export had one precision."""
    artifacts = tuple(artifact for artifact in manifest.artifacts if artifact.precision == precision)
    return manifest.model_copy(update={"artifacts": artifacts})


def _gone_reason(candidate: Candidate, held: Held) -> Reason:
    return Reason(
        rule="server gone",
        found=f"{candidate}: {held.words}".rstrip("."),
        advice="See why its server ended; what won without it may not be the best.",
    )


def _whole(measured: Measured) -> Measured:
    """A load that Ctrl-C cut short has a row all the same; here it ends the search."""
    if measured.outcome.interrupted:
        raise KeyboardInterrupt
    return measured


def write_winner(manifest: Manifest, folder: Path, repository: Path, options: RepositoryOptions) -> None:
    """Write the repository anew with the winner's options, after lint has passed what it would hold.

    `manifest` is the repository's own record, which tells of refused precisions too.

    Raises:
        ManifestError: the repository has no record any more.
        RepositoryError: by now it is of another export, or it cannot be written, or lint finds something; the
            old one stands then.
    """
    if manifest_from_folder(repository) != manifest:
        raise RepositoryError(
            str(repository),
            got="another export by now",
            expected="the one that was measured",
            next_step="Tune it again; it was not touched.",
        )
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        trial = Path(beside) / "model_repository"
        write_repository(manifest, folder, trial, options)
        raise_if_findings(repository, lint(trial))
    write_repository(manifest, folder, repository, options)


def _step(candidate: Candidate, held: Held) -> TuningStep:
    return TuningStep(
        precision=candidate.precision,
        instances=candidate.instances,
        queue_delay_us=candidate.queue_delay_us,
        max_batch=candidate.max_batch,
        held_rate_per_s=held.rate_per_s,
        p99_ms=held.p99_ms,
        note=held.words,
    )


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
