"""Tune how a repository is served: instances, queue delay, largest batch and precision.

The search starts from the smallest configuration and changes one option at a time. It keeps a change only if
the server then holds a clearly higher rate within the latency limit, twice: a rate is searched in steps of a
few percent. Each configuration is served on an embedded server of its own, and its outputs are compared with
those of the export in process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import median

from alexnet_model.errors import ClientError, RepositoryError, ServerError, UsageError
from alexnet_model.files import folder_beside
from alexnet_model.manifest import Manifest
from alexnet_model.model_names import network_name
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision
from alexnet_serving import (
    EmbeddedServer,
    RepositoryOptions,
    Server,
    lint,
    packed_export,
    raise_if_findings,
    write_repository,
)

from .figures.verdicts import Reason
from .loads.plans import Load, Timing
from .loads.rate_search import DOUBTS, ESTIMATE_LOOP, SearchOptions, search_rate
from .loads.results import SERVER_GONE
from .loads.server_bench import MeasuredLoad, open_server_bench
from .reference_predictions import ExportPredictions
from .runs import Log, report_of_run
from .schema import Report, Tuning, TuningStep

PROBES_IN_BUDGET = 25  # of the longest kind
CLEAR_GAIN = 1.05  # a rate must be this many times as high, or the difference is noise


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """The limit, the values that are tried besides the smallest, and how long each is measured.

    Raises:
        UsageError: the limit, a number of instances, a batch or a delay is out of range.
    """

    limit_p99_ms: float
    instances: tuple[int, ...] = (2,)
    queue_delays_us: tuple[int, ...] = (500, 2000)
    max_batches: tuple[int, ...] = (16,)
    most_probes: int = 4  # rates that are measured for each configuration
    budget_s: float = 180.0  # no configuration is started that would take longer than what is left
    timing: Timing = field(default_factory=lambda: Timing(burn_in_s=0.5, seconds=2.0, repeats=1))

    def __post_init__(self) -> None:
        _ = self.search  # checks the limit
        if not (isfinite(self.budget_s) and self.budget_s > 0):
            raise UsageError("time for tuning", got=f"{self.budget_s:g} s", expected="more than 0 s")
        if min((1, *self.instances, *self.max_batches)) < 1 or min((0, *self.queue_delays_us)) < 0:
            raise UsageError(
                "values to try",
                got=f"instances {self.instances}, batches {self.max_batches}, delays {self.queue_delays_us}",
                expected="instances and batches of 1 or more, and no negative delay",
            )

    @property
    def search(self) -> SearchOptions:
        return SearchOptions(
            limit_p99_ms=self.limit_p99_ms,
            most_probes=self.most_probes,
            longest_probe_s=max(self.timing.seconds, self.budget_s / PROBES_IN_BUDGET),
            accept_doubts=True,
        )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration."""

    precision: Precision
    instances: int = 1
    queue_delay_us: int = 0
    max_batch: int = 64

    def options(self, base: RepositoryOptions) -> RepositoryOptions:
        """Return the options to write a repository with: this configuration, and `base` for the rest."""
        return replace(
            base, instances=self.instances, queue_delay_us=self.queue_delay_us, max_batch=self.max_batch
        )

    def __str__(self) -> str:
        return (
            f"{self.precision}, {self.instances} instance{'s' if self.instances > 1 else ''}, "
            f"{self.queue_delay_us} us queue delay, batches to {self.max_batch}"
        )


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """What one try of a configuration gave."""

    rate_per_s: float | None  # images a second within the limit; None if no rate held it
    p99_ms: float | None
    words: str
    doubts: str = ""  # what speaks against the rate although it counts
    device: str = ""
    server_gone: bool = False  # which tells nothing about the configuration

    @property
    def rate_or_0(self) -> float:
        return self.rate_per_s or 0.0


Try = tuple[Candidate, CandidateResult]


