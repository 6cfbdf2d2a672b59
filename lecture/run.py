"""Run the lecture's experiments and write docs/lecture.md: all, or one with --only NAME."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from alexnet_model.environment import machine_name, versions_of
from alexnet_model.extras import needs
from alexnet_model.files import write_text_atomically

with needs("lecture"):
    import torch

    from activations import ACTIVATION
    from counts import RATIO, ROOFLINE, SIZE
    from decades import DECADES
    from features import FEATURES
    from generalising import AUGMENTATION, DROPOUT, HIDDEN_WIDTH
    from halves import HALVES
    from kernels import KERNELS
    from page import write_page
    from pooling import POOLING
    from section import Experiment, Values

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "lecture" / "results"
DOCS = ROOT / "docs" / "lecture.md"
EXPERIMENTS: tuple[Experiment, ...] = (  # in the order of the page
    DECADES,
    KERNELS,
    FEATURES,
    ACTIVATION,
    POOLING,
    DROPOUT,
    AUGMENTATION,
    SIZE,
    HIDDEN_WIDTH,
    HALVES,
    RATIO,
    ROOFLINE,
)
SLOWEST = ("features", "kernels", "width", "dropout", "augmentation")  # these start first
DISTRIBUTIONS = ("torch", "numpy", "scikit-learn", "opencv-python-headless", "kornia", "matplotlib")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [experiment.name for experiment in EXPERIMENTS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; needs another --results folder")
    parser.add_argument("--no-run", action="store_true", help="only write the page of earlier results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument(
        "--docs", type=Path, default=DOCS, help="the page; its plots are in a folder beside it"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="experiments at a time; features and halves start processes of their own",
    )
    options = parser.parse_args(words)
    if options.quick and (options.results.resolve() == RESULTS or options.docs.resolve() == DOCS):
        parser.error(
            "--quick: got the folders of the full run; give --results FOLDER and --docs FOLDER/lecture.md"
        )
    if not options.no_run:
        run(options.only, options.results, quick=options.quick, workers=options.workers)
    write_page(EXPERIMENTS, options.results, options.docs)
    return 0


def run(names: Sequence[str], results: Path, *, quick: bool, workers: int) -> None:
    """Run experiments in processes of one thread each; write one JSON file for each."""
    order = sorted(names, key=lambda name: SLOWEST.index(name) if name in SLOWEST else len(SLOWEST))
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measured, name, quick): name for name in order}
        for future in as_completed(futures):
            name = futures[future]
            values = future.result()
            write_text_atomically(results / f"{name}.json", json.dumps(values, indent=1) + "\n")
            sys.stderr.write(
                f"{name}: {values['run']['seconds']:.0f} s, {values['run']['cpu_seconds']:.0f} s of CPU time\n"
            )


def measured(name: str, quick: bool) -> Values:
    """Run one experiment; return its values, with machine, versions and time under `run`."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    experiment = next(each for each in EXPERIMENTS if each.name == name)
    started, cpu_started, load = time.perf_counter(), _cpu_seconds(), os.getloadavg()[0]
    values = experiment.measure(quick)
    values["run"] = {
        "machine": machine_name(),
        "versions": versions_of(*DISTRIBUTIONS),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(_cpu_seconds() - cpu_started, 1),
        "load_before": round(load, 1),
        "quick": quick,
    }
    return values


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sys.exit(main())
