"""Observers of a client, over real gRPC and HTTP: spans, metrics, and the ids of requests in errors."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry

from alexnet_clients import AsyncClient, Call, Client, FakeTransport, Metrics, Tracing
from alexnet_model.errors import (
    BadRequest,
    BadResponse,
    ClientError,
    DeadlineExceeded,
    MissingExtra,
    NotReady,
    Overloaded,
)

from ..waiting import wait_until
from .http_transport.http_server import HttpServer, Reply
from .http_transport.http_server import config as http_config
from .http_transport.http_server import infer as http_infer
from .wire_server import WireServer, infer, served

IMAGES = np.zeros((2, 224, 224, 3), np.uint8)
MODEL = "alexnet_int8"


class Recorder:
    """An observer that keeps the calls that have ended."""

    def __init__(self) -> None:
        self.ended: list[Call] = []

    def __call__(self, call: Call) -> Callable[[], None]:
        call.headers["x-observed"] = call.request_id
        return lambda: self.ended.append(call)

    @property
    def only(self) -> Call:
        (call,) = self.ended
        return call


def is_child_of(*, span: trace.SpanContext, traceparent: str) -> bool:
    version, trace_id, parent_id, flags = traceparent.split("-")
    is_sampled = int(flags, 16) & 1 == 1
    return (version, int(trace_id, 16), int(parent_id, 16)) == (
        "00",
        span.trace_id,
        span.span_id,
    ) and is_sampled


class Spans:
    """A tracer provider that keeps the spans that have ended."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@contextmanager
def http_server(infer: Callable[[Any], Reply] = http_infer) -> Iterator[tuple[HttpServer, list[Any]]]:
    """An HTTP server, and the requests for inference that it has received."""
    received: list[Any] = []

    def handle(request: Any) -> Reply:
        received.append(request)
        return infer(request)

    server = HttpServer({"config": http_config, "ready": lambda _: Reply(), "infer": handle})
    with server.running():
        yield server, received


def test_the_span_of_a_grpc_request_is_the_parent_of_the_servers_span(wire_server: WireServer) -> None:
    spans = Spans()
    tracer = spans.provider.get_tracer("application")
    observer = Tracing(spans.provider)
    with (
        Client(wire_server.url, observers=[observer]) as client,
        tracer.start_as_current_span("application"),
    ):
        client.probabilities(IMAGES, model=MODEL)
    sent, application = spans.ended
    assert sent.parent == application.get_span_context()
    assert sent.kind is trace.SpanKind.CLIENT
    assert sent.name == "inference.GRPCInferenceService/ModelInfer"
    request = next(each for each in wire_server.received if hasattr(each, "inputs"))
    assert sent.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": wire_server.port,
        "triton.model_name": MODEL,
        "triton.model_version": "",
        "triton.request_id": request.id,
        "alexnet.images": 2,
        "alexnet.retries": 0,
    }
    context = sent.get_span_context()
    assert context is not None
    assert is_child_of(span=context, traceparent=wire_server.metadata[-1]["traceparent"])
    others = [each for each in wire_server.metadata[:-1] if "traceparent" in each]
    assert others == [], "only requests for inference are observed"


def test_the_span_of_an_http_request_is_the_parent_of_the_servers_span() -> None:
    spans = Spans()
    with (
        http_server() as (server, received),
        Client(server.url, observers=[Tracing(spans.provider)]) as client,
    ):
        client.probabilities(IMAGES, model=MODEL)
    (span,) = spans.ended
    context = span.get_span_context()
    assert context is not None
    assert span.name == "POST /v2/models/{model}/infer"
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == "POST"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["server.port"] == server.port
    headers = {name.lower(): value for name, value in received[0].headers.items()}
    assert is_child_of(span=context, traceparent=headers["traceparent"])


def test_the_asynchronous_client_continues_the_trace_of_each_task(fake: FakeTransport) -> None:
    spans = Spans()
    tracer = spans.provider.get_tracer("application")

    async def task(client: AsyncClient, name: str) -> None:
        with tracer.start_as_current_span(name):
            await asyncio.sleep(0)
            await client.probabilities(IMAGES)

    async def main() -> None:
        observers = [Tracing(spans.provider)]
        async with AsyncClient("grpc://127.0.0.1:8001", transport=fake, observers=observers) as client:
            await asyncio.gather(*(task(client, str(number)) for number in range(8)))

    asyncio.run(main())
    ours = [span for span in spans.ended if span.kind is trace.SpanKind.CLIENT]
    parents = {span.parent.span_id for span in ours if span.parent is not None}
    assert len(ours) == len(parents) == 8


