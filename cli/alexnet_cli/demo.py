"""`alexnet demo`: the whole path on data that ships with scikit-learn, without a GPU and without Docker."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from alexnet_bench import Measurements
    from alexnet_model.manifest import Manifest
    from alexnet_training import TrainingReport

    from .held_out import Answers

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
    """Train on digits, export, serve on a real Triton, classify held-out images, measure. A few minutes.

    Example: alexnet demo --quick --out demo --json demo/summary.json
    """
    clock = Stopwatch()

    from alexnet_bench import measure
    from alexnet_clients import Client
    from alexnet_export import OnnxOptions, export_onnx
    from alexnet_export.onnx_export import refuse_foreign
    from alexnet_model.files import write_text_atomically
    from alexnet_serving import EmbeddedServer, refuse_foreign_repository, write_repository
    from alexnet_serving.servers.tritonserver import wheel_of_this_python
    from alexnet_training import TrainingOptions, train

    from .held_out import Answers, write_held_out_images
    from .screen import Bars, err, note, say
    from .screen import out as screen
    from .tables import print_answers, print_export, print_measurements, print_next_steps, print_training

    width = QUICK_WIDTH if quick else 1.0
    checkpoint_file, repository = out / "checkpoint.safetensors", out / "model_repository"

    # What would fail at the end fails now.
    wheel_of_this_python()
    refuse_foreign(out / "export")
    refuse_foreign_repository(repository)

    screen.rule(f"1/5 train: AlexNet of width {width:g} on scikit-learn's digits", align="left")
    with clock("train"), Bars() as bars:
        options = TrainingOptions(data="digits", width=width)
        training = train(options, checkpoint_file, resume=False, progress=bars)
    print_training(training)

    screen.rule("2/5 export: ONNX in three precisions, each proved the same model", align="left")
    with clock("export"), Bars() as bars:
        manifest = export_onnx(
            training.checkpoint, out / "export", OnnxOptions(calibration="digits"), progress=bars
        )
    print_export(manifest)
    with clock("pack"):
        write_repository(manifest, out / "export", repository)

    with ExitStack() as running:
        screen.rule("3/5 serve: Triton Inference Server, embedded", align="left")
        with clock("start"), err.status("Starting Triton ..."):
            server = running.enter_context(EmbeddedServer(repository))
        say(f"{server.grpc_url} serves")
        say(f"  {', '.join(server.models)}")

        screen.rule("4/5 classify: held-out images from PNG files over gRPC", align="left")
        with clock("classify"):
            images = write_held_out_images(out / "images")
            with Client(server.grpc_url) as client:
                models = [f"alexnet_{artifact.precision}" for artifact in manifest.accepted]
                answers = [
                    Answers(model, client.classify([p.path for p in images], model=model, top=3), images)
                    for model in models
                ]
        print_answers(answers)

        screen.rule("5/5 measure: in process and through the server, side by side", align="left")
        with clock("measure"), Bars() as bars:
            measurements = measure(manifest, out / "export", server.grpc_url, progress=bars)
        print_measurements(measurements)

    print_next_steps(repository, clock, quick=quick)
    if summary_file:
        summary = _summary(training, manifest, answers, measurements, clock)
        write_text_atomically(summary_file, json.dumps(summary, indent=2) + "\n")
        note(f"Wrote {summary_file}.")


def _summary(
    training: TrainingReport,
    manifest: Manifest,
    answers: list[Answers],
    measurements: Measurements,
    clock: Stopwatch,
) -> dict[str, Any]:
    """Everything the demo found, with units in the names; accuracies are shares 0..1."""
    return {
        "schema_version": 1,
        "machine": manifest.machine,
        "versions": manifest.versions,
        "architecture": manifest.model.architecture,
        "width": manifest.model.width,
        "parameters": manifest.model.parameters,
        "held_out_accuracy": training.held_out.share,
        "precisions": {
            artifact.precision: {
                "size_bytes": artifact.size_bytes,
                "accepted": artifact.decision.accepted,
                "reason": artifact.decision.reason,
                "served_by": artifact.served_by.model_dump(),
                "signal_to_noise_db": artifact.reports[0].signal_to_noise_db,
                "agreement": artifact.reports[0].agreement,
                "top1": artifact.reports[0].top1,
                "top1_interval": artifact.reports[0].top1_interval,
                "top1_drop": artifact.reports[0].top1_drop,
                "top1_drop_interval": artifact.reports[0].top1_drop_interval,
                "flips_to_wrong": artifact.reports[0].flips_to_wrong,
                "flips_to_right": artifact.reports[0].flips_to_right,
            }
            for artifact in manifest.artifacts
        },
        "served_over_grpc": {
            answer.model: {
                "right": answer.right,
                "images": len(answer.images),
                "request_bytes_per_image": answer.request_bytes_per_image,
            }
            for answer in answers
        },
        "measurements": measurements.model_dump(),
        "seconds": {**clock.seconds, "total": round(clock.total_s(), 1)},
    }
