"""The container image that builds and serves engines, and the driver it needs. Change its release here.

`serving/deploy/compose.yaml`, `serving/deploy/Dockerfile`, README.md and docs/decisions/docker.md name it
too; tests compare them with this module. The version of its TensorRT is not here: it is read from
the image (`docker.tensorrt_of_image`).
"""

from __future__ import annotations

import re

from .gpus import Gpu, version_from_text

# NVIDIA's Triton 2.75. Every security bulletin published up to 2026-09 is fixed in it.
TRITON_RELEASE = "26.11"
TRITON_IMAGE = f"nvcr.io/nvidia/tritonserver:{TRITON_RELEASE}-py3"
# The image has CUDA 13; any driver of CUDA 13 runs it
# (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
MINIMUM_DRIVER = "580"
# The same image with this project's Python-based backends, for CPUs and for encoded images
# (serving/deploy/Dockerfile).
CPU_IMAGE = f"alexnet-serving/triton:{TRITON_RELEASE}"
BUILD_CPU_IMAGE = f"docker build --tag {CPU_IMAGE} --file serving/deploy/Dockerfile ."  # in the source tree
# The first release in which a default queue timeout does not make throughput decay over minutes
# (triton-inference-server/server#8870, fixed by triton-inference-server/core#509).
QUEUE_TIMEOUT_RELEASE = "26.08"


def driver_is_too_old(gpu: Gpu) -> bool:
    """Return whether the GPU's driver is older than the image needs."""
    return version_from_text(gpu.driver) < version_from_text(MINIMUM_DRIVER)


def release_of_tag(image: str) -> str | None:
    """Return the release in an image's tag, such as `26.11`; None if the tag has none."""
    found = re.search(r":(\d\d\.\d\d)\b[^/]*$", image)
    return found[1] if found else None


def queue_timeout_decays(release: str) -> bool:
    """Return whether a release of Triton loses throughput over time if a queue has a default timeout."""
    return version_from_text(release) < version_from_text(QUEUE_TIMEOUT_RELEASE)
