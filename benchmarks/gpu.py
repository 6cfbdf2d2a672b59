"""Measure this project on an NVIDIA GPU: `make bench-gpu`, after `make demo`, on a machine that has one.

It is meant to take six minutes on 16 cores; `--full` measures every part, and batches to 1,024.

The demo's checkpoint is exported for large batches, and compiled by AOTInductor, by every TensorRT that is
installed here, and by the container image if Docker is here. A later run uses that export, its engines and
PyTorch's compiled code again. Every engine on the GPU is measured, judged by the gate (parity matrix,
accuracy) and compared with the limits of the GPU. Then the models are served, in Docker or embedded, and
measured under load. What is not here is left out with a note; no CPU is measured.

ONNX Runtime uses the GPU if `onnxruntime-gpu` for this machine's CUDA is installed in place of `onnxruntime`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from commands import Measuring, alexnet
from composing import compose

from alexnet_bench.engines.benchmark import COMPILED_CODE
from alexnet_bench.engines.sweep import doubling_batches
from alexnet_cli.screen import note
from alexnet_clients import ServerUrl, transport_from_url
from alexnet_model.checkpoint import load_checkpoint
from alexnet_model.errors import AlexnetError, ManifestError
from alexnet_model.gpus import Gpu, gpus_here
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_serving import DockerServer, EmbeddedServer, Server, choice_of_server

# The module of each runtime that compiles engines here, and the longest that this takes.
BUILDERS = {
    "aoti": ("torch", "minutes"),
    "tensorrt": ("tensorrt", "a minute"),
    "tensorrt-rtx": ("tensorrt_rtx", "a minute"),
}
QUICK_BATCHES, QUICK_S = (1, 8, 32, 128, 256), 6 * 60.0
FULL_LARGEST, FULL_S = 1024, 30 * 60.0
SERVED_S = 60.0  # what the load on a server takes with `QUICK_LOADS`
QUICK_LOADS = ["--concurrency", "1,64", "--batch", "1,32", "--seconds", "1", "--repeats", "3"]
FULL_LOADS = ["--concurrency", "1,16,64", "--batch", "1,32"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--full", action="store_true", help="every part, and more batches; half an hour")
    parser.add_argument("--largest", type=int, help="batch; 256, or 1,024 with --full")
    options = parser.parse_args()
    survey = gpus_here()
    if not survey.gpus:
        sys.exit(f"Error: NVIDIA GPU: got {survey.problem}, expected one. Next: make bench, for the CPU.")
    gpu = survey.gpus[0]
    note(f"{gpu.name}, driver {gpu.driver}")
    largest = options.largest or (FULL_LARGEST if options.full else max(QUICK_BATCHES))
    results = options.results / "gpu" / re.sub("[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    measuring = Measuring(results, within_s=FULL_S if options.full else QUICK_S)
    work, checkpoint = options.demo / "gpu", options.demo / "checkpoint.safetensors"
    os.environ.setdefault(COMPILED_CODE, str((work / "compiled").absolute()))
    served = exported(checkpoint, work, largest, gpu)
    if served is None:
        return 1
    sweep = ["--checkpoint", checkpoint, "--device", "gpu", "--batch"]
    if options.full:
        sweep.append(",".join(map(str, doubling_batches(largest))))
    else:
        sweep.append(",".join(str(batch) for batch in QUICK_BATCHES if batch <= largest))
        sweep += ["--seconds", "0.1", "--repeats", "5"]
    code = measuring("engine", "bench", "engine", work / "export", *sweep)
    if measuring.seconds_left < SERVED_S:
        note("No server is measured: there is no time left. Measure it with --full.")
    else:
        code = measure_served(served, measuring, is_full=options.full) or code
    measuring.keep()
    compose(options.results, options.docs)
    return code


def exported(checkpoint: Path, work: Path, largest: int, gpu: Gpu) -> Path | None:
    """Export, compile engines, and return the repository to serve: the fastest kind that was built.

    An export of the same weights from an earlier run is used again, with its engines for this GPU.
    """
    export, onnx, in_docker = work / "export", work / "onnx_repository", work / "engine_repository"
    earlier = earlier_export(export, checkpoint, largest)
    if earlier is None:
        for repository in (in_docker, *(work / f"{runtime}_repository" for runtime in BUILDERS)):
            shutil.rmtree(repository, ignore_errors=True)  # has other weights, and would be served
        arguments = ["--runtime", "onnxruntime", "--max-batch", largest]
        if alexnet("export", checkpoint, *arguments, "--out", export, "--repository", onnx):
            return None
    else:
        note(f"The export of {earlier.created_at} in {export} is used again. Delete it to export again.")
    for runtime, (module, duration) in BUILDERS.items():
        if find_spec(module) is None:
            note(f"No {runtime} engines: {module} is not installed.")
        elif not has_engine(manifest_from_folder(export), runtime, gpu):
            note(f"Compiling {runtime} engines: {duration} the first time, and not again.")
            if alexnet(
                "export", export, "--runtime", runtime, "--repository", work / f"{runtime}_repository"
            ):
                note(f"No {runtime} engines: see above.")
    if not (earlier and in_docker.is_dir()) and alexnet(
        "export", export, "--runtime", "tensorrt", "--build", "docker", "--repository", in_docker
    ):
        note("Nothing is served by Docker: see above.")
    built = (in_docker, work / "aoti_repository", onnx)
    return next(repository for repository in built if repository.is_dir())


def earlier_export(export: Path, checkpoint: Path, largest: int) -> Manifest | None:
    """Return the record of an earlier run's export, if it is of these weights and batches."""
    try:
        manifest = manifest_from_folder(export)
    except ManifestError:
        return None
    same = manifest.model.weights_sha256 == load_checkpoint(checkpoint).weights_sha256
    return manifest if same and manifest.max_batch == largest else None