def bench_tuning(
    manifest: Manifest,
    folder: Path,
    options: TuningOptions,
    base: RepositoryOptions,
    *,
    open_server: Callable[[Path], Server] = EmbeddedServer,
    command: str = "",
    progress: Progress = silent,
) -> Report:
    """Search the best configuration, and say why it is the best.

    Each repository is written beside `folder`, so that large files are linked, and removed afterwards. A
    configuration that does not start holds no rate. A winner that was measured on a busy machine, or by few
    replies, makes the report INVALID. After Ctrl-C the report has the tries so far, and no winner.

    Args:
        manifest: The record of the export.
        folder: The export's folder.
        options: What to try, and for how long.
        base: Repository options that are not searched.
        open_server: Makes the server of a repository, on free ports.
        command: The command line that made the report.
        progress: Called before each try.
    """
    reference = ExportPredictions(manifest, folder)
    tries: list[Try] = []
    started_s, longest_s = time.monotonic(), 0.0

    def has_time(for_tries: int) -> bool:
        return time.monotonic() - started_s + for_tries * longest_s <= options.budget_s

    def measure(log: Log) -> None:
        def try_candidate(candidate: Candidate) -> CandidateResult:
            nonlocal longest_s
            before_s = time.monotonic()
            try:
                result = measure_candidate(candidate, manifest, folder, options, base, reference, open_server)
            except (RepositoryError, ServerError) as error:  # such as too little memory for another instance
                result = CandidateResult(rate_per_s=None, p99_ms=None, words=str(error))
            tries.append((candidate, result))
            longest_s = max(longest_s, time.monotonic() - before_s)
            if result.server_gone:
                log.reasons.append(
                    Reason(
                        rule="server gone",
                        found=f"{candidate}: {result.words}".rstrip("."),
                        advice="See why its server ended; the winner may not be the best configuration.",
                    )
                )
            return result

        winner, why = None, "the search was interrupted"
        precisions = tuple(artifact.precision for artifact in manifest.accepted)
        try:
            winner, why = search_candidates(
                precisions,
                manifest.max_batch,
                options,
                try_candidate,
                has_time=has_time,
                progress=progress,
            )
            log.note(None if winner is None else _doubts_reason(tries[winner][1].doubts))
        finally:
            devices = dict.fromkeys(result.device for _, result in tries if result.device)
            log.tuning = Tuning(
                device=" + ".join(devices) or "unknown",
                limit_p99_ms=options.limit_p99_ms,
                steps=tuple(
                    TuningStep(
                        **asdict(candidate),
                        held_rate_per_s=result.rate_per_s,
                        p99_ms=result.p99_ms,
                        note=result.words,
                    )
                    for candidate, result in tries
                ),
                winner=winner,
                why=why,
            )

    return report_of_run(measure, title=f"Tuning within {options.limit_p99_ms:g} ms", command=command)


def winner_of(report: Report, base: RepositoryOptions) -> RepositoryOptions | None:
    """Return the repository options of a report's winner, `base` for the rest; None if nothing won."""
    tuning = report.tuning
    if tuning is None or tuning.winner is None:
        return None
    step = tuning.steps[tuning.winner]
    return Candidate(**step.model_dump(include=set(Candidate.__annotations__))).options(base)


def write_winner(manifest: Manifest, folder: Path, repository: Path, options: RepositoryOptions) -> None:
    """Rewrite an export of a repository with the winner's options, after lint has passed a copy of it.

    Other exports and versions stay as they are.

    Args:
        manifest: The repository's own record when it was measured, refused precisions included.
        folder: The export's folder.
        repository: The repository to rewrite.
        options: The winner's options.

    Raises:
        ManifestError: the repository's record is missing.
        UsageError: the repository no longer holds an export of that name.
        RepositoryError: the repository has another export now, it cannot be written, or lint has findings. It
            is unchanged then.
    """
    if packed_export(repository, manifest.model.name).manifest != manifest:
        raise RepositoryError(
            str(repository),
            got="another export than before the measurement",
            expected="the export that was measured",
            next_step="Run tune again; the repository was not changed.",
        )
    with folder_beside(folder) as beside:
        trial = beside / "model_repository"
        write_repository(manifest, folder, trial, options)
        raise_if_findings(repository, lint(trial))
    write_repository(manifest, folder, repository, options, replace="version")


