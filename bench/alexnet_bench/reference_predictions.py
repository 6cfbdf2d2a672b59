"""Reference predictions of a served model: the same requests computed in process, from the export.

    with unpacked_export(repository) as folder:
        predictions = ExportPredictions(manifest_from_folder(folder), folder)
        bench = ServerBench(transport, url, generator, reference=predictions)

A load benchmark compares the server's outputs with them. A server that runs another model is found, and so is
one that runs the right model wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alexnet_clients import InferRequest, ModelConfig
from alexnet_model.contract import ENCODED_INPUT_NAME, Contract, Uint8Array
from alexnet_model.manifest import Manifest
from alexnet_model.runtimes import runtime_of_backend

from .engines.selection import artifact_of_served_model, gpu_of_served_model, onnx_engine
from .engines.specs import EngineSpec
from .engines.timing import runner_from_spec
from .loads.results import ModelUnderTest
from .loads.traffic import SAME_PROBABILITY, ReferenceOutputs, RequestSet

if TYPE_CHECKING:
    from alexnet_export import Runner

# An engine rounds at other places than the ONNX file that it was built from, most of all in INT8.
MOST_DIFFERENCE_OF_ENGINES = 0.05


@dataclass(frozen=True)
class ExportPredictions:
    """Compute the correct predictions of a served model; `ServerBench` calls it with a model and requests.

    Each model and batch is computed once, by the ONNX file of the model's precision in the runtime that
    serves the file, on the device that the server uses. A TensorRT engine is compared with its ONNX file
    too, so that TensorRT need not be installed here.

    Attributes:
        manifest: The export's manifest.
        folder: The export's folder.
        open_runner: Opens an engine; tests and callers that have loaded it already replace it.
    """

    manifest: Manifest
    folder: Path
    open_runner: Callable[[EngineSpec], AbstractContextManager[Runner]] = runner_from_spec
    _known: dict[tuple[str, int], ReferenceOutputs] = field(default_factory=dict)  # by model and batch

    def __call__(self, tested: ModelUnderTest, requests: RequestSet) -> ReferenceOutputs:
        """Compute the predictions for every distinct request.

        Raises:
            UsageError: this export has no model of that precision.
            ManifestError: a file is missing or is not the one that was exported.
            ExportError: the file cannot be loaded here, or the server's GPU is not here.
        """
        key = tested.config.name, requests.batch
        if key not in self._known:
            self._known[key] = self._predictions(tested.network, requests)
        return self._known[key]

    def _predictions(self, network: ModelConfig, requests: RequestSet) -> ReferenceOutputs:
        artifact, contract = artifact_of_served_model(network, self.manifest), self.manifest.contract
        spec = onnx_engine(artifact, self.manifest, self.folder, gpu_of_served_model(network))
        with self.open_runner(spec) as runner:
            predictions = tuple(
                runner.infer(images_of(request, contract)).probabilities for request in requests.requests()
            )
        return ReferenceOutputs(probabilities=predictions, tolerance=most_difference(network))


def most_difference(network: ModelConfig) -> float:
    """Return how far a probability of a served model may be from its reference."""
    runtime = runtime_of_backend(network.backend)
    is_engine = runtime is not None and runtime.bound_to_machine
    return MOST_DIFFERENCE_OF_ENGINES if is_engine else SAME_PROBABILITY


def images_of(request: InferRequest, contract: Contract) -> Uint8Array:
    """Return the images of a request as the network takes them, `(N, height, width, 3)`.

    Encoded images are decoded and prepared by the contract.
    """
    encoded: npt.NDArray[Any] | None = request.inputs.get(ENCODED_INPUT_NAME)
    if encoded is None:
        images: Uint8Array = request.inputs[contract.input_name]
        return images
    return np.stack([contract.prepared(image) for image in encoded.ravel()])