def test_a_trace_that_is_not_sampled_sends_no_header(wire_server: WireServer) -> None:
    spans = Spans(sampler=ALWAYS_OFF)
    with Client(wire_server.url, observers=[Tracing(spans.provider)]) as client:
        client.probabilities(IMAGES, model=MODEL)
    assert spans.ended == ()
    assert "traceparent" not in wire_server.metadata[-1]


def test_without_a_configured_sdk_the_callers_context_is_still_passed_on(wire_server: WireServer) -> None:
    parent = trace.SpanContext(0xAB, 0xCD, is_remote=True, trace_flags=trace.TraceFlags(1))
    observer = Tracing(trace.NoOpTracerProvider())
    with (
        Client(wire_server.url, observers=[observer]) as client,
        trace.use_span(trace.NonRecordingSpan(parent)),
    ):
        client.probabilities(IMAGES, model=MODEL)
    assert wire_server.metadata[-1]["traceparent"] == f"00-{0xAB:032x}-{0xCD:016x}-01"


def test_a_failed_request_is_an_error_of_its_span(wire_server: WireServer) -> None:
    def refuse(request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a bad shape")

    wire_server.handlers["ModelInfer"] = refuse
    spans = Spans()
    with Client(wire_server.url, observers=[Tracing(spans.provider)]) as client, pytest.raises(BadRequest):
        client.probabilities(IMAGES, model=MODEL)
    (span,) = spans.ended
    assert span.attributes is not None
    assert span.attributes["error.type"] == "BadRequest"
    assert "rpc.response.status_code" not in span.attributes
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "a bad shape" in str(span.status.description)


def test_attempts_at_one_server_and_at_several_are_counted(fake: FakeTransport) -> None:
    recorder = Recorder()
    with Client("grpc://127.0.0.1:8001", transport=fake, observers=[recorder]) as client:
        client.model("alexnet_fp32")
        fake.failures.extend(Overloaded("fake", got="a full queue") for _ in range(2))
        client.probabilities(IMAGES)
    assert (recorder.only.attempts, recorder.only.retries, recorder.only.error) == (3, 2, None)
    assert recorder.only.version == "1"
    assert recorder.only.duration_s > 0


def test_a_request_that_moves_to_another_server_has_one_span_and_one_id() -> None:
    recorder = Recorder()
    with served() as (a, first), served() as (b, second):

        def refuse(request: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Server is stopping")

        with Client(f"grpc://{first},{second}", observers=[recorder]) as client:
            for _ in range(2):
                client.probabilities(IMAGES, model=MODEL)
            a.handlers["ModelInfer"] = refuse
            for _ in range(2):
                client.probabilities(IMAGES, model=MODEL)
    moved = [call for call in recorder.ended if call.retries]
    assert [call.attempts for call in moved] == [2]
    assert moved[0].server == f"grpc://{second}"
    ids = [[each.id for each in wire.received if hasattr(each, "inputs")] for wire in (a, b)]
    assert set(ids[0]) & set(ids[1]) == {moved[0].request_id}
    assert len({call.request_id for call in recorder.ended}) == 4
    assert any(each.get("x-observed") == moved[0].request_id for each in a.metadata)
    assert any(each.get("x-observed") == moved[0].request_id for each in b.metadata)


def test_a_cancelled_request_ends_too(fake: FakeTransport) -> None:
    recorder = Recorder()
    with Client("grpc://127.0.0.1:8001", transport=fake, observers=[recorder]) as client:
        client.model("alexnet_fp32")
        fake.hold()
        held = fake._held
        assert held is not None

        def answer_one_of_two() -> None:
            wait_until(lambda: len(held) == 2, "two requests are open")
            held.pop(0)()

        threading.Thread(target=answer_one_of_two).start()
        stream = client.classify_each(iter([IMAGES[0]] * 64), in_flight=2)
        next(stream)
        stream.close()
    assert {type(call.error) for call in recorder.ended} == {type(None), CancelledError}


def test_an_observer_that_fails_does_not_hold_a_permit(fake: FakeTransport) -> None:
    def broken(call: Call) -> Callable[[], None]:
        raise RuntimeError("a bug of the application")

    with Client("grpc://127.0.0.1:8001", transport=fake, observers=[broken], max_in_flight=1) as client:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="a bug of the application"):
                client.probabilities(IMAGES)


def test_an_observer_that_fails_at_the_start_ends_those_before_it(fake: FakeTransport) -> None:
    recorder = Recorder()

    def broken(call: Call) -> Callable[[], None]:
        raise RuntimeError("a bug of the application")

    with (
        Client("grpc://127.0.0.1:8001", transport=fake, observers=[recorder, broken]) as client,
        pytest.raises(RuntimeError, match="a bug of the application"),
    ):
        client.probabilities(IMAGES)
    assert [str(call.error) for call in recorder.ended] == ["a bug of the application"]


def test_an_observer_that_fails_at_the_end_does_not_keep_others_from_it(fake: FakeTransport) -> None:
    recorder = Recorder()

    def broken(call: Call) -> Callable[[], None]:
        return lambda: 1 / 0  # type: ignore[return-value]

    with Client("grpc://127.0.0.1:8001", transport=fake, observers=[recorder, broken, recorder]) as client:
        client.probabilities(IMAGES)
    assert [call.error for call in recorder.ended] == [None, None]


def test_a_request_that_cannot_be_sent_ends_too(fake: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with Client("grpc://127.0.0.1:8001", transport=fake, observers=[recorder]) as client:
        client.model("alexnet_fp32")
        monkeypatch.setattr(client._retrier, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.probabilities(IMAGES)
    assert [type(call.error) for call in recorder.ended] == [KeyboardInterrupt]


def value_of(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"alexnet_client_{name}", {"model": "alexnet_fp32", **labels})


def test_metrics_count_requests_images_retries_and_errors() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)  # for both clients
    fake = FakeTransport()
    with Client("grpc://127.0.0.1:8001", transport=fake, observers=[metrics]) as client:
        for _ in range(4):
            client.probabilities(IMAGES)
        fake.failures.append(NotReady("fake", got="starting"))
        client.probabilities(IMAGES)
    fake = FakeTransport(delay_s=60)
    with Client("grpc://127.0.0.1:8001", transport=fake, observers=[metrics]) as client:
        client.model("alexnet_fp32")
        client.timeout_s = 0.3
        with pytest.raises(DeadlineExceeded):
            client.probabilities(IMAGES)
    assert value_of(registry, "request_duration_seconds_count") == 6
    assert value_of(registry, "images_total") == 10
    assert value_of(registry, "retries_total") == 1
    assert value_of(registry, "errors_total", error="DeadlineExceeded") == 1
    seconds = value_of(registry, "request_duration_seconds_sum")
    assert seconds is not None
    assert 0.04 <= seconds < 50


@pytest.mark.parametrize(("observer", "module"), [(Tracing, "opentelemetry"), (Metrics, "prometheus_client")])
def test_without_the_extra_the_error_names_it(
    observer: type[Tracing | Metrics], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"alexnet-serving\[telemetry\]"):
        observer()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_errors_name_the_id_that_was_sent(protocol: str) -> None:
    """Also where Triton's own text names it."""
    sent: list[str] = []

    def refuse(request: Any, context: Any) -> Any:
        sent.append(request.id)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"[request id: {request.id}] unexpected shape")

    def refuse_http(received: Any) -> Reply:
        sent.append(received.json["id"])
        text = f"[request id: {sent[-1]}] unexpected shape"
        return Reply(json.dumps({"error": text}).encode(), 400)

    with served() as (wire, address), http_server(refuse_http) as (server, _):
        wire.handlers["ModelInfer"] = refuse
        url = f"grpc://{address}" if protocol == "grpc" else server.url
        with Client(url) as client, pytest.raises(BadRequest) as caught:
            client.probabilities(IMAGES, model=MODEL)
    assert re.fullmatch(r"[0-9a-f]{8}-1", sent[0])
    assert str(caught.value).startswith(f"{url} {MODEL}, request {sent[0]}: got unexpected shape, expected")


def test_an_invalid_reply_names_the_id(wire_server: WireServer) -> None:
    def wrong(request: Any, context: Any) -> Any:
        response = infer(request, context)
        response.raw_output_contents[0] = np.full((2, 10), np.nan, "<f4").tobytes()
        return response

    wire_server.handlers["ModelInfer"] = wrong
    with Client(wire_server.url) as client, pytest.raises(BadResponse, match=rf"{MODEL}, request \w+-1: "):
        client.probabilities(IMAGES, model=MODEL)


def test_errors_of_other_calls_name_no_id(wire_server: WireServer) -> None:
    def refuse(request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.NOT_FOUND, "[request id: <id_unknown>] unknown model")

    wire_server.handlers["ModelConfig"] = refuse
    with Client(wire_server.url) as client, pytest.raises(ClientError) as caught:
        client.model("cat")
    assert "request" not in str(caught.value)
