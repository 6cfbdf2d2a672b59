"""What the clients cost: a folder against its parts, many requests against raw ones, a call, an import.

Ratios are taken within a round, whose parts run within seconds of each other, and every other round runs
backwards. The server must be on this machine and have nothing else to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from PIL import Image

from alexnet_clients import Client
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.extras import needs
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision, Record

from . import client_loops as loops

ROUNDS = 5
SLICE_S = 2.0
ASYNC_IN_FLIGHT = 64
SHARED_BATCHES = (1, 8, 32)
CALLS = 3000
IMPORTS = 15


class ClientFigure(Record):
    """The median of the rounds, with the lowest and the highest, and the bound that it is held to."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    bound: float | None  # None: for information
    must_be: Literal["at least", "at most"]
    rounds: int

    @property
    def holds(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.must_be == "at least" else self.value <= self.bound


class ClientFigures(Record):
    """One run. `rates_per_s` are medians of images a second, what the ratios were made from."""

    machine: str
    versions: dict[str, str]
    model: str
    computes_in: str
    images: str
    figures: tuple[ClientFigure, ...]
    rates_per_s: dict[str, float]
    seconds: float


def client_figures(
    url: str, precision: Precision, folder: Path, *, progress: Progress = silent
) -> ClientFigures:
    """Measure against the server at `url`, with the JPEGs in `folder`; about two minutes.

    Raises:
        ClientError: the server cannot be reached, or did not answer.
        BadResponse: an image of the folder was not answered, so its rate would be of something else.
    """
    started = time.perf_counter()
    paths = sorted(folder.glob("*.jpg"))
    model = f"alexnet_{precision}"
    with Client(url) as client:
        served = client.model(model)
    batch, at_once = served.max_batch, ASYNC_IN_FLIGHT
    of_folder = in_turn(
        {
            "decode alone": lambda: loops.decoded_per_s(paths),
            "serve alone": lambda: loops.served_per_s(
                url, served, precision, batch=batch, in_flight=2, seconds=SLICE_S
            ),
            "folder": lambda: loops.classified_per_s(url, model, folder, len(paths)),
        },
        progress,
        "folder against its parts",
    )
    of_async = in_turn(
        {
            "raw requests": lambda: loops.plain_grpc_per_s(url, model, in_flight=at_once, seconds=SLICE_S),
            "AsyncClient": lambda: asyncio.run(
                loops.asked_per_s(url, model, in_flight=at_once, seconds=SLICE_S)
            ),
        },
        progress,
        "AsyncClient against raw requests",
    )
    shared = {
        size: _repeated(
            ROUNDS,
            partial(loops.shared_memory_ratio, url, model, batch=size, requests=max(4, 120 // size)),
            progress,
            f"shared memory, batch {size}",
        )
        for size in SHARED_BATCHES
        if size <= batch
    }
    call_us = _repeated(ROUNDS, lambda: loops.call_us(CALLS), progress, "calls")
    import_ms = _repeated(IMPORTS, loops.import_ms, progress, "imports")
    parts = zip(of_folder["folder"], of_folder["decode alone"], of_folder["serve alone"], strict=True)
    of_slower, of_both = zip(
        *((whole / min(decode, serve), whole * (1 / decode + 1 / serve)) for whole, decode, serve in parts),
        strict=True,
    )
    of_raw = [ours / raw for ours, raw in zip(of_async["AsyncClient"], of_async["raw requests"], strict=True)]
    return ClientFigures(
        machine=machine_name(),
        versions=versions_of("aiohttp", "grpcio", "numpy", "openvino", "pillow", "tritonclient"),
        model=model,
        computes_in=served.computes_in,
        images=f"{len(paths)} JPEGs, {sum(path.stat().st_size for path in paths) / 1e6:.1f} MB",
        figures=(
            _at_least(0.9, "folder / the slower of decode alone and serve alone", of_slower),
            _at_least(0.9, "folder / decode and serve one after the other", of_both),
            _at_least(0.95, f"AsyncClient / raw requests, {ASYNC_IN_FLIGHT} in flight", of_raw),
            *(
                _at_most(None, f"shared memory / gRPC, latency of a batch of {size}", ratios)
                for size, ratios in shared.items()
            ),
            _at_most(150, "a call, batch 1, without network and server", call_us, "us"),
            _at_most(150, "import alexnet_clients", import_ms, "ms"),
        ),
        rates_per_s={name: round(median(rates), 1) for name, rates in {**of_folder, **of_async}.items()},
        seconds=time.perf_counter() - started,
    )


def write_jpegs(folder: Path, count: int) -> None:
    """All of scikit-learn's digits, enlarged, then crops of its two sample photographs: `count` JPEGs.

    Raises:
        MissingExtra: scikit-learn is not installed.
        OSError: the folder cannot be written.
    """
    with needs("train"):
        from sklearn.datasets import load_digits, load_sample_images
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits().images  # (1797, 8, 8), 0..16
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    random = np.random.default_rng(0)
    for index in range(count):
        if index < len(digits):
            grey = np.rint(digits[index] * (255 / 16)).astype(np.uint8)
            image = Image.fromarray(grey).resize((64, 64), Image.Resampling.BICUBIC)
        else:
            photograph = photographs[index % len(photographs)]
            width, height = random.integers(256, 428, 2)
            left, top = random.integers(0, (photograph.width - width, photograph.height - height + 1))
            image = photograph.crop((left, top, left + width, top + height))
        image.save(folder / f"{index:05d}.jpg", quality=90)


def in_turn(
    parts: Mapping[str, Callable[[], float]], progress: Progress, stage: str
) -> dict[str, list[float]]:
    """Every part once a round, forwards and backwards in turn. The first round only warms up."""
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(ROUNDS + 1):
        progress(stage, number, ROUNDS + 1)
        for name in list(parts)[:: 1 if number % 2 == 0 else -1]:
            rate = parts[name]()
            if number:
                rates[name].append(rate)
    progress(stage, ROUNDS + 1, ROUNDS + 1)
    return rates


def _repeated(count: int, measure: Callable[[], float], progress: Progress, stage: str) -> list[float]:
    values = []
    for number in range(count):
        progress(stage, number, count)
        values.append(measure())
    progress(stage, count, count)
    return values


def _at_least(bound: float | None, name: str, values: Sequence[float], unit: str = "") -> ClientFigure:
    return _figure(name, values, unit, bound, "at least")


def _at_most(bound: float | None, name: str, values: Sequence[float], unit: str = "") -> ClientFigure:
    return _figure(name, values, unit, bound, "at most")


def _figure(
    name: str,
    values: Sequence[float],
    unit: str,
    bound: float | None,
    must_be: Literal["at least", "at most"],
) -> ClientFigure:
    return ClientFigure(
        name=name,
        value=median(values),
        low=min(values),
        high=max(values),
        unit=unit,
        bound=bound,
        must_be=must_be,
        rounds=len(values),
    )
