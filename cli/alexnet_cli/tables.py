"""The tables that commands print, each within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.table import Table

from alexnet_model.errors import LISTED, listed
from alexnet_model.manifest import PRECISIONS, Artifact, Engine, Manifest, RunnerReport

from .screen import escaped, note, out, say
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from alexnet_bench import EngineRow, LoadRow, Report
    from alexnet_training import TrainingReport

    from .demo_images import ServedPredictions


def print_training(report: TrainingReport) -> None:
    """Print one line of results, and the first images that were left out."""
    test = report.test_accuracy
    resumed = f", {report.epochs_resumed} of them resumed" if report.epochs_resumed else ""
    classes = len(report.checkpoint.class_names)
    top_5 = f", top-5 {test.top_5_share:.1%}" if classes > 5 else ""
    without = f"; none of {escaped(listed(report.missing_classes))}" if report.missing_classes else ""
    say(
        f"Test accuracy {test.share:.1%} ({test.correct} of {test.images} test images{without})"
        f"{top_5}, {len(report.epochs)} epochs in {report.seconds:.0f} s{resumed}"
    )
    crops = report.ten_crop_accuracy
    if crops:
        top_5 = f", top-5 {crops.top_5_share:.1%}" if classes > 5 else ""
        say(f"Over ten crops of each image {crops.share:.1%} ({crops.correct} of {crops.images}){top_5}")
    _note_left_out("images and folders that cannot be read", [image.reason for image in report.unreadable])


def print_export(manifest: Manifest) -> None:
    """Print one row for each precision, then why the gate accepted or refused it.

    Args:
        manifest: The record of the export.
    """
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
        "[dim]parity: logits in the worst batch slot, compared with the image alone;\n"
        "signal: logits compared with PyTorch; agree: same top-1 class as PyTorch;\n"
        "flips: images that became wrong / right.[/dim]"
    )
    for artifact in manifest.artifacts:
        say(f"{artifact.precision}: {artifact.decision.reason}{_drop(artifact.reports[0])}")
        for report in artifact.reports:
            runtime = report.runtime
            say(
                f"  {runtime.name} on {runtime.device}, computes in {runtime.computes_in}: "
                f"{report.signal_to_noise_db:.1f} dB, parity {_parity(report)}, {report.images} images"
            )
    calibration = manifest.calibration
    if evaluation.missing_classes:
        missing, classes = evaluation.missing_classes, len(manifest.model.class_names)
        names = escaped(listed(missing))
        note(f"No image of {len(missing):,} of the {classes:,} classes was evaluated: {names}.")
    if calibration:
        _note_left_out("calibration images that cannot be read", calibration.unreadable)
        _note_left_out("calibration images that are evaluation images too", calibration.in_evaluation_too)
    _note_left_out("evaluation images that cannot be read", evaluation.unreadable)


def _note_left_out(what: str, reasons: Sequence[str]) -> None:
    if not reasons:
        return
    note(f"Left out {len(reasons):,} {what}:")
    for reason in reasons[:LISTED]:
        note(f"  {escaped(reason)}")
    if len(reasons) > LISTED:
        note(f"  and {len(reasons) - LISTED:,} more")


def print_engines(manifest: Manifest) -> None:
    """Print what each engine was built for and the gate's decision; nothing if there are no engines.

    Args:
        manifest: The record of the export.
    """
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
            ", ".join(passport.targets) or passport.gpu_name or ("CPU" if passport.cpu else ""),
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
            say(f"  checked on {engine.evaluated_on}")


def print_predictions(served: list[ServedPredictions]) -> None:
    """Print the first few predictions of FP32, and how many images each model classifies correctly."""
    for prediction, image in list(zip(served[0].predictions, served[0].images, strict=True))[:5]:
        best = prediction.best
        mark = "right" if best.label == image.label else f"wrong, it is {image.label}"
        say(f"{image.path.name}  ->  {best.label}  ({best.probability:.1%}, {mark})")
    say(f"{len(served[0].images)} images that training never saw, over gRPC:")
    table = _table(left=("model",), columns=("model", "correct", "top-1", "bytes per image"))
    for one in served:
        share = one.correct / len(one.images)
        table.add_row(one.model, str(one.correct), f"{share:.1%}", f"{one.request_bytes_per_image:,}")
    out.print(table)


def print_comparison(report: Report) -> None:
    """Print images per second in process and through the server, the verdict, and the ratios."""
    runtimes = {row.engine.precision: f"{row.engine.runtime} {row.engine.device}" for row in report.engines}
    loads = [row for row in report.loads if row.concurrency == 1]
    batches = sorted({row.batch for row in loads})
    sides: dict[str, Sequence[EngineRow | LoadRow]] = {"in process": report.engines, "server": loads}
    lines: dict[tuple[str, str, str], dict[int, EngineRow | LoadRow]] = {}
    for side, rows in sides.items():
        for row in rows:
            computed_by = f"{runtimes[row.engine.precision]} in {row.engine.computes_in}"
            lines.setdefault((str(row.engine.precision), computed_by, side), {})[row.batch] = row
    say(f"Images per second by batch, one call or request at a time; {report.environment.machine}:")
    table = _table(
        left=("precision", "computed by", "through"),
        columns=("precision", "computed by", "through", *map(str, batches), "ms at 1"),
    )
    for names, found in sorted(lines.items(), key=lambda line: PRECISIONS.index(line[0][0])):
        rates = [_rate(found.get(batch)) for batch in batches]
        table.add_row(*names, *rates, _median_ms(found.get(batches[0])))
    out.print(table)
    _print_verdict(report)
    say("Ratios within the same rounds (95% interval):")
    for figure_row in report.figures:
        figure = figure_row.figure
        ends = "" if figure.low is None or figure.high is None else f" ({figure.low:.2f}-{figure.high:.2f})"
        say(f"  {figure.value:.2f}{ends}  {figure_row.of}")
        engine = figure_row.engine
        if figure_row.name.endswith("/ fp32") and engine and (figure.low or figure.value) <= 1:
            say(
                f"  {engine.precision} is not clearly faster than fp32: {engine.runtime} on this "
                f"{engine.device}\n  computes it in {engine.computes_in}."
            )


def _print_verdict(report: Report) -> None:
    """Print VALID, or every reason of the run and of its rows with how many rows it concerns."""
    rows: tuple[EngineRow | LoadRow, ...] = (*report.engines, *report.loads)
    invalid = [row for row in rows if not row.verdict.is_valid]
    if report.verdict.is_valid and not invalid:
        say("Verdict: VALID")
        return
    say(f"Verdict: INVALID ({len(invalid)} of {len(rows)} rows, marked *)")
    found = {reason.rule: reason for row in invalid for reason in row.verdict.reasons}
    for reason in (*report.reasons, *found.values()):
        out.print(f"  {reason}", markup=False)


def _rate(row: EngineRow | LoadRow | None) -> str:
    if row is None:
        return "-"
    return f"{row.throughput.value:,.0f}{'' if row.verdict.is_valid else '*'}"


def _median_ms(row: EngineRow | LoadRow | None) -> str:
    return "-" if row is None or row.latencies.p50_ms is None else f"{row.latencies.p50_ms:.1f}"


def print_next_steps(repository: Path, clock: Stopwatch, *, quick: bool) -> None:
    """Print how long each stage took, and the commands to continue with."""
    stages = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in clock.seconds.items())
    say(f"\n{clock.total_s():.0f} s in all:\n  {stages}.")
    if quick:
        say("This was --quick, an eighth of the width. Without it: the full AlexNet.")
    say(f"Next:       alexnet serve --repository {quote(str(repository))}")
    export = quote(str(repository.parent / "export"))
    say(f"With a GPU: alexnet export {export} --runtime tensorrt --build docker")
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
        return "not checked"
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