def measure_candidate(
    candidate: Candidate,
    manifest: Manifest,
    folder: Path,
    options: TuningOptions,
    base: RepositoryOptions,
    reference: ExportPredictions,
    open_server: Callable[[Path], Server] = EmbeddedServer,
) -> CandidateResult:
    """Serve a configuration, and search the highest rate within the limit.

    Args:
        candidate: The configuration.
        manifest: The record of the export; only the candidate's precision is served.
        folder: The export's folder.
        options: The limit, and how long to measure.
        base: Repository options that are not searched.
        reference: The export's own outputs.
        open_server: Makes the server of a repository.

    Raises:
        KeyboardInterrupt: Ctrl-C, also when it came during a load.
        RepositoryError: the repository cannot be written.
        ServerError: the server does not start.
    """
    artifacts = tuple(a for a in manifest.artifacts if a.precision == candidate.precision)
    model = network_name(manifest.model.name, candidate.precision)
    with folder_beside(folder) as beside:
        repository = beside / "model_repository"
        only = manifest.model_copy(update={"artifacts": artifacts})
        write_repository(only, folder, repository, candidate.options(base))
        try:
            with (
                open_server(repository) as server,
                open_server_bench(server.grpc_url, timing=options.timing, reference=reference) as bench,
            ):
                estimate = bench.measure(Load(model=model, loop=ESTIMATE_LOOP))
                _raise_if_interrupted(estimate)
                per_s = estimate.row.throughput.value
                found = search_rate(bench, model, 1, options.search, estimate_per_s=per_s)
        except ClientError as error:
            gone = isinstance(error, SERVER_GONE)
            return CandidateResult(rate_per_s=None, p99_ms=None, words=str(error), server_gone=gone)
    if found.last is not None:
        _raise_if_interrupted(found.last)
    if isinstance(found.error, KeyboardInterrupt):
        raise found.error
    held = max((p for p in found.record.probes if p.held), key=lambda p: p.rate_per_s, default=None)
    return CandidateResult(
        rate_per_s=found.record.rate_per_s,
        doubts=held.note if held else "",
        p99_ms=found.record.p99_ms,
        words=found.record.words,
        device=found.record.engine.device,
        server_gone=found.last is not None or isinstance(found.error, SERVER_GONE),
    )


def _raise_if_interrupted(measured: MeasuredLoad) -> None:
    """Let Ctrl-C end the search; the load itself has caught it and made a row."""
    if measured.result.interrupted:
        raise KeyboardInterrupt


