"""A real server's OpenTelemetry spans, and what is refused before a server starts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from alexnet_clients import Client, Tracing
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import UsageError
from alexnet_serving import DockerServer, EmbeddedServer, ServerTrace

MODEL = "alexnet_fp32"


class Collector:
    """Keeps the spans that are posted to it as OTLP in JSON."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[Collector]:
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in posted["resourceSpans"]:
                    for scope in resource["scopeSpans"]:
                        spans.extend(scope["spans"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as receiver:
            thread = threading.Thread(target=receiver.serve_forever)
            thread.start()
            self.url = f"http://127.0.0.1:{receiver.server_port}/v1/traces"
            try:
                yield self
            finally:
                receiver.shutdown()
                thread.join()

    def wait_for(self, name: str, count: int) -> list[dict[str, Any]]:
        """The spans of a name, as soon as there are so many of them."""
        until = time.monotonic() + 20
        while len(found := [span for span in self.spans if span["name"] == name]) < count:
            assert time.monotonic() < until, self.spans
            time.sleep(0.05)
        return found


@pytest.mark.slow
def test_the_servers_spans_continue_the_trace_of_the_client(on_onnxruntime: Path, images: Uint8Array) -> None:
    provider = TracerProvider()
    tracer, observers = provider.get_tracer("test"), [Tracing(provider)]
    with (
        Collector().running() as collector,
        EmbeddedServer(on_onnxruntime, trace=ServerTrace(url=collector.url)) as server,
    ):
        traces, ids = set(), []
        for url in (server.grpc_url, server.http_url):
            with Client(url) as untraced:
                untraced.probabilities(images[:1], model=MODEL)
            observed: list[Any] = []

            def keep(call: Any, observed: list[Any] = observed) -> Any:
                observed.append(call)
                return lambda: None

            with (
                tracer.start_as_current_span("application") as span,
                Client(url, observers=[*observers, keep]) as client,
            ):
                client.probabilities(images[:2], model=MODEL)
            traces.add(f"{span.get_span_context().trace_id:032x}")
            ids.append((observed[0].headers["traceparent"].split("-")[2], observed[0].request_id))
            assert observed[0].version == "1"
        requests = collector.wait_for("InferRequest", 2)
        models = collector.wait_for(MODEL, 2)
    assert {span["traceId"] for span in collector.spans} == traces, "and none of the others"
    assert [span["parentSpanId"] for span in requests] == [parent for parent, _ in ids]
    attributes = [{each["key"]: each["value"] for each in span["attributes"]} for span in models]
    assert [each["triton.request_id"]["stringValue"] for each in attributes] == [sent for _, sent in ids]


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://", "http://host:port/v1/traces"),
        *("http://host/v1/traces?token=1", "http://host/a,b", "http://host/a b", "http://host/#a"),
    ],
)
def test_a_url_that_triton_would_misread_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"URL for traces: got .*expected http://HOST:PORT/PATH"):
        ServerTrace(url=url)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        ServerTrace(url="http://me:secret@host:4318/v1/traces")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_container_cannot_send_to_its_own_loopback(host: str, repository: Path) -> None:
    with pytest.raises(UsageError, match=r"write host\.docker\.internal"):
        DockerServer(repository, trace=ServerTrace(url=f"http://{host}:4318/v1/traces"))
