"""ONNX Runtime as a Python-based backend, with the name of Triton's own backend.

Triton prefers its C++ backend of this name if it has one, as in NVIDIA's images. So both serve the same
repository.

On a GPU, the usual batch sizes are captured as CUDA graphs before the model is ready; other sizes run without
one.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from ..batching import BatchingModel
else:
    from batching import BatchingModel  # Triton's stub puts this folder on the path

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GRAPH_ID = "gpu_graph_id"  # of a run; -1 runs without a graph
LOG_ERRORS_ONLY, LOG_FATAL_ONLY = 3, 4


class TritonPythonModel(BatchingModel):
    def initialize(self, args: Mapping[str, str]) -> None:
        on_gpu = args["model_instance_kind"] == "GPU"  # Triton found a GPU
        self._gpu = int(args["model_instance_device_id"]) if on_gpu else None
        super().initialize(args)

    def load(self, path: Path, options: Mapping[str, str]) -> None:
        """Load the network; `options` are ONNX Runtime's session configuration entries."""
        self._graphs: dict[int, CapturedBatch] = {}
        if self._gpu is None:
            self._session = session_of(path, options, [(CPU, {})])
        else:
            self._load_on_gpu(path, options, self._gpu)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry(GRAPH_ID, "-1")

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        if len(images) in self._graphs:
            return self._graphs[len(images)].infer(images)
        rows = self._session.run(self._outputs, {self._input: images}, self._run_options)
        return dict(zip(self._outputs, rows, strict=True))

    def _load_on_gpu(self, path: Path, options: Mapping[str, str], gpu: int) -> None:
        reason = preload_cuda()
        if CUDA not in onnxruntime.get_available_providers():
            raise no_cuda("this build has none")
        # It reports each cuDNN plan that it tries in vain as an error, and a CUDA library that does not load.
        onnxruntime.set_default_logger_severity(LOG_FATAL_ONLY)
        cuda = {"use_tf32": "0"}  # on by default, and not the FP32 that the gate judged
        if gpu:  # 0 is the default, and ONNX Runtime 1.26 and later warn if it is given
            cuda["device_id"] = str(gpu)
        try:
            self._session = session_of(path, options, [(CUDA, {**cuda, "enable_cuda_graph": "1"}), (CPU, {})])
            if CUDA in self._session.get_providers():
                for batch in graph_sizes(self._max_batch):
                    self._graphs[batch] = CapturedBatch(self._session, batch, gpu)
        except Exception as error:  # a layer without a CUDA kernel, or one that cannot be captured
            pb_utils.Logger.log_warn(f"{path}: no CUDA graphs, so small batches are slower: {error}")
            self._graphs.clear()
            self._session = session_of(path, options, [(CUDA, cuda), (CPU, {})])
        if CUDA not in self._session.get_providers():  # it then uses the CPU
            raise no_cuda(reason or "its libraries do not load")


class CapturedBatch:
    """One batch size captured as a CUDA graph, which reads and writes the same memory at each run."""

    def __init__(self, session: Any, batch: int, gpu: int) -> None:
        (image,) = session.get_inputs()
        value_from_shape = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._session = session
        self._binding = session.io_binding()
        self._image = value_from_shape((batch, *image.shape[1:]), np.uint8, "cuda", gpu)
        self._binding.bind_ortvalue_input(image.name, self._image)
        self._outputs = {
            output.name: value_from_shape((batch, *output.shape[1:]), np.float32, "cuda", gpu)
            for output in session.get_outputs()
        }
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry(GRAPH_ID, str(batch))
        self.infer(np.zeros((batch, *image.shape[1:]), np.uint8))  # captures

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        self._image.update_inplace(images)
        self._session.run_with_iobinding(self._binding, self._run_options)
        return {name: value.numpy() for name, value in self._outputs.items()}


def graph_sizes(largest: int) -> list[int]:
    """Return the batch sizes to capture: to 8, where a graph saves most, the powers of two, and the largest.

    They are those of TensorRT engines. Each holds its images and outputs on the GPU.
    """
    sizes = {*range(1, 9), *(2**n for n in range(4, largest.bit_length())), largest}
    return sorted(size for size in sizes if size <= largest)


def session_of(path: Path, options: Mapping[str, str], providers: list[tuple[str, dict[str, str]]]) -> Any:
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = LOG_ERRORS_ONLY
    for key, value in options.items():
        session_options.add_session_config_entry(key, value)
    # With its fallback, a session whose GPU fails prints that and goes on with the CPU.
    return onnxruntime.InferenceSession(str(path), session_options, providers=providers, enable_fallback=0)


def preload_cuda() -> str:
    """Load CUDA's libraries, unless PyTorch has; return which one does not load and why, or an empty text."""
    if "torch" in sys.modules:
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # it prints what it does not find
        onnxruntime.preload_dlls()
    return next((line for line in printed.getvalue().splitlines() if line.startswith("Failed to load")), "")


def no_cuda(reason: str) -> RuntimeError:
    return RuntimeError(
        f"ONNX Runtime {onnxruntime.__version__} has no {CUDA} that loads ({reason}), and Triton assigned a "
        "GPU to this model. Install onnxruntime-gpu for this machine's CUDA, without onnxruntime, or hide "
        "the GPU: CUDA_VISIBLE_DEVICES=''"
    )
