"""Base class of the Python-based backends: run several requests as one batch, and split the outputs.

Triton's Python stub imports `model.py` from the backend's folder and this file beside it. Both need only
numpy and the runtime. Before a request arrives here, Triton has checked names, shapes, dtypes and the batch
size against `config.pbtxt`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

MODEL_FILE = "model.onnx"
OPTIONS_PARAMETER = "runtime_options"


class BatchingModel:
    """A `TritonPythonModel` without its runtime: subclasses load the network and run it.

    `self._max_batch` is the largest batch of the model.
    """

    def load(self, path: Path, options: Mapping[str, str]) -> None:
        """Load the network.

        Args:
            path: The ONNX file.
            options: The runtime's options that the network was measured with.
        """
        raise NotImplementedError

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        """Return every output by name, each `(N, classes)`, for images `(N, H, W, 3)`."""
        raise NotImplementedError

    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        (image,) = config["input"]
        self._input_name = image["name"]
        self._max_batch = int(config["max_batch_size"])
        # Several requests are copied here; a single one is used in place, in shared memory.
        shape = (self._max_batch, *(int(side) for side in image["dims"]))
        self._gathered = np.empty(shape, np.uint8)
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        path = Path(args["model_repository"]) / args["model_version"] / MODEL_FILE
        self.load(path, json.loads(parameters.get(OPTIONS_PARAMETER, "{}")))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return one response for each request, in order."""
        try:
            images = [
                pb_utils.get_input_tensor_by_name(request, self._input_name).as_numpy()
                for request in requests
            ]
            outputs = self.infer(self._batch(images))
        except Exception as error:  # an error raised here would end the model's process
            failure = pb_utils.TritonError(f"{type(error).__name__}: {error}")
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        responses = []
        start = 0
        for request, part in zip(requests, images, strict=True):
            stop = start + len(part)
            wanted = request.requested_output_names()
            responses.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor(name, rows[start:stop])
                        for name, rows in outputs.items()
                        if name in wanted
                    ]
                )
            )
            start = stop
        return responses

    def _batch(self, parts: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        if len(parts) == 1:
            return parts[0]
        batch = self._gathered[: sum(len(part) for part in parts)]
        return np.concatenate(parts, out=batch)
