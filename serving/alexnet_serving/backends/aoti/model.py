"""AOTInductor as a Python-based backend: networks that PyTorch compiled for this machine.

On a GPU, each batch size that the configuration names is captured as a CUDA graph at its first request, which
is the warm-up's. Other sizes run without a graph: no batch is padded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch._C._aoti import AOTIModelPackageLoader

if TYPE_CHECKING:
    from ..batching import BatchingModel
else:
    from batching import BatchingModel  # Triton's stub puts this folder on the path

ENGINE = "model.pt2"


class TritonPythonModel(BatchingModel):
    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        (image,) = config["input"]
        self._shape = (config["max_batch_size"], *(int(side) for side in image["dims"]))
        self._names = [output["name"] for output in config["output"]]  # in the order of the network's outputs
        self._device = torch.device("cpu")
        self._engine = ENGINE
        if args["model_instance_kind"] == "GPU":
            self._device = torch.device("cuda", int(args["model_instance_device_id"]))
            by_capability = config.get("cc_model_filenames") or {}
            major, minor = torch.cuda.get_device_capability(self._device)
            self._engine = by_capability.get(f"{major}.{minor}", ENGINE)
        self._sha256 = parameters[f"engine_sha256{Path(self._engine).stem.removeprefix('model')}"]
        self._graph_batches = frozenset(json.loads(parameters.get("cuda_graph_batches", "[]")))
        self._replays: dict[int, Callable[[], Any]] = {}  # by batch
        super().initialize(args)

    def load(self, path: Path, options: Mapping[str, str]) -> None:
        """Load the network; `options` say which PyTorch compiled it, which was checked before the start."""
        engine = path.with_name(self._engine)
        # It is an archive with a shared library, which runs as soon as it is loaded.
        with engine.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._sha256:
            raise RuntimeError(f"{engine} has SHA-256 {found}, and not that of its record, {self._sha256}")
        index = -1
        if self._device.type == "cuda":
            index = self._device.index
            torch.cuda.set_device(self._device)
            # TF32 is on by default for convolutions and is not the FP32 that the gate judged.
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._images = torch.empty(self._shape, dtype=torch.uint8, device=self._device)
        # Not `aoti_load_package`, which starts a C++ compiler to look at the CPU. Single-threaded, since the
        # loader's own synchronisation between threads cannot be captured in a CUDA graph.
        self._loader = AOTIModelPackageLoader(str(engine), "model", True, 1, index)

    def infer(self, images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        with torch.inference_mode():
            tensor = torch.from_numpy(np.require(images, requirements=["C", "W"]))
            outputs = self._loader.run([tensor]) if self._device.type == "cpu" else self._on_gpu(tensor)
            return {name: rows.cpu().numpy() for name, rows in zip(self._names, outputs, strict=True)}

    def _on_gpu(self, images: torch.Tensor) -> Any:
        batch = len(images)
        with torch.cuda.stream(self._stream):
            self._images[:batch].copy_(images)
            if batch not in self._graph_batches:
                return self._synchronised(self._loader.run([self._images[:batch]]))
            if batch not in self._replays:
                self._replays[batch] = self._captured(batch)
            return self._synchronised(self._replays[batch]())

    def _synchronised(self, outputs: Any) -> Any:
        self._stream.synchronize()
        return outputs

    def _captured(self, batch: int) -> Callable[[], Any]:
        """Capture the network at one batch size, and return a function that replays it."""
        self._loader.run([self._images[:batch]])  # libraries initialise state outside a graph
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            outputs = self._loader.run([self._images[:batch]])

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay
