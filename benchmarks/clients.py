"""The clients' figures, on an export's repository: `python benchmarks/clients.py demo/model_repository`.

Prints a table; `--output FILE` writes the record too. Exits 1 where a figure does not hold to its bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from alexnet_bench.client_figures import ClientFigure, client_figures, write_jpegs
from alexnet_cli.screen import Bars, say
from alexnet_model.files import write_text_atomically
from alexnet_serving import EmbeddedServer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the record as JSON")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(options.repository, shared_memory=True) as server,
        Bars() as progress,
    ):
        write_jpegs(Path(folder), options.images)
        found = client_figures(server.grpc_url, "int8", Path(folder), progress=progress)
    say(f"{found.machine}; {found.model} computing in {found.computes_in}, embedded server; {found.images}")
    for figure in found.figures:
        say(
            f"  {figure.value:7.3g} {figure.unit:2}  {figure.name}"
            f" ({figure.low:.3g} to {figure.high:.3g} in {figure.rounds} rounds"
            f"{_held(figure)})"
        )
    say("  images/s: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in found.rates_per_s.items()))
    if options.output:
        write_text_atomically(options.output, found.model_dump_json(indent=2) + "\n")
    return 0 if all(figure.holds for figure in found.figures) else 1


def _held(figure: ClientFigure) -> str:
    if figure.bound is None:
        return ""
    return f"; {figure.must_be} {figure.bound:g}: {'yes' if figure.holds else 'NO'}"


if __name__ == "__main__":
    sys.exit(main())
