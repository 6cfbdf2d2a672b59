"""Classify one image and find out where the time went, for the page to show."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from alexnet_model.errors import ContractMismatch, ModelNotFound
from alexnet_model.manifest import PRECISIONS
from alexnet_model.model_names import decoder_name, network_name

from ..client import Client
from ..predictions import Classification
from ..served_model import ServedModel
from ..transports.error_rules import STATISTICS_REFUSED
from ..transports.transport import ModelStatistics

# Triton may count a request shortly after its reply.
_COUNT_DELAY_S = 0.25


@dataclass(frozen=True, kw_only=True)
class TimedClassification:
    """One image's classes, and the parts that add up to `total_ms`.

    Attributes:
        model: the model that was used.
        classes: best first.
        request_bytes: size of the request.
        total_ms: decoding here and the request, milliseconds.
        decode_ms: decoding here; 0 for a model that decodes on the server.
        queue_ms: in the server's queue, by its own count; None if the server does not report it.
        compute_ms: computing, likewise.
        network_ms: the rest of the request, likewise.
        counted: how many requests the server's count is a mean of; more than 1 if others were served too.
    """

    model: ServedModel
    classes: tuple[Classification, ...]
    request_bytes: int
    total_ms: float
    decode_ms: float
    queue_ms: float | None = None
    compute_ms: float | None = None
    network_ms: float | None = None
    counted: int = 0


def available_models(client: Client, name: str = "alexnet") -> tuple[ServedModel, ...]:
    """Return the models of an export that the server has, without models of the same name from elsewhere.

    Args:
        client: a client of the server.
        name: the name of the export.

    Raises:
        ContractMismatch: this version cannot use the contract of any of its models.
        ModelNotFound: it has none of the models.
        ClientError: no reply.
    """
    found = []
    mismatch: ContractMismatch | None = None
    models = (*(network_name(name, precision) for precision in PRECISIONS), name)
    for model in models:
        try:
            found.append(client.model(model))
        except ModelNotFound:
            continue
        except ContractMismatch as error:
            mismatch = mismatch or error
    if found:
        return tuple(found)
    raise mismatch or ModelNotFound(
        str(client.url),
        got=f"no model of {name}",
        expected=f"one of {', '.join(models)}",
        next_step="Serve what alexnet export wrote, and pass the --name that it was exported with.",
    )


def classify_with_timing(
    client: Client, model: str, encoded: bytes, *, name: str = "image", top: int = 5
) -> TimedClassification:
    """Classify one image.

    Args:
        client: a client of the server.
        model: the model's name on the server.
        encoded: the image file's content.
        name: how an error calls the image.
        top: how many classes to return.

    Raises:
        ImageError: the image cannot be read, here or by the server.
        ClientError: no reply.
    """
    served = client.model(model)
    image = io.BytesIO(encoded)
    image.name = name  # how errors call it
    before = _statistics(client, served)
    started = time.perf_counter()
    prepared = None if served.decodes else served.contract.prepared(image)  # (S, S, 3)
    decode_ms = 0.0 if prepared is None else 1e3 * (time.perf_counter() - started)
    (prediction,) = client.classify(image if prepared is None else prepared, model=model, top=top)
    if prediction.error is not None:
        raise prediction.error
    assert prediction.latency_ms is not None
    assert prediction.request_bytes is not None
    timed = TimedClassification(
        model=served,
        classes=prediction.classes,
        request_bytes=prediction.request_bytes,
        total_ms=decode_ms + prediction.latency_ms,
        decode_ms=decode_ms,
    )
    return timed if before is None else _with_server_times(timed, client, before)


def _with_server_times(
    timed: TimedClassification, client: Client, before: Mapping[str, ModelStatistics]
) -> TimedClassification:
    deadline = time.monotonic() + _COUNT_DELAY_S
    while True:
        after = _statistics(client, timed.model)
        if after is None:
            return timed
        requests = {name: after[name].requests - before[name].requests for name in before}
        if all(count > 0 for count in requests.values()):
            break
        # Negative if the model was reloaded.
        if time.monotonic() > deadline or any(count < 0 for count in requests.values()):
            return timed
        time.sleep(0.01)
    queue_ms = compute_ms = 0.0
    for name, count in requests.items():
        queue_ms += (after[name].queue_ns - before[name].queue_ns) / count / 1e6
        compute_ms += (_compute_ns(after[name]) - _compute_ns(before[name])) / count / 1e6
    # A mean of several requests may be longer than this request was.
    network_ms = max(0.0, timed.total_ms - timed.decode_ms - queue_ms - compute_ms)
    counted = max(requests.values())
    return replace(timed, queue_ms=queue_ms, compute_ms=compute_ms, network_ms=network_ms, counted=counted)


def _compute_ns(statistics: ModelStatistics) -> int:
    return statistics.compute_input_ns + statistics.compute_infer_ns + statistics.compute_output_ns


def _statistics(client: Client, served: ServedModel) -> dict[str, ModelStatistics] | None:
    """Counts of the models that do the work; None if the server refuses them."""
    names: tuple[str, ...] = (served.name,)
    if served.decodes:  # Triton counts queueing only in the models of the ensemble
        names = (decoder_name(served.name), f"{served.name}_{served.precision}")
    try:
        return {name: client.statistics(name) for name in names}
    except STATISTICS_REFUSED:
        return None
