"""`alexnet demo`: the whole path on data that ships with scikit-learn, without a GPU and without Docker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from alexnet_clients import Prediction
    from alexnet_model.manifest import Manifest
    from alexnet_serving import Server

QUICK_WIDTH = 0.25


def demo_command(
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"A network of width {QUICK_WIDTH}: its figures are not AlexNet's."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder that keeps everything.")] = Path("demo"),
    summary_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the summary as JSON.")
    ] = None,
) -> None:
    """Train on digits, export, serve on a real Triton, classify held-out pictures, measure. A few minutes.

    Example: alexnet demo --quick --out demo --json demo/summary.json
    """
    from alexnet_bench import measure
    from alexnet_export.pipeline import ExportOptions, export
    from alexnet_model.pretrained import checkpoint_from
    from alexnet_serving import EmbeddedServer, write_repository
    from alexnet_training import TrainingOptions, train

    from .screen import Bars, err, out as screen
    from .tables import print_export, print_measurements, print_training

    clock = Stopwatch()
    width = QUICK_WIDTH if quick else 1.0
    checkpoint_file, repository = out / "checkpoint.safetensors", out / "model_repository"

    screen.rule(f"1 train: AlexNet of width {width:g} on scikit-learn's digits", align="left")
    with clock("train"), Bars() as bars:
        training = train(TrainingOptions(data="digits", width=width), checkpoint_file, progress=bars)
    print_training(training)

    screen.rule("2 export: ONNX in three precisions, each proved to be the same model", align="left")
    with clock("export"), Bars() as bars:
        checkpoint = checkpoint_from(str(checkpoint_file))
        manifest = export(checkpoint, out / "export", ExportOptions(calibration="digits"), progress=bars)
        write_repository(manifest, out / "export", repository)
    print_export(manifest)

    screen.rule("3 serve: Triton Inference Server, embedded", align="left")
    with ExitStack() as running:
        with clock("start"), err.status("Starting Triton ..."):
            server = running.enter_context(EmbeddedServer(repository))
        screen.print(f"{server.grpc_url} serves {', '.join(server.models)}")
