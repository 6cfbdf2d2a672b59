"""The container image that builds and serves engines, and the driver it needs. Change its version here.

`serving/deploy/compose.yaml` and `serving/deploy/Dockerfile` name it too; a test compares them with this
module.
"""

from __future__ import annotations

from .gpus import Gpu, version_from_text

# NVIDIA's Triton 2.71. Every security bulletin published up to 2026-09 is fixed in it.
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:26.07-py3"
# Of this image. An image on this machine declares its own (`docker.tensorrt_of_image`), which is used first.
TENSORRT_VERSION = "11.1.0.106"
# The image has CUDA 13.3; any driver of CUDA 13 runs it
# (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
MINIMUM_DRIVER = "580"
# The same image with this project's Python-based backends, for CPUs and for encoded images
# (serving/deploy/Dockerfile).
CPU_IMAGE = "alexnet-serving/triton:26.07"
BUILD_CPU_IMAGE = f"docker build --tag {CPU_IMAGE} --file serving/deploy/Dockerfile ."  # in the source tree


def driver_is_too_old(gpu: Gpu) -> bool:
    """Return whether the GPU's driver is older than the image needs."""
    return version_from_text(gpu.driver) < version_from_text(MINIMUM_DRIVER)
