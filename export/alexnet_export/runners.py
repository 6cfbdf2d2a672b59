"""The Runner interface, and how to open the runner of any registered runtime.

    with open_runner("openvino", RunnerSource(file=path, precision="int8", ...)) as runner:
        outputs = runner.infer(images)

PyTorch is the reference: the gate compares every other runner with it (`parity.py`, `gate.py`). The table of
runtimes (`alexnet_model.runtimes`) names the function that makes a runtime's runner from a `RunnerSource`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import UsageError
from alexnet_model.manifest import Artifact, RuntimeInfo, manifest_from_folder, verify_artifact
from alexnet_model.records import Precision
from alexnet_model.runtimes import runtime_named

from .cuda import CudaDevice

#: A NumPy array of float32, such as logits `(N, classes)`.
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """The outputs of a model for N images; row i belongs to image i.

    Attributes:
        probabilities: float32, `(N, classes)`.
        logits: float32, `(N, classes)`.
    """

    probabilities: FloatArray
    logits: FloatArray


class Runner(Protocol):
    """Holds a loaded model between `__enter__` and `__exit__`.

    `runtime` is complete only inside the `with`: the precision a runner computes in is read from the loaded
    model.
    """

    @property
    def runtime(self) -> RuntimeInfo:
        """Describe the runtime: its name, device, options, and the precision it computes in."""

    def infer(self, images: Uint8Array) -> Outputs:
        """Compute the outputs of `images`, uint8 `(N, S, S, 3)` with N at least 1."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class ResidentRunner(Runner, Protocol):
    """A runner on a GPU that can compute without copying: images are placed on the GPU beforehand.

    `take` and `launch` put work on the runner's CUDA stream and return before it is done.
    """

    def place(self, images: Uint8Array) -> Any:
        """Copy `images`, uint8 `(N, S, S, 3)`, to the GPU and return a handle to the copy."""

    def take(self, placed: Any) -> None:
        """Make placed images the next input."""

    def launch(self) -> None:
        """Compute the outputs of the current input; they stay on the GPU."""


@dataclass(frozen=True, kw_only=True)
class RunnerSource:
    """What a runtime's factory needs to make a runner.

    Attributes:
        file: The ONNX file, engine or checkpoint; `Runtime.source` says which of them the runtime loads.
        precision: The precision of that file.
        contract: The input contract of the model.
        classes: Number of classes of the model.
        max_batch: Largest batch that the runner will be given.
        options: Options that the runtime loads the file with. None: the runtime's own defaults for the
            precision.
        device: The GPU to compute on. None: the CPU.
        cuda_graphs: Whether to capture a CUDA graph for each batch size. Only for engines and ONNX Runtime
            on a GPU.
        graphs_optional: Whether ONNX Runtime runs a network without graphs that it cannot capture, as its
            backend does. Otherwise that is an error.
    """

    file: Path
    precision: Precision
    contract: Contract
    classes: int
    max_batch: int
    options: Mapping[str, str] | None = None
    device: CudaDevice | None = None
    cuda_graphs: bool = False
    graphs_optional: bool = False

    def on_gpu(self, device: CudaDevice) -> Self:
        """Return the source for a GPU, to be run as the server does: with CUDA graphs where possible."""
        return replace(self, device=device, cuda_graphs=True, graphs_optional=True)


def open_runner(runtime_name: str, source: RunnerSource) -> Runner:
    """Make the runner of a registered runtime; entering the runner loads the file.

    Args:
        runtime_name: The runtime's name in the table, such as `openvino`.
        source: The file and how to run it.

    Raises:
        UsageError: no runtime has that name, or it does not compute on the source's device.
        RuntimeNotUsable: the table names a function that does not exist.
        MissingExtra: a library that the runtime needs is not installed.
        EngineError: the library is installed but does not load.
        ManifestError: an engine has no passport beside it.
        CheckpointError: a checkpoint cannot be read.
    """
    runtime = runtime_named(runtime_name)
    device = "cpu" if source.device is None else "gpu"
    if device not in runtime.devices:
        raise UsageError(
            f"device for {runtime.title}", got=device.upper(), expected=" or ".join(runtime.devices).upper()
        )
    runner: Runner = runtime.load_runner_factory()(source)
    return runner


def runner_from_artifact(artifact: Artifact, folder: Path, device: CudaDevice | None = None) -> Runner:
    """Open an ONNX file of an export with the runtime and options that it is served with.

    Args:
        artifact: The record of the ONNX file.
        folder: The folder of the export, with its `export.json`.
        device: The GPU to compute on, with CUDA graphs as the server does. A runtime that computes only on
            the CPU ignores it. None: the CPU.

    Raises:
        ManifestError: the record is broken, or the file is missing or has another hash than the record's.
        MissingExtra: a library that the runtime needs is not installed.
    """
    manifest = manifest_from_folder(folder)
    served_by = artifact.served_by
    source = RunnerSource(
        file=verify_artifact(artifact, folder),
        precision=artifact.precision,
        contract=manifest.contract,
        classes=len(manifest.model.class_names),
        max_batch=manifest.max_batch,
        options=served_by.options,
    )
    if device is not None and "gpu" in runtime_named(served_by.name).devices:
        source = source.on_gpu(device)
    return open_runner(served_by.name, source)


def infer_in_batches(runner: Runner, images: Uint8Array, batch: int) -> Outputs:
    """Compute the outputs of any number of images, at most `batch` at a time.

    Args:
        runner: A runner that was entered.
        images: uint8 `(N, S, S, 3)`, N at least 1.
        batch: Largest number of images in one call.
    """
    parts = [runner.infer(images[start : start + batch]) for start in range(0, len(images), batch)]
    return Outputs(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.logits for part in parts]),
    )
