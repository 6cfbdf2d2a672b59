"""The tables that commands print, each within 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from alexnet_model.manifest import Artifact, Engine, Manifest, RunnerReport

from .screen import note, out, say
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from alexnet_bench import Measurements
    from alexnet_training import TrainingReport

    from .held_out import Answers


def print_training(report: TrainingReport) -> None:
    """One line of result, and every image that was left out."""
    held_out = report.held_out
    resumed = f", {report.epochs_resumed} of them resumed" if report.epochs_resumed else ""
    say(
        f"Held-out accuracy {held_out.share:.1%} ({held_out.correct} of {held_out.images} images), "
        f"{len(report.epochs)} epochs in {report.seconds:.0f} s{resumed}"
    )
    if report.unreadable:
        note(f"Left out {len(report.unreadable)} unreadable images:")
        for image in report.unreadable:
            note(f"  {image.reason}")


def print_export(manifest: Manifest) -> None:
    """A row a precision, then why each was accepted or refused."""
    evaluation = manifest.evaluation
    say(
        f"{manifest.model.architecture} on {evaluation.images} images of {evaluation.source} "
        f"({evaluation.part}), {manifest.machine}:"
    )
    table = _table(
        left=("precision", "verdict"),
        columns=("precision", "MB", "parity", "signal", "agree", "top-1 (95%)", "flips", "verdict"),
    )
    for artifact in manifest.artifacts:
        table.add_row(*_export_row(artifact))
    out.print(table)
    out.print(
        "[dim]parity: the worst slot of any batch against the image alone;\n"
        "signal: logits against PyTorch; flips: to wrong / to right.[/dim]"
    )
    for artifact in manifest.artifacts:
        say(f"{artifact.precision}: {artifact.decision.reason}{_drop(artifact.reports[0])}")
        for report in artifact.reports:
            runtime = report.runtime
            say(
                f"  {runtime.name} on {runtime.device}, computes in {runtime.computes_in}: "
                f"{report.signal_to_noise_db:.1f} dB, parity {_parity(report)}"
            )
    calibration = manifest.calibration
    for what, unreadable in (
        ("calibration", calibration.unreadable if calibration else ()),
        ("evaluation", evaluation.unreadable),
    ):
        if unreadable:
            note(f"Left out {len(unreadable)} unreadable {what} images:")
            for name in unreadable:
                note(f"  {name}")


def print_engines(manifest: Manifest) -> None:
    """A row an engine, what it was built for, and its verdict; nothing where there is none."""
    engines = [(artifact, engine) for artifact in manifest.artifacts for engine in artifact.engines]
    if not engines:
        return
    say("Engines:")
    table = _table(
        left=("precision", "for", "verdict"),
        columns=("precision", "for", "MB", "seconds", "parity", "signal", "agree", "verdict"),
    )
    for artifact, engine in engines:
        passport, report = engine.passport, engine.report
        table.add_row(
            artifact.precision,
            ", ".join(passport.targets) or passport.gpu_name or "",
            f"{passport.engine_size_bytes / 1e6:.1f}",
            f"{passport.build_seconds:.1f}",
            _parity(report) if report else "-",
            f"{report.signal_to_noise_db:.1f} dB" if report else "-",
            f"{report.agreement:.1%}" if report else "-",
            _engine_verdict(engine),
        )
    out.print(table)
    for _, engine in engines:
        passport = engine.passport
        say(f"{engine.file}: {engine.decision.reason if engine.decision else 'no GPU here can run it'}")
        say(f"  {passport.built_for}, batches {passport.profile.min} to {passport.profile.max}")
        if engine.evaluated_on:
            say(f"  judged on {engine.evaluated_on}")


def print_answers(answers: list[Answers]) -> None:
    """How many held-out images each served model names rightly, and the first few with FP32's answers."""
    for prediction, image in list(zip(answers[0].predictions, answers[0].images, strict=True))[:5]:
        best = prediction.best
        mark = "right" if best.label == image.label else f"wrong, it is {image.label}"
        say(f"{image.path.name}  ->  {best.label}  ({best.probability:.1%}, {mark})")
    say(f"{len(answers[0].images)} images that training never saw, over gRPC:")
    table = _table(
        left=("model",),
        columns=("model", "right", "top-1", "bytes an image"),
    )
    for answer in answers:
        total = len(answer.images)
        table.add_row(
            answer.model,
            str(answer.right),
            f"{answer.right / total:.1%}",
            f"{answer.request_bytes_per_image:,}",
        )
    out.print(table)


