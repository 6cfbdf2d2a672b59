"""PyTorch: the reference that the gate compares every other runner with, as it is and compiled."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Self

import numpy as np

from alexnet_model.checkpoint import Checkpoint, load_checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Uint8Array
from alexnet_model.cxx_compiler import advice_after_failure
from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.manifest import RuntimeInfo

from .cuda import CudaDevice
from .runners import Outputs, RunnerSource

with needs("export"):
    import torch


def runner_from_source(source: RunnerSource) -> TorchRunner:
    """Make a runner of the checkpoint in `source.file`.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    return TorchRunner(load_checkpoint(source.file), source.device)


def compiled_runner_from_source(source: RunnerSource) -> CompiledTorchRunner:
    """Make a runner of the checkpoint in `source.file` that compiles the network on entering.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    return CompiledTorchRunner(load_checkpoint(source.file), source.device, max_batch=source.max_batch)


class TorchRunner:
    """Run a checkpoint in PyTorch in float32: the reference.

    Inside the `with`, PyTorch's TF32 switches are off for the whole process if the runner is on a GPU; they
    are restored on exit.

    Args:
        checkpoint: The network and its contract.
        device: The GPU to compute on. None: the CPU.
    """

    def __init__(self, checkpoint: Checkpoint, device: CudaDevice | None = None) -> None:
        self._checkpoint = checkpoint
        self._classifier: Any = Classifier(checkpoint.network(), checkpoint.contract).eval()
        self._device = device
        self._on_exit = ExitStack()
        name = "CPU" if device is None else device.name
        self.runtime = RuntimeInfo(name="pytorch", device=name, computes_in="f32")

    def infer(self, images: Uint8Array) -> Outputs:
        with self._on_stream():
            probabilities, logits = self._outputs_of(self.place(images))
            return Outputs(probabilities.cpu().numpy(), logits.cpu().numpy())

    def place(self, images: Uint8Array) -> Any:
        tensor = torch.from_numpy(images)
        return tensor if self._device is None else tensor.to(f"cuda:{self._device.index}")

    def take(self, placed: Any) -> None:
        self._images = placed

    def launch(self) -> None:
        with self._on_stream():
            self._outputs = self._outputs_of(self._images)

    def _outputs_of(self, placed: Any) -> Any:
        with torch.inference_mode():
            return self._classifier(placed)

    def _on_stream(self) -> AbstractContextManager[None]:
        return nullcontext() if self._device is None else self._device.working()

    def __enter__(self) -> Self:
        if self._device is not None:
            # cuDNN's is on by default for convolutions, and TF32 is not FP32.
            switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
            for switch in switches:
                self._on_exit.callback(setattr, switch, "allow_tf32", switch.allow_tf32)
                switch.allow_tf32 = False
            self._classifier.to(f"cuda:{self._device.index}")
        return self

    def __exit__(self, *_: object) -> None:
        self._on_exit.close()


class CompiledTorchRunner(TorchRunner):
    """Run a checkpoint through `torch.compile`, which needs a C++ compiler, or on a GPU the Triton language.

    Entering compiles: for any batch, then for one image and for the largest batch, which PyTorch may
    specialise.

    Args:
        checkpoint: The network and its contract.
        device: The GPU to compute on. None: the CPU.
        max_batch: The largest batch that the runner will be given.

    Raises (on entering):
        ExportError: PyTorch cannot compile the network.
    """

    def __init__(self, checkpoint: Checkpoint, device: CudaDevice | None = None, *, max_batch: int) -> None:
        super().__init__(checkpoint, device)
        self._batches = dict.fromkeys((min(2, max_batch), 1, max_batch))

    def __enter__(self) -> Self:
        super().__enter__()
        self._classifier = torch.compile(self._classifier)
        shape = self._checkpoint.contract.image_shape
        try:
            for batch in self._batches:
                images = self.place(np.zeros((batch, *shape), np.uint8))
                if batch > 1:
                    torch._dynamo.mark_dynamic(images, 0)
                self.take(images)
                self.launch()
        except Exception as error:  # PyTorch's compilers raise errors of every kind
            self._on_exit.close()
            raise ExportError(
                "torch.compile",
                got=_first_line(error),
                expected="a network that it can compile",
                next_step=advice_after_failure("Leave it out, or check that a C++ compiler works here."),
            ) from error
        return self


def _first_line(error: Exception) -> str:
    error = getattr(
        error, "inner_exception", error
    )  # PyTorch's compilers wrap the error that occurred in them
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
