"""Measure what the clients cost: `python benchmarks/clients.py demo/model_repository`, in about two minutes.

Exits 1 if a figure does not reach its target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tools import run_recipe

from alexnet_bench import measure_clients, write_client_images
from alexnet_bench.runs import Log
from alexnet_cli.screen import Bars
from alexnet_serving import EmbeddedServer


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="files of the folder that is classified")
    return parser


def measure(log: Log, options: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedServer(options.repository, shared_memory=True) as server,
        Bars() as progress,
    ):
        folder = Path(name)
        write_client_images(folder, options.images)
        for row in measure_clients(server.grpc_url, folder, progress=progress):
            log.figures.append(row)


if __name__ == "__main__":
    sys.exit(run_recipe("Cost of the clients", options(), measure))
