"""One image asked, with its classes and where its time went: what the page shows, without the page."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from alexnet_model.errors import BadRequest, ContractMismatch, ForeignServer, ModelNotFound
from alexnet_model.manifest import PRECISIONS

from ..client import Client
from ..replies import Classification
from ..served_model import ServedModel
from ..transports.transport import ModelStatistics

OFFERED = (*(f"alexnet_{precision}" for precision in PRECISIONS), "alexnet")
# The first half of the model that takes encoded images. Triton counts the queueing in its halves only.
DECODER = "alexnet_decode"
# Triton may count a request just after it was answered.
_COUNTED_AFTER_S = 0.25
# A server whose proxy, or whose own options, keep its statistics from us answers images all the same.
_WITHHELD = (BadRequest, ForeignServer, ModelNotFound)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a model answered, and how long each part took: together they are `total_ms`.

    `queue_ms` and `compute_ms` are the server's own count, `network_ms` is the rest of the request; all three
    are None where the server does not tell. If others asked the same model meanwhile, the server's count is
    a mean of `counted` requests.
    """

    model: ServedModel
    classes: tuple[Classification, ...]
    request_bytes: int
    total_ms: float
    decode_ms: float  # of decoding and preparing here; 0 for a model that decodes on the server
    queue_ms: float | None = None
    compute_ms: float | None = None
    network_ms: float | None = None
    counted: int = 0


def offered_models(client: Client) -> tuple[ServedModel, ...]:
    """Those of this project's models that the server has. Another project's of the same name is none.

    Raises:
        ContractMismatch: there is nothing but models of another contract.
        ModelNotFound: there is none at all.
        ClientError: no answer.
    """
    found = []
    foreign: ContractMismatch | None = None
    for name in OFFERED:
        try:
            found.append(client.model(name))
        except ModelNotFound:
            continue
        except ContractMismatch as error:
            foreign = foreign or error
    if found:
        return tuple(found)
    raise foreign or ModelNotFound(
        str(client.url),
        got="none of this project's models",
        expected=f"one of {', '.join(OFFERED)}",
        next_step="Serve what alexnet export wrote.",
    )


def ask(client: Client, model: str, encoded: bytes, *, name: str = "image", top: int = 5) -> Asked:
    """Ask for one image's classes, `name` being what an error calls it.

    Raises:
        ImageError: the image cannot be read, here or by the server.
        ClientError: no answer.
    """
    served = client.model(model)
    image = _NamedBytes(encoded, name)
    before = _statistics(client, served)
    started = time.perf_counter()
    prepared = None if served.decodes else client.contract.prepared(image)  # (224, 224, 3)
    decode_ms = 0.0 if prepared is None else 1e3 * (time.perf_counter() - started)
    (prediction,) = client.classify(image if prepared is None else prepared, model=model, top=top)
    if prediction.error is not None:
        raise prediction.error
    assert prediction.latency_ms is not None
    assert prediction.request_bytes is not None
    asked = Asked(
        model=served,
        classes=prediction.classes,
        request_bytes=prediction.request_bytes,
        total_ms=decode_ms + prediction.latency_ms,
        decode_ms=decode_ms,
    )
    return asked if before is None else _with_the_servers_count(asked, client, before)


class _NamedBytes(io.BytesIO):
    """A file in memory that errors can name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _with_the_servers_count(asked: Asked, client: Client, before: Mapping[str, ModelStatistics]) -> Asked:
    deadline = time.monotonic() + _COUNTED_AFTER_S
    while True:
        after = _statistics(client, asked.model)
        if after is None:
            return asked
        requests = {name: after[name].requests - before[name].requests for name in before}
        if all(count > 0 for count in requests.values()):
            break
        # Fewer than before, if the model was loaded anew.
        if time.monotonic() > deadline or any(count < 0 for count in requests.values()):
            return asked
        time.sleep(0.01)
    queue_ms = compute_ms = 0.0
    for name, count in requests.items():
        queue_ms += (after[name].queue_ns - before[name].queue_ns) / count / 1e6
        compute_ms += (_compute_ns(after[name]) - _compute_ns(before[name])) / count / 1e6
    # A mean of several requests may be longer than this one was.
    network_ms = max(0.0, asked.total_ms - asked.decode_ms - queue_ms - compute_ms)
    counted = max(requests.values())
    return replace(asked, queue_ms=queue_ms, compute_ms=compute_ms, network_ms=network_ms, counted=counted)


def _compute_ns(statistics: ModelStatistics) -> int:
    return statistics.compute_input_ns + statistics.compute_infer_ns + statistics.compute_output_ns


def _statistics(client: Client, served: ServedModel) -> dict[str, ModelStatistics] | None:
    """By the models that do the work; None where the server does not tell."""
    names = (DECODER, f"alexnet_{served.precision}") if served.decodes else (served.name,)
    try:
        return {name: client.statistics(name) for name in names}
    except _WITHHELD:
        return None
