"""The backends that the models of a repository need, and so the image and the devices of their server."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_model.errors import EngineRefused, ManifestError
from alexnet_model.gpus import GpuSurvey
from alexnet_model.reading import text_of_file
from alexnet_model.runtimes import BUILT_IN, Runtime, runtime_of_backend
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE

from .layout import DECODER, configs_of_repository
from .records import index_of

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

# The backends that serving/deploy/Dockerfile adds to NVIDIA's image.
IN_CPU_IMAGE = frozenset(
    {
        DECODER,
        *(r.backend for r in BUILT_IN if r.backend and not r.in_stock_image and not r.loads_in_python),
    }
)
# Values of `platform` in configurations that name no `backend`.
OF_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}


def parsed_configs(repository: Path) -> dict[str, ModelConfig]:
    """Return the configuration of each model, sorted by the model's name.

    It is empty from the first error on if it cannot be read: Triton's own message then names the model and
    the problem.
    """
    # tritonclient is slow to import
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    configs: dict[str, ModelConfig] = {}
    for path in configs_of_repository(repository):
        config = ModelConfig()
        # The rest can be read beside a field that this version of tritonclient does not know.
        with contextlib.suppress(OSError, UnicodeDecodeError, text_format.ParseError, RecursionError):
            text_format.Parse(text_of_file(path), config, allow_unknown_field=True)
        configs[path.parent.name] = config
    return configs


def backend_of_config(config: ModelConfig) -> str:
    """Return the backend of a model; empty if its configuration names none."""
    return str(config.backend or OF_PLATFORMS.get(config.platform, config.platform))


def backends_of_repository(repository: Path) -> dict[str, str]:
    """Return the backend of each model as `backend_of_config` does, sorted by the model's name."""
    return {name: backend_of_config(config) for name, config in parsed_configs(repository).items()}


def models_without_queue_limit(repository: Path) -> list[str]:
    """Return the sorted names of the models whose queue may grow without a limit."""
    return [
        name
        for name, config in parsed_configs(repository).items()
        if config.HasField("dynamic_batching")
        and not config.dynamic_batching.default_queue_policy.max_queue_size
    ]


def can_use_gpu(backends: Collection[str]) -> bool:
    """Return whether a server with these backends would use a GPU.

    It does not if one of them runs on CPUs only: the models beside it then use the CPU too.
    """
    served = _runtimes(backends)
    return needs_gpu(backends) or (bool(served) and all("gpu" in runtime.devices for runtime in served))


def needs_gpu(backends: Collection[str]) -> bool:
    """Return whether one of these backends runs on GPUs only."""
    return any(runtime.devices == ("gpu",) for runtime in _runtimes(backends))


def loads_engines(backends: Collection[str]) -> bool:
    """Return whether a backend of Triton's image is among these that loads engines, which fit some GPUs."""
    return any(runtime.bound_to_machine and not runtime.loads_in_python for runtime in _runtimes(backends))


def loads_in_python(backends: Collection[str]) -> bool:
    """Return whether one of these backends loads engines with a library of this machine's Python."""
    return any(runtime.loads_in_python for runtime in _runtimes(backends))


def outside_stock_image(backends: Collection[str]) -> set[str]:
    """Return those of the backends that NVIDIA's image does not have."""
    missing = {str(runtime.backend) for runtime in _runtimes(backends) if not runtime.in_stock_image}
    return missing | ({DECODER} & set(backends))


def outside_our_images(backends: Collection[str]) -> set[str]:
    """Return those of the backends that neither NVIDIA's image nor this project's has."""
    return outside_stock_image(backends) - IN_CPU_IMAGE


def image_for(backends: Collection[str]) -> str:
    """Return the image for these backends: NVIDIA's, or this project's image on top of it.

    A backend from another distribution is in neither: its users name an image of their own.
    """
    return CPU_IMAGE if outside_stock_image(backends) else TRITON_IMAGE


def onnx_command(repository: Path) -> str:
    """Return the command that packs the ONNX files of a repository of engines into a second repository.

    If the repository has several exports, these are several commands, joined by `&&`.
    """
    target = repository.with_name(f"{repository.name}_onnx")
    words = ["alexnet", "export", str(repository), "--repository", str(target)]
    names: list[str] = []
    with contextlib.suppress(ManifestError):
        names = sorted(index_of(repository).exports)
    if len(names) < 2:
        return shlex.join(words)
    first, *others = names
    commands = [[*words, "--name", first], *([*words, "--name", name, "--add"] for name in others)]
    return " && ".join(map(shlex.join, commands))


def no_gpu_error(repository: Path, survey: GpuSurvey) -> EngineRefused:
    """Return the error for a repository of engines on a machine without a usable GPU."""
    return EngineRefused(
        f"{repository}: TensorRT engines",
        got=survey.problem,
        expected="an NVIDIA GPU",
        next_step=f"See what is missing: alexnet doctor. Or serve its ONNX files: {onnx_command(repository)}",
    )


def _runtimes(backends: Collection[str]) -> list[Runtime]:
    found = (runtime_of_backend(backend) for backend in backends if backend)
    return [runtime for runtime in found if runtime is not None]
