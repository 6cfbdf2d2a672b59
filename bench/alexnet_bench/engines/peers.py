"""What a user of PyTorch would run instead on a GPU, to compare with: half precision, channels last.

The weights are really half: autocast would cast them at every call. `HalfTorchRunner` replays a CUDA graph
for each batch size; `MaxAutotuneRunner` leaves that to `torch.compile(mode="max-autotune")`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from alexnet_export import Outputs, RunnerSource
from alexnet_export.cuda import contiguous
from alexnet_model.checkpoint import Checkpoint, load_checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Uint8Array
from alexnet_model.cxx_compiler import advice_after_failure
from alexnet_model.errors import EngineError, ExportError
from alexnet_model.extras import needs
from alexnet_model.manifest import RuntimeInfo

with needs("export"):
    import torch


def half_runner_from_source(source: RunnerSource, *, compiled: bool) -> HalfTorchRunner:
    """Make the runner of the checkpoint in `source.file`, on the GPU of the source.

    Args:
        source: The checkpoint and the GPU.
        compiled: Whether `torch.compile` compiles the network, on entering.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    assert source.device is not None
    runner = MaxAutotuneRunner if compiled else HalfTorchRunner
    return runner(load_checkpoint(source.file), source.device, max_batch=source.max_batch)


class HalfTorchRunner:
    """Run a checkpoint in PyTorch in half precision and channels last, with a CUDA graph for each batch size.

    Args:
        checkpoint: The network and its contract.
        device: The GPU, as an `alexnet_export.CudaDevice`.
        max_batch: The largest batch that the runner will be given.
    """

    def __init__(self, checkpoint: Checkpoint, device: Any, *, max_batch: int) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._max_batch = max_batch
        self._launches: dict[int, Callable[[], None]] = {}  # by batch
        self._outputs: dict[int, Any] = {}  # by batch: a graph writes to the same memory at every replay
        self.runtime = RuntimeInfo(name="pytorch", device=device.name, computes_in="f16")

    def __enter__(self) -> Self:
        contract = self._checkpoint.contract
        self._device.make_current()
        self._images = self._device.buffer((self._max_batch, *contract.image_shape), "uint8")
        classifier = Classifier(self._checkpoint.network(), contract).eval().half()
        on_gpu: Any = classifier.to(self._images.device)
        self._classifier = on_gpu.to(memory_format=torch.channels_last)
        return self

    def __exit__(self, *_: object) -> None:
        self._launches.clear()
        self._outputs.clear()
        self._classifier = self._images = None

    def infer(self, images: Uint8Array) -> Outputs:
        batch = self._within_largest(len(images))
        self._device.upload(contiguous(images), self._images)
        self._launched(batch)
        probabilities, logits = self._outputs[batch]
        return Outputs(self._device.download(probabilities, batch), self._device.download(logits, batch))

    def place(self, images: Uint8Array) -> Any:
        buffer = self._device.buffer(images.shape, "uint8")
        self._device.upload(contiguous(images), buffer)
        return buffer

    def take(self, placed: Any) -> None:
        self._batch = self._within_largest(len(placed))
        self._device.move(placed, self._images)

    def launch(self) -> None:
        self._launched(self._batch)

    def _launched(self, batch: int) -> None:
        if batch not in self._launches:
            self._launches[batch] = self._device.captured(lambda: self._compute(batch))
        self._launches[batch]()

    def _compute(self, batch: int) -> None:
        with torch.inference_mode(), self._device.working():
            images = self._images if batch == self._max_batch else self._images[:batch]
            self._outputs[batch] = self._outputs_of(images)

    def _outputs_of(self, images: Any) -> Any:
        """Return probabilities and logits in float32. Softmax is computed in float32 as the exports do."""
        logits = self._classifier.network(self._classifier.normalised(images)).float()
        return torch.softmax(logits, dim=1), logits

    def _within_largest(self, batch: int) -> int:
        if batch > self._max_batch:
            raise EngineError(
                "PyTorch in half precision", got=f"a batch of {batch}", expected=f"at most {self._max_batch}"
            )
        return batch


class MaxAutotuneRunner(HalfTorchRunner):
    """Run a checkpoint through `torch.compile(mode="max-autotune")` in half precision and channels last.

    Entering compiles: for any batch, with kernels chosen for the largest one, and for one image.

    Raises (on entering):
        ExportError: PyTorch cannot compile the network.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        self._compiled = torch.compile(super()._outputs_of, mode="max-autotune")
        try:
            for batch in dict.fromkeys((self._max_batch, 1)):
                if batch > 1:
                    torch._dynamo.mark_dynamic(self._images, 0)
                self._compute(batch)
        except Exception as error:  # PyTorch's compilers raise errors of every kind
            first_line = next(iter(str(error).strip().splitlines()), "")
            raise ExportError(
                "torch.compile",
                got=f"{type(error).__name__}: {first_line}",
                expected="a network that it can compile",
                next_step=advice_after_failure("Leave it out, or check that a C++ compiler works here."),
            ) from error
        return self

    def _launched(self, batch: int) -> None:
        self._compute(batch)  # compiled code replays CUDA graphs of its own

    def _compute(self, batch: int) -> None:
        self._outputs.clear()  # the graphs of compiled code reuse the memory of earlier outputs
        super()._compute(batch)

    def _outputs_of(self, images: Any) -> Any:
        return self._compiled(images)
