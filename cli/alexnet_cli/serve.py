"""`alexnet serve`: the model repository on a real Triton Inference Server, in the foreground."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import RepositoryOption


class ServerKind(StrEnum):
    EMBEDDED = "embedded"


def _port(what: str) -> typer.models.OptionInfo:
    option = typer.Option(min=0, max=65535, help=f"{what}; 0 takes a free port.")
    assert isinstance(option, typer.models.OptionInfo)
    return option


def serve_command(
    kind: Annotated[
        ServerKind, typer.Option("--with", help="embedded: Triton without Docker, on loopback only.")
    ] = ServerKind.EMBEDDED,
    repository: RepositoryOption = Path("model_repository"),
    grpc_port: Annotated[int, _port("gRPC")] = 8001,
    http_port: Annotated[int, _port("HTTP")] = 8000,
    metrics_port: Annotated[int, _port("Metrics")] = 8002,
    ready_timeout_s: Annotated[
        float, typer.Option("--ready-timeout", min=1, help="Seconds until every model must be ready.")
    ] = 120,
) -> None:
    """Serve a model repository until Ctrl-C; says where it listens and which models are ready.

    Example: alexnet serve --with embedded --repository model_repository --grpc-port 8001
    """
    from alexnet_serving import EmbeddedServer

    from .screen import err, note, say

    server = EmbeddedServer(
        repository,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        ready_timeout_s=ready_timeout_s,
    )
    with ExitStack() as running:
        with err.status(f"Starting Triton with {', '.join(server.models)} ..."):
            running.enter_context(server)
        say(f"gRPC     {server.grpc_url}")
        say(f"HTTP     {server.http_url}")
        say(f"metrics  {server.metrics_url}")
        say(f"ready    {', '.join(server.models)}")
        note(f"Next: alexnet classify PICTURE --url {server.grpc_url} --model {server.models[0]}")
        note("Stop with Ctrl-C.")
        try:
            server.wait()
        except KeyboardInterrupt:
            note("Stopping ...")
