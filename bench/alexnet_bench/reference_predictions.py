"""What a repository's models truly answer: the export in it, computed in this process.

    with unpacked_export(repository) as folder:
        reference = ExportPredictions(manifest_from_folder(folder), folder)
        bench = ServerBench(transport, url, generator, reference=reference)

A server that serves another model, or the right one wrongly, is found however long it has done so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_clients import InferRequest, ModelConfig
from alexnet_export.engines.cuda import CudaDevice
from alexnet_export.runner_factory import runner_from_artifact
from alexnet_model.contract import ENCODED_INPUT_NAME, Contract, Uint8Array
from alexnet_model.errors import EngineError, UsageError
from alexnet_model.gpus import gpus_here
from alexnet_model.manifest import Artifact, Manifest

from .loads.results import ModelUnderTest
from .loads.traffic import SAME_PROBABILITY, ReferenceOutputs, RequestSet

# An engine that was built from the ONNX file rounds elsewhere than the file's own runtime does, most in INT8.
_MOST_DIFFERENCE_OF_ENGINES = 0.05
_ENGINES = "tensorrt"


@dataclass(frozen=True)
class ExportPredictions:
    """Called with a model and its requests, as `ServerBench` does; the same ones are computed once."""

    manifest: Manifest
    folder: Path
    _known: dict[tuple[str, int], ReferenceOutputs] = field(default_factory=dict)  # by model and batch

    def __call__(self, subject: ModelUnderTest, asked: RequestSet) -> ReferenceOutputs:
        """Compute every distinct request, on the device that the server computes on.

        Raises:
            UsageError: the server's model is none of this export's.
            ManifestError: a file is missing or is not the one that was exported.
            ExportError: it cannot be loaded here, or there is no such GPU here.
        """
        key = subject.config.name, asked.batch
        if key not in self._known:
            self._known[key] = self._computed(subject, asked)
        return self._known[key]

    def _computed(self, subject: ModelUnderTest, asked: RequestSet) -> ReferenceOutputs:
        artifact = self._artifact_of(subject)
        contract = self.manifest.contract
        device = device_of_server(subject.network)
        with runner_from_artifact(artifact, self.folder, device) as runner:
            answers = tuple(
                runner.infer(images_of(request, contract)).probabilities for request in asked.requests()
            )
        within = _MOST_DIFFERENCE_OF_ENGINES if subject.network.backend == _ENGINES else SAME_PROBABILITY
        return ReferenceOutputs(probabilities=answers, tolerance=within)

    def _artifact_of(self, subject: ModelUnderTest) -> Artifact:
        precision = subject.engine.precision
        found = next((a for a in self.manifest.accepted if a.precision == precision), None)
        if found is None:
            names = ", ".join(artifact.precision for artifact in self.manifest.accepted)
            raise UsageError(
                f"true answers of {subject.config.name}",
                got=f"a model of the server with precision {precision or 'unknown'}",
                expected=f"one of this export: {names}",
                next_step="Name the repository that the server serves, or none.",
            )
        return found


def device_of_server(config: ModelConfig) -> CudaDevice | None:
    """What a served model computes on, for a runner in process; None for the CPU. Of several GPUs the first.

    Raises:
        MissingExtra: PyTorch is not installed.
        EngineError: it computes on a GPU, and there is none here, or none that PyTorch can use.
    """
    if config.device != "GPU":
        return None
    survey = gpus_here()
    if not survey.gpus:
        raise EngineError(
            config.name,
            got=f"no GPU here: {survey.problem}",
            expected="the one that the server computes on",
            next_step="Measure on the server's own machine.",
        )
    return CudaDevice(survey.gpus[0])


def images_of(request: InferRequest, contract: Contract) -> Uint8Array:
    """The images as the network takes them, `(N, 224, 224, 3)`; encoded ones are decoded and prepared."""
    encoded: npt.NDArray[Any] | None = request.inputs.get(ENCODED_INPUT_NAME)
    if encoded is None:
        images: Uint8Array = request.inputs[contract.input_name]
        return images
    return np.stack([contract.prepared(image) for image in encoded.ravel()])