def search_candidates(
    precisions: Sequence[Precision],
    max_batch: int,
    options: TuningOptions,
    try_candidate: Callable[[Candidate], CandidateResult],
    *,
    has_time: Callable[[int], bool] = lambda _: True,
    progress: Progress = silent,
) -> tuple[int | None, str]:
    """Try every precision in the smallest configuration; then change the best one, one option at a time.

    A configuration is judged by the median of all its tries.

    Args:
        precisions: The precisions to choose from.
        max_batch: Largest batch of the export, which the smallest configuration has.
        options: The values to try.
        try_candidate: Measures one configuration.
        has_time: Whether there is time for so many more tries; without it only the first one is made.
        progress: Called before each try.

    Returns:
        The index of the winner's median try among all tries, None if no configuration held the limit; and the
        reasons in words.
    """
    changes = (
        [("max_batch", value) for value in options.max_batches if value < max_batch]
        + [("instances", value) for value in options.instances if value > 1]
        + [("queue_delay_us", value) for value in options.queue_delays_us if value > 0]
    )
    total = len(precisions) + len(changes)
    tries: list[Try] = []
    untried: list[str] = []

    def rate_of(candidate: Candidate, number: int) -> float | None:
        progress("configurations", number, total, str(candidate))
        tries.append((candidate, try_candidate(candidate)))
        return tries[-1][1].rate_per_s

    for number, precision in enumerate(precisions):
        if number and not has_time(1):
            untried.append(precision)
            continue
        rate_of(Candidate(precision=precision, max_batch=max_batch), number)
    best, result = max(tries, key=lambda tried: tried[1].rate_or_0, default=(None, None))
    if best is None or result is None or result.rate_per_s is None:
        progress("configurations", total, total)
        return None, _why_none(tries, options.limit_p99_ms)
    reasons = [f"{best.precision} has the highest rate of the precisions"] if len(tries) > 1 else []
    for number, (name, value) in enumerate(changes, start=len(precisions)):
        candidate = replace(best, **{name: value})  # type: ignore[arg-type]  # all values are integers
        what = f"{name.replace('_us', '').replace('_', ' ')} {value}"
        if not has_time(1):
            untried.append(what)
            continue
        before, after = _median_rate(best, tries), rate_of(candidate, number)
        if not _is_clear_gain(before, after):
            gain = "no rate within the limit" if after is None else f"{_times(before, after)}: no clear gain"
            reasons.append(f"{what} holds {gain}")
            continue
        if not has_time(2):
            reasons.append(f"{what} held {_times(before, after)}, but there was no time for a second try")
            continue
        again_before, again_after = rate_of(best, number), rate_of(candidate, number)
        if _is_clear_gain(again_before, again_after):
            best = candidate
            reasons.append(
                f"{what} holds {_times(before, after)}, in a second try {_times(again_before, again_after)}"
            )
        else:
            reasons.append(f"{what} held {_times(before, after)}, but not in a second try")
    progress("configurations", total, total)
    if untried:
        reasons.append(f"there was no time for {', '.join(untried)}")
    if best.instances == 1 and any(candidate.instances > 1 for candidate, _ in tries):
        reasons.append("so one instance is best here")
    indices = [index for index, (candidate, _) in enumerate(tries) if candidate == best]
    indices.sort(key=lambda index: tries[index][1].rate_or_0)
    return indices[(len(indices) - 1) // 2], "; ".join(reasons)


def _doubts_reason(doubts: str) -> Reason | None:
    """Label a winner that was measured under doubt."""
    if not doubts:
        return None
    return Reason(
        rule="machine busy" if any(rule in doubts for rule in DOUBTS) else "too few samples",
        found=f"the best configuration was measured with doubts: {doubts}",
        advice="Stop other programs on this machine, or give it more time (--minutes), and tune again.",
    )


def _median_rate(candidate: Candidate, tries: Sequence[Try]) -> float:
    """Images a second within the limit; a try that held no rate counts as 0."""
    return median(result.rate_or_0 for tried, result in tries if tried == candidate)


def _is_clear_gain(before: float | None, after: float | None) -> bool:
    return after is not None and after > CLEAR_GAIN * (before or 0.0)


def _times(before: float | None, after: float | None) -> str:
    if not before or after is None:
        return "a rate where the other has none"
    return f"{after / before:.2f} times as much"


def _why_none(tries: Sequence[Try], limit_p99_ms: float) -> str:
    measured = [(result.p99_ms, candidate) for candidate, result in tries if result.p99_ms is not None]
    if not measured:
        words = dict.fromkeys(result.words for _, result in tries)
        return f"no rate stayed within {limit_p99_ms:g} ms; {'; '.join(words)}"
    p99_ms, candidate = min(measured, key=lambda pair: pair[0])
    return f"no rate stayed within {limit_p99_ms:g} ms; the lowest p99 was {p99_ms:.4g} ms, of {candidate}"
