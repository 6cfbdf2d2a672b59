"""What the Python-based backends share: several requests in, one batch through a network, one answer each.

Triton's Python stub imports `model.py` from the backend's folder, and this file from beside it; both need
nothing but numpy and the runtime. Triton has already checked names, shapes, dtypes and the batch's size
against `config.pbtxt` before a request arrives here.
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
    """A `TritonPythonModel` but for the runtime: subclasses load the network and run it."""

    def load(self, path: Path, options: Mapping[str, str]) -> None:
        """Load the network with the options that it was measured with."""
        raise NotImplementedError

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        """Answer `(N, H, W, 3)`: every output, by name, each `(N, classes)`."""
        raise NotImplementedError

    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        (image,) = config["input"]
        self._input_name = image["name"]
        # Several requests are gathered here; a single one is passed on where it lies in shared memory.
        shape = (config["max_batch_size"], *(int(side) for side in image["dims"]))
        self._gathered = np.empty(shape, np.uint8)
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        path = Path(args["model_repository"]) / args["model_version"] / MODEL_FILE
        self.load(path, json.loads(parameters.get(OPTIONS_PARAMETER, "{}")))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, in order."""
        try:
            images = [
                pb_utils.get_input_tensor_by_name(request, self._input_name).as_numpy()
                for request in requests
            ]
            outputs = self.infer(self._batch(images))
        except Exception as error:  # an error that left here would cost the server its model
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
