"""The tables that commands print, each within 80 columns."""

from __future__ import annotations

from rich.table import Table

from alexnet_model.manifest import Artifact, Manifest

from .screen import out


def print_export(manifest: Manifest) -> None:
    """A row a precision, then why each was accepted or refused."""
    evaluation = manifest.evaluation
    table = Table(
        title=f"{manifest.model.architecture} on {evaluation.pictures} {evaluation.source} pictures "
        f"({evaluation.part}), {manifest.machine}",
        title_justify="left",
        pad_edge=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in ("precision", "MB", "parity", "signal", "agree", "top-1 (95%)", "flips", "verdict"):
        table.add_column(name, justify="left" if name in ("precision", "verdict") else "right", no_wrap=True)
    for artifact in manifest.artifacts:
        table.add_row(*_export_row(artifact))
    out.print(table)
    out.print(
        "[dim]parity: worst slot and batch against the picture alone; signal: logits against PyTorch;\n"
        "flips: to wrong / to right.[/dim]"
    )
    for artifact in manifest.artifacts:
        served = artifact.served_by
        out.print(
            f"{artifact.precision}: {artifact.verdict.reason} "
            f"({served.name} on {served.device}, computes in {served.computes_in})"
        )


def _export_row(artifact: Artifact) -> list[str]:
    report = artifact.reports[0]
    parity = min(row.against_alone_db for row in report.parity)
    return [
        artifact.precision,
        f"{artifact.size_bytes / 1e6:.1f}",
        "equal" if parity >= 200 else f"{parity:.0f} dB",
        f"{report.signal_to_noise_db:.1f} dB",
        f"{report.agreement:.1%}",
        _top1(report.top1, report.top1_interval),
        "-" if report.flips_to_wrong is None else f"{report.flips_to_wrong}/{report.flips_to_right}",
        "[green]served[/green]" if artifact.verdict.accepted else "[red]REFUSED[/red]",
    ]


def _top1(top1: float | None, interval: tuple[float, float] | None) -> str:
    if top1 is None or interval is None:
        return "-"
    return f"{top1:.1%} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"
