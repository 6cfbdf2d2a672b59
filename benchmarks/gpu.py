"""Measure this project on an NVIDIA GPU: `make bench-gpu`, after `make demo`, on a machine that has one.

The demo's checkpoint is exported again for large batches. Engines are built by every TensorRT that is
installed here, and by the container image if Docker is here. Every engine on the GPU is measured, judged by
the gate (parity matrix, accuracy) and compared with the limits of the GPU. Then the models are served, in
Docker or embedded, and measured under load. What is not here is left out with a note; no CPU is measured.

ONNX Runtime uses the GPU if `onnxruntime-gpu` for this machine's CUDA is installed in place of `onnxruntime`.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from commands import Measuring, alexnet
from composing import compose

from alexnet_bench.engines.sweep import doubling_batches
from alexnet_cli.screen import note
from alexnet_clients import ServerUrl, transport_from_url
from alexnet_model.errors import AlexnetError
from alexnet_model.gpus import gpus_here
from alexnet_serving import DockerServer, EmbeddedServer, Server, choice_of_server

TENSORRTS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # the module of each `--runtime`
SECONDS = 30 * 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--largest", type=int, default=1024, help="batch")
    options = parser.parse_args()
    survey = gpus_here()
    if not survey.gpus:
        sys.exit(f"Error: NVIDIA GPU: got {survey.problem}, expected one. Next: make bench, for the CPU.")
    note(f"{survey.gpus[0].name}, driver {survey.gpus[0].driver}")
    measuring = Measuring(options.results / "gpu", within_s=SECONDS)
    work = options.demo / "gpu"
    served = exported(options.demo / "checkpoint.safetensors", work, options.largest)
    if served is None:
        return 1
    sweep = ["--checkpoint", options.demo / "checkpoint.safetensors", "--device", "gpu"]
    sweep += ["--batch", ",".join(map(str, doubling_batches(options.largest)))]
    code = measuring("engine", "bench", "engine", work / "export", *sweep)
    measure_served(served, measuring)
    measuring.keep()
    compose(options.results, options.docs)
    return code


def exported(checkpoint: Path, work: Path, largest: int) -> Path | None:
    """Export, and return the repository to serve: of engines if Docker runs them, else of ONNX files."""
    export, onnx, engines = work / "export", work / "onnx_repository", work / "engine_repository"
    arguments = ["--runtime", "onnxruntime", "--max-batch", largest, "--out", export, "--repository", onnx]
    if alexnet("export", checkpoint, *arguments):
        return None
    for engine, module in TENSORRTS.items():
        if find_spec(module) is None:
            note(f"No {engine} engines: {engine} is not installed.")
        elif alexnet("export", export, "--runtime", engine, "--repository", work / f"{engine}_repository"):
            note(f"No {engine} engines: see above.")
    if alexnet("export", export, "--runtime", "tensorrt", "--build", "docker", "--repository", engines):
        note("Nothing is served by Docker: see above.")
        return onnx
    return engines


def measure_served(repository: Path, measuring: Measuring) -> None:
    """Measure a server that computes on the GPU: under load, and what an embedded one allows beside it."""
    try:
        with server_of(repository) as server:
            models = [name for name in server.models if device_of(server, name) == "GPU"]
            if not models:
                note(f"No server on the GPU: Triton computes {', '.join(server.models)} on the CPU.")
                return
            named = [word for name in models for word in ("--model", name)]
            loads = ["--concurrency", "1,16,64", "--batch", "1,32", "--workers", "4"]
            served = ["--url", server.grpc_url, "--repository", repository]
            measuring("server", "bench", "server", *served, *named, *loads)
    except AlexnetError as error:
        note(f"Nothing is served: {error}")
        return
    if isinstance(server, EmbeddedServer):
        measuring("breakdown", "bench", "breakdown", "--repository", repository, "--batch", "1,32")
        measuring("tune", "tune", "--limit-p99-ms", "20", "--repository", repository, "--dry-run")
        measuring("cold-start", "bench", "cold-start", repository)


def device_of(server: Server, model: str) -> str:
    with closing(transport_from_url(ServerUrl.parse(server.grpc_url))) as transport:
        return transport.model_config(model, timeout_s=30).result().device


def server_of(repository: Path) -> Server:
    kind = choice_of_server(repository).kind
    return DockerServer(repository) if kind == "docker" else EmbeddedServer(repository)


if __name__ == "__main__":
    sys.exit(main())