def print_measurements(measurements: Measurements) -> None:
    """Images a second by batch, then the ratios that were taken side by side."""
    rows = [row for row in measurements.rows if row.case.in_flight == 1]
    batches = sorted({row.case.batch for row in rows if row.case.through == "server"})
    say(f"Images a second by batch, one request at a time; {measurements.machine}:")
    table = _table(
        left=("precision", "computed by", "through"),
        columns=("precision", "computed by", "through", *map(str, batches), "ms at 1"),
    )
    lines = dict.fromkeys((row.case.precision, row.case.through) for row in rows)
    for precision, through in lines:
        found = {r.case.batch: r for r in rows if (r.case.precision, r.case.through) == (precision, through)}
        first = found[batches[0]]
        computed_by = f"{first.case.runtime} {first.case.device} in {first.case.computes_in}"
        rates = [f"{found[batch].throughput_per_s:,.0f}" for batch in batches]
        table.add_row(precision, computed_by, through, *rates, f"{first.latency_p50_ms:.1f}")
    out.print(table)
    say("Ratios taken side by side (lowest to highest round):")
    for ratio in (*measurements.precisions, *measurements.serving):
        against = str(ratio.against).removeprefix(f"{ratio.of.precision} ")
        say(f"  {ratio.ratio:.2f} ({ratio.ratio_low:.2f}-{ratio.ratio_high:.2f})  {ratio.of} / {against}")
    for ratio in measurements.precisions:
        if ratio.verdict != "faster":
            case = ratio.of
            say(
                f"{case.precision} is not faster than fp32 here: {case.runtime} on this {case.device} "
                f"computes it in {case.computes_in}."
            )


def print_next_steps(repository: Path, clock: Stopwatch, *, quick: bool) -> None:
    """Where the time went, how to go on by hand, and what a GPU owner does."""
    stages = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in clock.seconds.items())
    say(f"\n{clock.total_s():.0f} s in all:\n  {stages}.")
    if quick:
        say("This was --quick, a quarter of AlexNet's width; leave it out for AlexNet.")
    say(f"Go on:      alexnet serve --repository {repository}")
    say(f"With a GPU: alexnet export {repository.parent / 'export'} --engine docker")
    say("            builds TensorRT engines from the same three ONNX files.")


def _table(*, left: tuple[str, ...], columns: tuple[str, ...]) -> Table:
    table = Table(pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def _export_row(artifact: Artifact) -> list[str]:
    report = artifact.reports[0]
    return [
        artifact.precision,
        f"{artifact.size_bytes / 1e6:.1f}",
        _parity(report),
        f"{report.signal_to_noise_db:.1f} dB",
        f"{report.agreement:.1%}",
        _top1(report.top1, report.top1_interval),
        "-" if report.flips_to_wrong is None else f"{report.flips_to_wrong}/{report.flips_to_right}",
        "[green]served[/green]" if artifact.decision.accepted else "[red]REFUSED[/red]",
    ]


def _engine_verdict(engine: Engine) -> str:
    if engine.decision is None:
        return "not judged"
    return "[green]accepted[/green]" if engine.decision.accepted else "[red]REFUSED[/red]"


def _parity(report: RunnerReport) -> str:
    worst = min(row.against_alone_db for row in report.parity)
    return "equal" if worst >= 200 else f"{worst:.0f} dB"


def _drop(report: RunnerReport) -> str:
    if report.top1_drop is None or report.top1_drop_interval is None:
        return ""
    low, high = report.top1_drop_interval
    return f" (top-1 falls by {100 * report.top1_drop:.2f} points, 95%: {100 * low:.2f} to {100 * high:.2f})"


def _top1(top1: float | None, interval: tuple[float, float] | None) -> str:
    if top1 is None or interval is None:
        return "-"
    return f"{top1:.1%} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"
