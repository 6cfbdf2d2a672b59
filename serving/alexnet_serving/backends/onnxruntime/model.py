"""ONNX Runtime as a Python-based backend, with the name of Triton's own backend.

Triton prefers its C++ backend of this name if it has one, as in NVIDIA's images. So both serve the same
repository.
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
    from batching import BatchingModel  # Triton's stub puts this folder on the path


class TritonPythonModel(BatchingModel):
    def initialize(self, args: Mapping[str, str]) -> None:
        self._providers: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
        if args["model_instance_kind"] == "GPU":  # Triton found a GPU
            # TF32 is on by default and is not the FP32 that the gate judged.
            device = {"device_id": args["model_instance_device_id"], "use_tf32": "0"}
            self._providers.insert(0, ("CUDAExecutionProvider", device))
        super().initialize(args)

    def load(self, path: Path, options: Mapping[str, str]) -> None:
        """Load the network; `options` are ONNX Runtime's session configuration entries."""
        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = 3  # errors
        for key, value in options.items():
            session_options.add_session_config_entry(key, value)
        self._session = onnxruntime.InferenceSession(str(path), session_options, providers=self._providers)
        wanted = self._providers[0][0]
        if wanted not in self._session.get_providers():  # it only logs this, and uses the next provider
            raise RuntimeError(
                f"ONNX Runtime {onnxruntime.__version__} has no {wanted} that loads, and Triton assigned a "
                "GPU to this model. Install onnxruntime-gpu for this machine's CUDA, without onnxruntime, or "
                "hide the GPU: CUDA_VISIBLE_DEVICES=''"
            )
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        rows = self._session.run(self._outputs, {self._input: images})
        return dict(zip(self._outputs, rows, strict=True))
