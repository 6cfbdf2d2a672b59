"""The Triton backend: it runs in Triton's Python process, without this package and with `batching.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime

if TYPE_CHECKING:
    from alexnet_serving.backends.batching import BatchingModel
else:
    from batching import BatchingModel


class TritonPythonModel(BatchingModel):
    def load(self, path: Path, options: Mapping[str, str]) -> None:
        session_options = onnxruntime.SessionOptions()
        session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            path, session_options, providers=["CPUExecutionProvider"]
        )

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        names = [output.name for output in self._session.get_outputs()]
        rows = self._session.run(names, {self._session.get_inputs()[0].name: images})
        return dict(zip(names, rows, strict=True))
