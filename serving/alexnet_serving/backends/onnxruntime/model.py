"""ONNX Runtime, under the name of Triton's own backend.

Triton prefers its C++ backend of this name where there is one (NVIDIA's images), so the same repository is
served by either, alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime

if TYPE_CHECKING:
    from ..batching import BatchingModel
else:
    from batching import BatchingModel  # Triton's stub puts this folder on the path, as a top level


class TritonPythonModel(BatchingModel):
    def initialize(self, args: Mapping[str, str]) -> None:
        self._providers: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
        if args["model_instance_kind"] == "GPU":  # Triton has seen one
            # TF32 is on by default, and is not the FP32 that was judged.
            device = {"device_id": args["model_instance_device_id"], "use_tf32": "0"}
            self._providers.insert(0, ("CUDAExecutionProvider", device))
        super().initialize(args)

    def load(self, path: Path, options: Mapping[str, str]) -> None:
        """`options` are ONNX Runtime's session configuration entries."""
        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = 3  # errors
        for key, value in options.items():
            session_options.add_session_config_entry(key, value)
        self._session = onnxruntime.InferenceSession(str(path), session_options, providers=self._providers)
        wanted = self._providers[0][0]
        if wanted not in self._session.get_providers():  # it says so in its log, and takes the next one
            raise RuntimeError(
                f"ONNX Runtime {onnxruntime.__version__} has no {wanted} that loads, and Triton gave this "
                "model a GPU. Install onnxruntime-gpu for this machine's CUDA in onnxruntime's target, or "
                "hide the GPU: CUDA_VISIBLE_DEVICES=''"
            )
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        rows = self._session.run(self._outputs, {self._input: images})
        return dict(zip(self._outputs, rows, strict=True))
