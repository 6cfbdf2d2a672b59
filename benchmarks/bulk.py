"""Measure bulk classification in this process: `python benchmarks/bulk.py demo/export`, in about a minute.

Prints images/s of the engine alone, of decoding alone, of one after the other, and of `classify_in_bulk`; and
how memory grows during the run. With --ray also the images/s of one actor of Ray on this machine.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_pipeline import bulk_model_from_export, classify_in_bulk
from alexnet_pipeline.bulk import BATCHES_PER_WORKER, BulkModel
from alexnet_pipeline.bulk_inputs import decoding_pool, default_workers, in_order, prepared_batch

DISTINCT = 500  # images; the others are links to them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path, help="the folder of an export, or a model repository")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--side", type=int, default=256, help="pixels of each side of the JPEG files")
    parser.add_argument("--alone", type=int, default=2000, help="images for engine and decoding alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes; 0 for threads")
    parser.add_argument("--ray", action="store_true")
    options = parser.parse_args()
    opened = partial(bulk_model_from_export, options.export.absolute())
    workers = options.workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = write_images(folder / "images", options.images, options.side)
        for repeat in range(options.repeats):
            with opened() as model:
                decode = alone(decoding, model, names[: options.alone], workers)
                engine = alone(compute, model, names[: options.alone], workers)
            memory: list[tuple[int, float]] = []
            bulk = in_bulk(names, opened, folder / f"bulk{repeat}", memory, workers=workers)
            both = Cost(engine.wall_s + decode.wall_s, engine.cpu_s + decode.cpu_s)
            say(f"run {repeat + 1}: {model.name}, batches of {model.batch}, {workers or 'no'} processes")
            say(f"  engine alone         {engine}")
            say(f"  decoding alone       {decode}")
            say(f"  one after the other  {both}")
            say(f"  bulk                 {bulk}")
            say(
                f"  ratio                {both.wall_s / bulk.wall_s:.2f} of the images/s, "
                f"{both.cpu_s / bulk.cpu_s:.2f} by CPU time"
            )
            say(f"  memory               {slope_of(memory)}")
            if options.ray:
                on_ray = in_bulk(names, opened, folder / f"ray{repeat}", [], ray="local")
                say(f"  bulk on Ray          {1 / on_ray.wall_s:8,.0f} images/s, without its start")


@dataclass(frozen=True)
class Cost:
    """Seconds for one image: by the clock, and of all CPUs."""

    wall_s: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{1 / self.wall_s:8,.0f} images/s, {self.cpu_s * 1000:.2f} ms of CPU time for each"


def cpu_s() -> float:
    """CPU time of this process and its workers, seconds."""
    used = sum(os.times()[:2])
    for child in active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def alone(work: Callable[..., Iterator[int]], model: BulkModel, names: list[str], workers: int) -> Cost:
    """Do one part of the work, and return its cost after the first quarter."""
    return between([(time.perf_counter(), cpu_s(), done) for done in work(model, names, workers)])


def between(seen: list[tuple[float, float, int]]) -> Cost:
    """The cost of an image after the first quarter, when processes and model have started."""
    first = next(item for item in seen if item[2] >= seen[-1][2] / 4)
    wall, cpu, images = (last - start for start, last in zip(first, seen[-1], strict=True))
    return Cost(wall / images, cpu / images)


def decoding(model: BulkModel, names: list[str], workers: int) -> Iterator[int]:
    parts = [tuple(names[start : start + model.batch]) for start in range(0, len(names), model.batch)]
    ahead = BATCHES_PER_WORKER * (workers or len(os.sched_getaffinity(0)))
    done = 0
    with decoding_pool(workers) as pool:
        for batch in in_order(pool, partial(prepared_batch, model.contract), parts, ahead):
            done += len(batch.names)
            yield done


def compute(model: BulkModel, names: list[str], _: int) -> Iterator[int]:
    batch = np.random.default_rng(0).integers(0, 256, (model.batch, *model.contract.image_shape), np.uint8)
    for done in range(model.batch, len(names) + 1, model.batch):
        model.probabilities(batch)
        yield done


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write_images(folder: Path, count: int, side: int) -> list[str]:
    """Write JPEG files of noise, and links to them."""
    folder.mkdir()
    names = [str(folder / f"{number:07}.jpg") for number in range(count)]
    for number, name in enumerate(names):
        if number < DISTINCT:
            Image.effect_noise((side, side), 20 + number % 80).convert("RGB").save(name)
        else:
            os.link(names[number % DISTINCT], name)
    return names


def in_bulk(
    names: list[str], opened: Any, out: Path, memory: list[tuple[int, float]], **options: Any
) -> Cost:
    seen: list[tuple[float, float, int]] = []
    every = max(1, len(names) // 200)

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        seen.append((time.perf_counter(), cpu_s(), done))
        if done // every > len(memory):
            memory.append((done, megabytes()))

    classify_in_bulk(names, opened, out, shards=10, progress=report, **options)
    return between(seen)


def megabytes() -> float:
    """Memory of this process and its workers that no other process shares, MB."""
    pids = [os.getpid(), *(child.pid for child in active_children())]
    lines = itertools.chain.from_iterable(
        Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in pids
    )
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def slope_of(memory: list[tuple[int, float]]) -> str:
    """The straight line through the second half of the measured memory."""
    half = memory[len(memory) // 2 :]
    slope, _ = np.polyfit([done for done, _ in half], [used for _, used in half], 1)
    return f"{half[-1][1]:,.0f} MB at the end, {slope * 10_000:+.1f} MB for each 10,000 images"


if __name__ == "__main__":
    main()
