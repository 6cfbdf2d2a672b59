"""`alexnet serve`: serve a model repository with Triton Inference Server, in the foreground."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DEFAULT_REPOSITORY, RepositoryOption

if TYPE_CHECKING:
    from alexnet_serving import Server, ServerOptions, ServerTls, ServerTrace


TERMINATED = 128 + signal.SIGTERM


class ServerKind(StrEnum):
    EMBEDDED = "embedded"
    DOCKER = "docker"


def _port(what: str) -> typer.models.OptionInfo:
    option = typer.Option(
        min=0, max=65535, help=f"{what} port; 0 picks a free one.", metavar="PORT", rich_help_panel="Address"
    )
    assert isinstance(option, typer.models.OptionInfo)
    return option


def _pem(what: str) -> typer.models.OptionInfo:
    option = typer.Option(help=what, metavar="FILE", show_default=False, rich_help_panel="Encryption")
    assert isinstance(option, typer.models.OptionInfo)
    return option


def serve_command(
    kind: Annotated[
        ServerKind | None,
        typer.Option(
            "--with",
            help="docker: Triton's Docker image. embedded: Triton without Docker, on loopback only.",
            show_default="docker if a GPU can be used, else embedded",
        ),
    ] = None,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    grpc_port: Annotated[int, _port("gRPC")] = 8001,
    http_port: Annotated[int, _port("HTTP")] = 8000,
    metrics_port: Annotated[int, _port("Metrics")] = 8002,
    address: Annotated[
        str,
        typer.Option(
            help="IPv4 address to listen on; any but loopback needs Docker.", rich_help_panel="Address"
        ),
    ] = "127.0.0.1",
    tls_certificate: Annotated[
        Path | None, _pem("PEM certificate to encrypt gRPC with. HTTP then stays on loopback.")
    ] = None,
    tls_key: Annotated[Path | None, _pem("PEM private key of that certificate.")] = None,
    tls_client_ca: Annotated[
        Path | None, _pem("Serve only clients with a certificate of this CA (mutual TLS).")
    ] = None,
    shared_memory: Annotated[
        bool,
        typer.Option(
            "--shared-memory",
            help="Let clients on this machine send images through shared memory.",
        ),
    ] = False,
    trace_url: Annotated[
        str | None,
        typer.Option(
            help="Send OpenTelemetry spans of requests to this OTLP/HTTP receiver.",
            metavar="URL",
            show_default=False,
            rich_help_panel="Traces",
        ),
    ] = None,
    trace_rate: Annotated[
        int,
        typer.Option(
            min=0,
            help="Record one of N requests that belong to no trace of a client; 0 records none of them.",
            metavar="N",
            rich_help_panel="Traces",
        ),
    ] = 0,
    image: Annotated[
        str | None,
        typer.Option(help="Docker image to run.", show_default="pinned, chosen by the models"),
    ] = None,
    rebuild_if_needed: Annotated[
        bool,
        typer.Option(
            "--rebuild-if-needed",
            help="Rebuild engines that this server or GPU cannot load (Docker only).",
        ),
    ] = False,
    ready_timeout_s: Annotated[
        float,
        typer.Option(
            "--ready-timeout", min=1, help="Seconds to wait until every model is ready.", metavar="SECONDS"
        ),
    ] = 300,
) -> None:
    """Serve a model repository on Triton until Ctrl-C.

    Prints the URLs and the models once every model is ready.

    Example: alexnet serve --with embedded --repository model_repository
    """
    from alexnet_serving import (
        DockerServer,
        EmbeddedServer,
        devices_not_judged,
        models_without_queue_limit,
    )

    from .screen import err, note, say

    tls = _tls_from(tls_certificate, tls_key, tls_client_ca)
    trace = _trace_from(trace_url, trace_rate)
    docker_only = {"--image": image, "--rebuild-if-needed": rebuild_if_needed}
    kind = kind_of_server(kind, repository, docker_only)
    options: ServerOptions = {
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": metrics_port,
        "address": address,
        "tls": tls,
        "shared_memory": shared_memory,
        "trace": trace,
        "ready_timeout_s": ready_timeout_s,
    }
    server: Server
    if kind is ServerKind.DOCKER:
        server = DockerServer(repository, image=image, **options)
    else:
        server = EmbeddedServer(repository, **options)
    _check_repository(repository, image, rebuild_if_needed=rebuild_if_needed)
    with ExitStack() as running:
        with err.status(f"Starting Triton with {', '.join(server.models)} ..."):
            running.enter_context(server)
        signals = running.enter_context(_interrupting(server))
        say(f"gRPC     {server.grpc_url}")
        say(f"HTTP     {server.http_url}")
        say(f"metrics  {server.metrics_url}")
        if trace is not None:
            say(f"traces   {trace.url}")
        say(f"ready    {', '.join(server.models)}")
        if shared_memory:
            note("Shared memory is open: every process that reaches a port can use any region of it.")
        for sentence in devices_not_judged(repository):
            note(sentence)
        if models_without_queue_limit(repository):
            note("Queues have no limit. An overloaded server needs one: alexnet export ... --queue-size N")
        _print_next_command(server, tls)
        note("Stop with Ctrl-C.")
        server.wait()
    if signal.SIGTERM in signals:
        raise typer.Exit(TERMINATED)


@contextmanager
def _interrupting(server: Server) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM stop the server, and a second one kill it; yield a list of those received.

    An exception from a signal handler could leave a lock in a wrong state, so this one raises none.
    """
    received: list[int] = []

    def note_signal(number: int, _: FrameType | None) -> None:
        if not received:
            with suppress(OSError):  # a closed terminal
                os.write(sys.stderr.fileno(), b"Stopping ...\n")  # without a lock, unlike print
        received.append(number)
        server.interrupt()

    previous = {number: signal.signal(number, note_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tls_from(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    """Return the TLS files of the three options; None without any.

    Raises:
        UsageError: the certificate or the key is missing.
    """
    from alexnet_model.errors import UsageError
    from alexnet_serving import ServerTls

    if certificate is not None and key is not None:
        return ServerTls(certificate, key, client_ca)
    given = {"--tls-certificate": certificate, "--tls-key": key, "--tls-client-ca": client_ca}
    if not any(given.values()):
        return None
    missing = "--tls-certificate" if certificate is None else "--tls-key"
    raise UsageError(
        missing,
        got=f"nothing beside {next(name for name, path in given.items() if path)}",
        expected="the certificate and its key together",
        next_step=f"Add {missing} FILE.",
    )


def _trace_from(url: str | None, rate: int) -> ServerTrace | None:
    """Return the receiver of the two options; None without any.

    Raises:
        UsageError: the URL is missing or has another form.
    """
    from alexnet_model.errors import UsageError
    from alexnet_serving import ServerTrace

    if url is not None:
        return ServerTrace(url=url, rate=rate)
    if not rate:
        return None
    raise UsageError(
        "--trace-rate",
        got="no --trace-url",
        expected="both",
        next_step="Add --trace-url URL of the receiver.",
    )


def _print_next_command(server: Server, tls: ServerTls | None) -> None:
    """Print a command that classifies an image; with TLS, its URL has a name of the certificate."""
    from .screen import note

    url, credentials = server.grpc_url, ""
    if tls is not None:
        note("Triton encrypts gRPC only: HTTP and metrics stay on loopback.")
        credentials = " --ca FILE --cert FILE --key FILE" if tls.client_ca else " --ca FILE"
        host = url.removeprefix("grpcs://").partition(":")[0]
        names = tls.names()
        if names and host not in names:
            note(f"The certificate is for {', '.join(names)}, not for {host}.")
            here = [name for name in names if name == "localhost" and host == "127.0.0.1"]
            others = [name for name in names if name != "localhost" and not {"*", ":"} & set(name)]
            url = url.replace(host, [*here, *others, host][0])
    note(f"Next: alexnet classify IMAGE --url {url}{credentials} --model {server.models[0]}")


def kind_of_server(
    requested: ServerKind | None,
    repository: Path,
    docker_only: Mapping[str, object],
    *,
    doing: str = "Serving",
) -> ServerKind:
    """Return the requested kind, or print and return the one that fits the repository.

    Args:
        requested: The value of --with.
        repository: The repository.
        docker_only: Options, by name, that need Docker.
        doing: What the command does with the server, for the line that is printed.

    Raises:
        UsageError: one of them is given for the embedded server.
    """
    from alexnet_model.errors import UsageError
    from alexnet_serving import choice_of_server, models_of_repository

    from .screen import note

    models_of_repository(repository)  # raises if there is nothing to serve
    kind = requested
    if kind is None:
        choice = choice_of_server(repository)
        kind = ServerKind(choice.kind)
        note(f"{doing} with {choice.kind}: {choice.reason}.")
    given = [name for name, value in docker_only.items() if value]
    if given and kind is ServerKind.EMBEDDED:
        raise UsageError(
            given[0],
            got="the embedded server",
            expected="a server in Docker",
            next_step="Add --with docker.",
        )
    return kind


def _check_repository(repository: Path, image: str | None, *, rebuild_if_needed: bool) -> None:
    """Lint the repository before a server starts, since Triton's own messages say less.

    With `rebuild_if_needed`, engines that are broken or do not load on this machine are built again.

    Raises:
        RepositoryError: lint found an error that new engines do not fix.
        PrecisionRefused, EngineError, DockerError: the engines cannot be built again.
    """
    from alexnet_model.docker import release_of_image
    from alexnet_model.triton_image import TRITON_IMAGE
    from alexnet_pipeline import engine_refusal, rebuild_engines
    from alexnet_serving import lint, raise_if_findings

    from .screen import Bars, in_megabytes, note
    from .tables import print_engines

    release = release_of_image(image) if image else None
    image = image or TRITON_IMAGE
    with Bars() as bars:
        findings = lint(repository, triton_release=release, progress=in_megabytes(bars))
    if not rebuild_if_needed or not all(finding.about_engine for finding in findings):
        raise_if_findings(repository, findings, image=image)
        return
    refusal = None if findings else engine_refusal(repository, image)
    if not findings and refusal is None:
        return
    note(f"Rebuilding: {findings[0] if findings else refusal}")
    with Bars() as bars:
        manifests = rebuild_engines(repository, image, progress=bars)
    for manifest in manifests:
        print_engines(manifest)
