"""`alexnet classify`: pictures in, class names out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonFlag

if TYPE_CHECKING:
    from alexnet_clients import Prediction


def classify_command(
    images: Annotated[list[str], typer.Argument(help="Picture files.", metavar="IMAGE...")],
    url: Annotated[str, typer.Option(help="Where the server listens.")] = "grpc://127.0.0.1:8001",
    model: Annotated[str, typer.Option(help="alexnet_fp32, alexnet_fp16 or alexnet_int8.")] = "alexnet_fp32",
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many classes to show.")] = 5,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.001, help="Seconds until a request must be answered.")
    ] = 30,
    as_json: JsonFlag = False,
) -> None:
    """Classify picture files. Exits 1 if any could not be answered; the others are answered all the same.

    Example: alexnet classify cat.jpg dog.png --top 3
    """
    from alexnet_clients import Client

    from .screen import note, say

    with Client(url, timeout_s=timeout_s) as client:
        predictions = client.classify(images, model=model, top=top)
    if as_json:
        typer.echo(json.dumps([_row(prediction, model) for prediction in predictions], indent=2))
    else:
        for prediction in predictions:
            if prediction.error:
                note(f"Error: {prediction.error}")
                continue
            say(prediction.picture)
            for found in prediction.classes:
                say(f"  {found.probability:7.2%}  {found.label}")
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(1)


def _row(prediction: Prediction, model: str) -> dict[str, Any]:
    return {
        "picture": prediction.picture,
        "model": model,
        "classes": [
            {"label": found.label, "index": found.index, "probability": found.probability}
            for found in prediction.classes
        ],
        "latency_ms": prediction.latency_ms,
        "request_bytes": prediction.request_bytes,
        "error": str(prediction.error) if prediction.error else None,
    }
