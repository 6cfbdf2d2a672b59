"""Which backend each model of a repository asks Triton for, and so what its server needs."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from alexnet_model.errors import EngineRefused
from alexnet_model.gpus import GpuSurvey
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE

from .layout import CONFIG_FILE
from .model_entries import BACKENDS, DECODER, TENSORRT

OPENVINO = BACKENDS["openvino"]
ONNXRUNTIME = BACKENDS["onnxruntime"]
# Ours, in Python, which only the image that we build has.
OF_OUR_IMAGE = frozenset({OPENVINO, DECODER})
# What configurations said before backends had names of their own.
OF_PLATFORMS = {"onnxruntime_onnx": ONNXRUNTIME, "tensorrt_plan": TENSORRT}


def backends_of_repository(repository: Path) -> dict[str, str]:
    """The backend by model, sorted by name; empty where the configuration cannot be read or names none.

    Those are left to Triton, which names the model and what is wrong with it.
    """
    # tritonclient is slow to import
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    backends: dict[str, str] = {}
    for path in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        config = ModelConfig()
        # A field that is newer than this client is no reason not to know the backend.
        with contextlib.suppress(OSError, UnicodeDecodeError, text_format.ParseError):
            text_format.Parse(path.read_text(encoding="utf-8"), config, allow_unknown_field=True)
        backends[path.parent.name] = config.backend or OF_PLATFORMS.get(config.platform, config.platform)
    return backends


def can_use_gpu(backends: set[str]) -> bool:
    """Whether a GPU would compute any of it. Beside OpenVINO's models, ONNX Runtime's are the CPU's too."""
    return TENSORRT in backends or (ONNXRUNTIME in backends and OPENVINO not in backends)


def image_for(backends: set[str]) -> str:
    """The image that has all of them: stock, or with ours on top, which runs what the stock one does."""
    return CPU_IMAGE if backends & OF_OUR_IMAGE else TRITON_IMAGE


def onnx_command(repository: Path) -> str:
    """What packs the ONNX files inside a repository of engines, beside it, for a machine without a GPU."""
    beside = repository.with_name(f"{repository.name}_onnx")
    return shlex.join(["alexnet", "export", str(repository), "--repository", str(beside)])


def no_gpu_for_engines(repository: Path, survey: GpuSurvey) -> EngineRefused:
    """Engines, and nothing to run them on."""
    return EngineRefused(
        f"{repository}: TensorRT engines",
        got=survey.problem,
        expected="an NVIDIA GPU",
        next_step=f"See what is missing: alexnet doctor. Or serve its ONNX files: {onnx_command(repository)}",
    )
