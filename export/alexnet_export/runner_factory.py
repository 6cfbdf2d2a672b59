"""From an exported file back to a runner, as it was measured."""

from __future__ import annotations

from pathlib import Path

from alexnet_model.manifest import Artifact, verify_artifact

from .engines.cuda import CudaDevice
from .onnxruntime_runner import OnnxRunner
from .openvino_runner import OpenVinoRunner
from .runners import Runner


def runner_from_artifact(artifact: Artifact, folder: Path, device: CudaDevice | None = None) -> Runner:
    """The runtime that serves an artifact, with the options that it is served with.

    On a GPU where `device` is one; OpenVINO is always on the CPU.

    Raises:
        ManifestError: the file is missing or is not the one that was exported.
    """
    path = verify_artifact(artifact, folder)
    if artifact.served_by.name == "openvino":
        return OpenVinoRunner(path, artifact.served_by.options)
    return OnnxRunner(path, device)
