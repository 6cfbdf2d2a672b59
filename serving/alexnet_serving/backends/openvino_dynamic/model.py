"""OpenVINO for any batch up to the maximum.

NVIDIA's own `openvino` backend fixes a model's batch at `max_batch_size` and computes all of it for one
image, so this one, which takes any, has another name.
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
    from batching import BatchingModel  # Triton's stub puts this folder on the path, as a top level


class TritonPythonModel(BatchingModel):
    def load(self, path: Path, options: Mapping[str, str]) -> None:
        self._model = openvino.Core().compile_model(str(path), "CPU", dict(options))
        self._request = self._model.create_infer_request()

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        # Both ends share memory: nothing is overwritten before the responses have been copied out.
        results = self._request.infer([images], share_inputs=True, share_outputs=True)
        # A converted file's output may bear a second name from inside the graph: answer to all of them.
        return {name: rows for output, rows in results.items() for name in output.names}
