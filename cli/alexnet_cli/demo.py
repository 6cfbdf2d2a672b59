"""`alexnet demo`: train, export, serve, classify and measure, without a GPU and without Docker."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_model.errors import UsageError

from .options import JsonFlag
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from alexnet_bench import Report
    from alexnet_model.manifest import Manifest
    from alexnet_training import TrainingReport

    from .demo_images import ServedPredictions

QUICK_WIDTH = 0.125
MAX_BATCHES = (64, 32, 16)
_IN_SUMMARY = {  # of the report of the runtime that serves a precision
    *("signal_to_noise_db", "agreement", "top1", "top1_interval", "top1_drop", "top1_drop_interval"),
    *("flips_to_wrong", "flips_to_right"),
}


def demo_command(
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"Use a network of width {QUICK_WIDTH}; its figures are not AlexNet's."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for all files of the demo.")] = Path("demo"),
    as_json: JsonFlag = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the summary to this file as JSON.", metavar="FILE")
    ] = None,
) -> None:
    """Train on digits, export, serve on Triton, classify and measure.

    It takes a few minutes. With --json, the tables go to standard error.

    Example: alexnet demo --quick --out demo --output demo/summary.json
    """
    clock = Stopwatch()
    from alexnet_bench import compare_with_server
    from alexnet_clients import Client
    from alexnet_export import refuse_foreign_export
    from alexnet_model.files import write_text_atomically
    from alexnet_model.model_names import network_name
    from alexnet_pipeline import ExportOptions, export_model
    from alexnet_serving import EmbeddedServer, refuse_foreign_repository, wheel_of_this_python
    from alexnet_training import TrainingOptions, train

    from .demo_images import ServedPredictions, write_test_images
    from .screen import Bars, err, note, say
    from .screen import out as screen
    from .tables import print_comparison, print_export, print_next_steps, print_predictions, print_training

    screen.stderr = as_json
    width = QUICK_WIDTH if quick else 1.0
    checkpoint_file, repository = out / "checkpoint.safetensors", out / "model_repository"

    # Fail now, not minutes later.
    if out.exists() and not out.is_dir():
        raise UsageError("--out", got=f"the file {out}", expected="a folder")
    wheel_of_this_python()
    max_batch = _max_batch_here()
    refuse_foreign_export(out / "export")
    refuse_foreign_repository(repository)

    screen.rule(f"1/5 train: AlexNet of width {width:g} on scikit-learn's digits", align="left")
    with clock("train"), Bars() as bars:
        options = TrainingOptions(data="digits", width=width)
        training = train(options, checkpoint_file, resume=False, progress=bars)
    print_training(training)

    screen.rule("2/5 export: ONNX in three precisions, each compared with PyTorch", align="left")
    with clock("export"), Bars() as bars:
        options_of_export = ExportOptions(
            calibration="digits",
            out=out / "export",
            repository=repository,
            max_batch=max_batch,
            runtime="openvino",  # without it, a machine with a GPU would compile for minutes
        )
        manifest = export_model(training.checkpoint, options_of_export, progress=bars).manifest
    print_export(manifest)

    with ExitStack() as opened:
        screen.rule("3/5 serve: Triton Inference Server, embedded", align="left")
        with clock("start"), err.status("Starting Triton ..."):
            server = opened.enter_context(EmbeddedServer(repository))
        say(f"{server.grpc_url} serves")
        say(f"  {', '.join(server.models)}")

        screen.rule("4/5 classify: test images from PNG files over gRPC", align="left")
        with clock("classify"):
            images = write_test_images(out / "images")
            with Client(server.grpc_url) as client:
                name = manifest.model.name
                models = [network_name(name, artifact.precision) for artifact in manifest.accepted]
                paths = [image.path for image in images]
                predictions = [
                    ServedPredictions(model, client.classify(paths, model=model, top=3), images)
                    for model in models
                ]
        print_predictions(predictions)

        screen.rule("5/5 measure: in process and through the server", align="left")
        with clock("measure"), Bars() as bars:
            report = compare_with_server(
                manifest, out / "export", server.grpc_url, command="alexnet demo", progress=bars
            )
        print_comparison(report)

    print_next_steps(repository, clock, quick=quick)
    summary = json.dumps(_summary(training, manifest, predictions, report, clock), indent=2)
    if as_json:
        typer.echo(summary)
    if output is not None:
        write_text_atomically(output, summary + "\n")
        note(f"Wrote {output}.")


def _max_batch_here() -> int:
    """Return the largest batch that the server has shared memory for: 64, or less in a small container.

    Raises:
        ServerError: there is too little for any.
    """
    from alexnet_serving import memory_of_default_export

    from .screen import note

    for max_batch in MAX_BATCHES:
        memory = memory_of_default_export(max_batch)
        if memory.fits:
            break
    memory.check()
    if max_batch < MAX_BATCHES[0]:
        note(f"Batches of at most {max_batch} images: /dev/shm is too small for {MAX_BATCHES[0]}.")
    return max_batch


def _summary(
    training: TrainingReport,
    manifest: Manifest,
    predictions: list[ServedPredictions],
    report: Report,
    clock: Stopwatch,
) -> dict[str, Any]:
    """Collect all results, with units in the names; accuracies are shares 0..1."""
    return {
        "schema_version": 2,
        "machine": manifest.machine,
        "versions": manifest.versions,
        "architecture": manifest.model.architecture,
        "options": manifest.model.options,
        "parameters": manifest.model.parameters,
        "test_accuracy": training.test_accuracy.share,
        "precisions": {
            artifact.precision: {
                "size_bytes": artifact.size_bytes,
                "accepted": artifact.decision.accepted,
                "reason": artifact.decision.reason,
                "served_by": artifact.served_by.model_dump(),
                **artifact.reports[0].model_dump(mode="json", include=_IN_SUMMARY),
            }
            for artifact in manifest.artifacts
        },
        "served_over_grpc": {
            served.model: {
                "correct": served.correct,
                "images": len(served.images),
                "request_bytes_per_image": served.request_bytes_per_image,
            }
            for served in predictions
        },
        "measurements": report.model_dump(mode="json"),
        "seconds": {**clock.seconds, "total": round(clock.total_s(), 1)},
    }
