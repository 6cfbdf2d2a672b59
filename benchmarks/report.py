"""This project's own figures on this machine: `make bench`, after `make demo`, in about a quarter of an hour.

Every part is one command of `alexnet`; their reports, the page and docs/performance.md are written from
what they measured and nothing else. A part in which the machine was busy is measured again while there is
time for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from commands import Measuring
from composing import compose

from alexnet_serving import EmbeddedServer

SECONDS = 14 * 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--no-run", action="store_true", help="write the pages of what was measured before")
    options = parser.parse_args()
    if options.no_run:
        compose(options.results, options.docs)
        return 0
    measuring = Measuring(options.results / "cpu", within_s=SECONDS)
    measure(options.demo, measuring)
    measuring.keep()
    compose(options.results, options.docs)
    return 0


def measure(demo: Path, measuring: Measuring) -> None:
    export, repository = demo / "export", demo / "model_repository"
    ladder = ["--checkpoint", demo / "checkpoint.safetensors", "--device", "cpu"]
    ladder += ["--batch", "1,8,32", "--seconds", "0.4", "--repeats", "5"]
    _done(measuring("engine", "bench", "engine", export, *ladder))
    with EmbeddedServer(repository) as server:
        served = ["bench", "server", "--url", server.grpc_url, "--repository", repository]
        models = ["--model", "alexnet_fp32", "--model", "alexnet_int8", "--model", "alexnet"]
        loads = ["--concurrency", "1,4,16,64", "--seconds", "2.5", "--repeats", "5"]
        _done(measuring("server", *served, *models, *loads))
        rates = ["--rate", "100,300", "--limit-p99-ms", "50", "--seconds", "2", "--repeats", "3"]
        _done(measuring("rates", *served, "--model", "alexnet_int8", *rates))
    _done(measuring("rungs", "bench", "rungs", "--repository", repository))
    _done(measuring("tune", "tune", "--limit-p99-ms", "100", "--repository", repository, "--dry-run"))
    models = ["--model", "alexnet_fp32", "--model", "alexnet_int8", "--model", "alexnet"]
    _done(measuring("cold-start", "bench", "cold-start", repository, *models))


def _done(code: int) -> None:
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
