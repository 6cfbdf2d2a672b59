"""Measure this project on this machine: `make bench`, after `make demo`, in about a quarter of an hour.

Every part is one command of `alexnet`. The pages are written from the reports of these commands only. A part
during which the machine was busy is measured again, if that ends within 25 minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from commands import Measuring, alexnet
from composing import PARTS, compose

from alexnet_serving import EmbeddedServer

SECONDS = 25 * 60.0
MODELS = ("alexnet_fp32", "alexnet_int8", "alexnet")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="measure only these")
    parser.add_argument("--no-run", action="store_true", help="only write the pages of earlier reports")
    parser.add_argument(
        "--aoti",
        action="store_true",
        help="also measure AOTInductor engines; compiling them takes a minute or two",
    )
    options = parser.parse_args()
    if options.no_run:
        compose(options.results, options.docs)
        return 0
    if options.aoti:
        engines = ["--runtime", "aoti", "--repository", options.demo / "aoti_repository"]
        if code := alexnet("export", options.demo / "export", *engines):
            return code
    measuring = Measuring(options.results / "cpu", within_s=SECONDS)
    parts = parts_of(options.demo, measuring)
    if code := measuring.all_of({name: parts[name] for name in options.part}):
        return code
    measuring.keep()
    compose(options.results, options.docs)
    return 0


def parts_of(demo: Path, measuring: Measuring) -> dict[str, Callable[[], int]]:
    export, repository = demo / "export", demo / "model_repository"
    models = [word for name in MODELS for word in ("--model", name)]

    def command(part: str, *words: object) -> Callable[[], int]:
        return lambda: measuring(part, *words)

    def served(part: str, *words: object) -> Callable[[], int]:
        def run() -> int:
            with EmbeddedServer(repository) as server:
                where = ["--url", server.grpc_url, "--repository", repository]
                return measuring(part, "bench", "server", *where, *words)

        return run

    sweep = ["--checkpoint", demo / "checkpoint.safetensors", "--device", "cpu"]
    sweep += ["--batch", "1,8,32", "--seconds", "0.4", "--repeats", "5"]
    loads = ["--concurrency", "1,4,16,64", "--seconds", "2.5", "--repeats", "5"]
    # A search starts at the rate of a closed loop. This one is not among those of `server`, so that both
    # reports can be on one page.
    rates = ["--concurrency", "32", "--rate", "100,300", "--limit-p99-ms", "50"]
    rates += ["--seconds", "2", "--repeats", "5"]
    return {
        "engine": command("engine", "bench", "engine", export, *sweep),
        "server": served("server", *models, *loads),
        "rates": served("rates", "--model", "alexnet_int8", *rates),
        "breakdown": command("breakdown", "bench", "breakdown", "--repository", repository),
        "tune": command("tune", "tune", "--limit-p99-ms", "100", "--repository", repository, "--dry-run"),
        "cold-start": command("cold-start", "bench", "cold-start", repository, *models),
    }


if __name__ == "__main__":
    sys.exit(main())
