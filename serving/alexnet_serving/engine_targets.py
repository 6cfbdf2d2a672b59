"""The targets where an image would load engines: this machine's GPUs, with the image's TensorRT."""

from __future__ import annotations

from alexnet_model import docker
from alexnet_model.errors import DockerError
from alexnet_model.gpus import GpuSurvey, gpus_here
from alexnet_model.triton_image import TENSORRT_VERSION, TRITON_IMAGE

from .engine_compatibility import EngineTarget


def targets_of_image(image: str = TRITON_IMAGE) -> tuple[EngineTarget, ...]:
    """One target for each GPU model; none on a machine without.

    The pinned image's TensorRT is known even where Docker or the image is not (yet) there.

    Raises:
        DockerError: another image that is not here to be asked, or does not say its TensorRT.
    """
    survey = gpus_here()
    if not survey.gpus:
        return ()
    try:
        version = docker.tensorrt_of_image(image)
    except DockerError:
        if image != TRITON_IMAGE:
            raise
        version = TENSORRT_VERSION
    return targets_of(survey, version)


def targets_of(survey: GpuSurvey, tensorrt_version: str) -> tuple[EngineTarget, ...]:
    """Each model of GPU once: two of one compute capability may still not load each other's engines."""
    models = {(gpu.name, gpu.compute_capability): gpu for gpu in reversed(survey.gpus)}
    return tuple(
        EngineTarget(tensorrt_version=tensorrt_version, gpu=gpu) for gpu in reversed(models.values())
    )
