"""This project's own figures on this machine: `make bench`, after `make demo`, in about a quarter of an hour.

Every part is one command of `alexnet`; their reports, the page and docs/performance.md are written from
what they measured and nothing else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from composing import PARTS, compose

from alexnet_cli.main import run
from alexnet_cli.screen import note
from alexnet_serving import EmbeddedServer


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
    demo, results = options.demo, options.results
    export, repository = str(demo / "export"), str(demo / "model_repository")
    files = {part: str(results / "cpu" / f"{part}.json") for part in PARTS}
    checkpoint = str(demo / "checkpoint.safetensors")
    ladder = ["--batch", "1,8,32", "--seconds", "0.4", "--repeats", "5"]
    _alexnet("bench", "engine", export, "--checkpoint", checkpoint, *ladder, "--json", files["engine"])
    with EmbeddedServer(Path(repository)) as server:
        models = ["--model", "alexnet_fp32", "--model", "alexnet_int8", "--model", "alexnet"]
        loads = ["--concurrency", "1,4,16,64", "--seconds", "4", "--repeats", "3"]
        _alexnet("bench", "server", "--url", server.grpc_url, *models, *loads, "--json", files["server"])
    _alexnet("bench", "rungs", "--repository", repository, "--json", files["rungs"])
    tuning = ["--limit-p99-ms", "100", "--repository", repository, "--dry-run"]
    _alexnet("tune", *tuning, "--json", files["tune"])
    _alexnet("bench", "cold-start", repository, "--json", files["cold-start"])
    compose(results, options.docs)
    return 0


def _alexnet(*words: str) -> None:
    note(f"alexnet {' '.join(words)}")
    code = run(list(words))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