def has_engine(manifest: Manifest, runtime: str, gpu: Gpu) -> bool:
    """Whether an export has an accepted engine of a runtime for this kind of GPU."""
    return any(
        engine.accepted
        and engine.passport.runtime == runtime
        and engine.passport.compute_capability == gpu.compute_capability
        for artifact in manifest.artifacts
        for engine in artifact.engines
    )


def measure_served(repository: Path, measuring: Measuring, *, is_full: bool) -> int:
    """Measure a server that computes on the GPU: under load, and what an embedded one allows beside it.

    Returns:
        0, or the exit code of a part that failed.
    """
    try:
        with server_of(repository) as server:
            models = [name for name in server.models if device_of(server, name) == "GPU"]
            if not models:
                note(f"No server on the GPU: Triton computes {', '.join(server.models)} on the CPU.")
                return 0
            named = [word for name in models for word in ("--model", name)]
            loads = [*(FULL_LOADS if is_full else QUICK_LOADS), "--workers", "4"]
            served = ["--url", server.grpc_url, "--repository", repository]
            codes = [measuring("server", "bench", "server", *served, *named, *loads)]
    except AlexnetError as error:
        note(f"Nothing is served: {error}")
        return 0
    if is_full and isinstance(server, EmbeddedServer):
        codes += [
            measuring("breakdown", "bench", "breakdown", "--repository", repository, "--batch", "1,32"),
            measuring("tune", "tune", "--limit-p99-ms", "20", "--repository", repository, "--dry-run"),
            measuring("cold-start", "bench", "cold-start", repository),
        ]
    return max(codes)


def device_of(server: Server, model: str) -> str:
    with closing(transport_from_url(ServerUrl.parse(server.grpc_url))) as transport:
        return transport.model_config(model, timeout_s=30).result().device


def server_of(repository: Path) -> Server:
    kind = choice_of_server(repository).kind
    return DockerServer(repository) if kind == "docker" else EmbeddedServer(repository)


if __name__ == "__main__":
    sys.exit(main())
