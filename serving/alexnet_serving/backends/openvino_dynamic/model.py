"""OpenVINO as a Python-based backend that takes every batch size up to the maximum.

NVIDIA's own `openvino` backend fixes a model's batch at `max_batch_size` and computes all of it for a single
image. This backend does not, so it has another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import openvino

if TYPE_CHECKING:
    from ..batching import BatchingModel
else:
    from batching import BatchingModel  # Triton's stub puts this folder on the path


class TritonPythonModel(BatchingModel):
    def load(self, path: Path, options: Mapping[str, str]) -> None:
        self._model = openvino.Core().compile_model(str(path), "CPU", dict(options))
        self._request = self._model.create_infer_request()

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        # Inputs and outputs share memory: the responses are copied before the next call overwrites it.
        results = self._request.infer([images], share_inputs=True, share_outputs=True)
        # An output of a converted file may have a second name from inside the graph: return it under each.
        return {name: rows for output, rows in results.items() for name in output.names}
