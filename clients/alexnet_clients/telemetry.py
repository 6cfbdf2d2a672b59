"""Observers of a client's requests: OpenTelemetry spans (`Tracing`) and Prometheus metrics (`Metrics`).

An observer is a function. The client calls it with a `Call` before it sends a request, and calls the function
that it returned when the request has ended. A client without observers does neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from alexnet_model.extras import needs

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider
    from prometheus_client import CollectorRegistry

_GRPC_METHOD = "inference.GRPCInferenceService/ModelInfer"
_HTTP_PATH = "/v2/models/{model}/infer"
# Upper limits in seconds, from a small network on a GPU to the clients' default timeout.
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(kw_only=True)
class Call:
    """One request for inference with all its attempts, as an observer sees it.

    Attributes:
        model: the model's name on the server.
        images: how many images the request holds.
        request_id: sent with the request; Triton's log and spans, and the client's errors, name it.
        protocol: grpc or http.
        headers: an observer may add headers before the request is sent; names in lower case.
        attempts: how often it was sent so far, to the same server or to others.
        server: URL of the server that it was last sent to; empty until then.
        version: the model's version that replied; empty if the request failed.
        error: why the request failed, at its end: a `ClientError`, or `CancelledError` if it was cancelled.
        duration_s: from before the first attempt to the end, seconds; 0 until then.
    """

    model: str
    images: int
    request_id: str
    protocol: Literal["grpc", "http"]
    headers: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    server: str = ""
    version: str = ""
    error: BaseException | None = None
    duration_s: float = 0.0

    def send(self, server: str) -> Mapping[str, str]:
        """Count an attempt, for a transport that makes it, and return the headers to send with it.

        Args:
            server: URL of the server.
        """
        self.attempts += 1
        self.server = server
        return self.headers

    @property
    def retries(self) -> int:
        """How often the request was sent again."""
        return max(0, self.attempts - 1)


#: A function that is called before a request is sent, and returns a function to call at its end.
Observer: TypeAlias = Callable[[Call], Callable[[], object]]


def start_observing(call: Call, observers: Sequence[Observer]) -> Callable[[Future[Any]], None]:
    """Call each observer, and return the function to call with the future of a finished request.

    Every observer that was called is called at the end too, also if another one fails.

    Args:
        call: the request that is about to be sent.
        observers: of its client.
    """
    started = time.perf_counter()
    ends = ExitStack()
    try:
        for observer in observers:
            ends.callback(observer(call))
    except BaseException as error:
        call.error = error
        ends.close()
        raise

    def finish(future: Future[Any]) -> None:
        call.duration_s = time.perf_counter() - started
        call.error = CancelledError() if future.cancelled() else future.exception()
        if call.error is None:
            call.version = future.result().model_version
        ends.close()

    return finish


class Tracing:
    """An observer that opens an OpenTelemetry span for each request and sends its `traceparent`.

    The span's parent is the current span of the caller. So the server's spans, the client's and the
    application's are one trace. Headers are sent only for a span that is sampled: Triton 2.51 records every
    request that has a `traceparent`, also if that says that the trace is not sampled.

    >>> with Client("grpc://127.0.0.1:8001", observers=[Tracing()]) as client:  # doctest: +SKIP
    ...     client.classify("cat.jpg")

    Args:
        tracer_provider: gets the spans. Default: OpenTelemetry's global one.

    Raises:
        MissingExtra: the [telemetry] extra is not installed.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        with needs("telemetry"):
            from opentelemetry import propagate, trace
        self._trace = trace
        self._inject = propagate.inject
        self._tracer = trace.get_tracer("alexnet_clients", tracer_provider=tracer_provider)

    def __call__(self, call: Call) -> Callable[[], None]:
        """Start the span of a request and add its headers; return the function that ends it.

        Args:
            call: the request.
        """
        name = _GRPC_METHOD if call.protocol == "grpc" else f"POST {_HTTP_PATH}"
        span = self._tracer.start_span(name, kind=self._trace.SpanKind.CLIENT)
        if span.get_span_context().trace_flags.sampled:
            headers: dict[str, str] = {}
            self._inject(headers, context=self._trace.set_span_in_context(span))
            call.headers.update({name.lower(): value for name, value in headers.items()})

        def end() -> None:
            if span.is_recording():
                self._describe(span, call)
            span.end()

        return end

    def _describe(self, span: Span, call: Call) -> None:
        """Set attributes by OpenTelemetry's conventions for RPC and HTTP, and by the names of Triton."""
        server = urlsplit(call.server)
        attributes: dict[str, str | int] = {
            "triton.model_name": call.model,
            "triton.request_id": call.request_id,
            "alexnet.images": call.images,
            "alexnet.retries": call.retries,
        }
        if call.protocol == "grpc":
            attributes |= {"rpc.system.name": "grpc", "rpc.method": _GRPC_METHOD}
        else:
            attributes |= {"http.request.method": "POST", "url.template": _HTTP_PATH}
        if server.hostname is not None:
            attributes["server.address"] = server.hostname
            if server.port is not None:
                attributes["server.port"] = server.port
        if call.error is None:
            attributes["triton.model_version"] = call.version
            if call.protocol == "grpc":
                attributes["rpc.response.status_code"] = "OK"
            else:
                attributes["http.response.status_code"] = 200
        else:
            attributes["error.type"] = type(call.error).__name__
            span.set_status(self._trace.StatusCode.ERROR, str(call.error))
        span.set_attributes(attributes)


class Metrics:
    """An observer that counts requests for Prometheus, by model.

    - `alexnet_client_request_duration_seconds`: histogram of requests, failed ones too, with all attempts;
      its `_count` is the number of requests.
    - `alexnet_client_errors_total`: failed requests by `error`, the name of the exception's class.
    - `alexnet_client_retries_total`: how often requests were sent again.
    - `alexnet_client_images_total`: images in requests that succeeded.

    Make one for all clients of a process: a registry refuses a second metric of the same name.

    >>> with Client("grpc://127.0.0.1:8001", observers=[Metrics()]) as client:  # doctest: +SKIP
    ...     client.classify("cat.jpg")

    Args:
        registry: gets the metrics. Default: `prometheus_client.REGISTRY`.

    Raises:
        MissingExtra: the [telemetry] extra is not installed.
        ValueError: the registry has metrics of these names.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        with needs("telemetry"):
            import prometheus_client
        into = prometheus_client.REGISTRY if registry is None else registry
        self._duration_s = prometheus_client.Histogram(
            "alexnet_client_request_duration_seconds",
            "Duration of requests for inference, with all attempts.",
            ["model"],
            buckets=_BUCKETS_S,
            registry=into,
        )
        self._errors = prometheus_client.Counter(
            "alexnet_client_errors", "Failed requests.", ["model", "error"], registry=into
        )
        self._retries = prometheus_client.Counter(
            "alexnet_client_retries", "How often requests were sent again.", ["model"], registry=into
        )
        self._images = prometheus_client.Counter(
            "alexnet_client_images", "Images in requests that succeeded.", ["model"], registry=into
        )

    def __call__(self, call: Call) -> Callable[[], None]:
        """Return the function that counts a request at its end.

        Args:
            call: the request.
        """

        def end() -> None:
            self._duration_s.labels(call.model).observe(call.duration_s)
            self._retries.labels(call.model).inc(call.retries)
            if call.error is None:
                self._images.labels(call.model).inc(call.images)
            else:
                self._errors.labels(call.model, type(call.error).__name__).inc()

        return end
