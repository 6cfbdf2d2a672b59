"""How to serve: a small, explained search over instances, queue delay, largest batch and precision.

Every configuration is served for real, on an embedded server of its own, and its answers are held to the
export's in process.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from alexnet_clients import ServerUrl, transport_from_url
from alexnet_model.errors import ClientError, RepositoryError, ServerError
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

from .candidates import Candidate, Held, TuningOptions, search_candidates
from .figures.verdicts import Reason
from .loads.generators import Workers
from .loads.load_results import GONE
from .loads.measuring import ServerBench
from .loads.plans import ClosedLoop
from .loads.rows import Measured
from .loads.searching import SearchOptions
from .reference_predictions import ExportPredictions
from .runs import Log, report_of_run
from .schema import Report, Tuning, TuningStep

_ESTIMATE_AT = ClosedLoop(concurrency=16)


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
    truth = ExportPredictions(manifest, folder)
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


def _held_by(
    candidate: Candidate,
    manifest: Manifest,
    folder: Path,
    options: TuningOptions,
    base: RepositoryOptions,
    truth: ExportPredictions,
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
