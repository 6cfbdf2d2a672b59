"""The Runner seam: something that answers prepared pictures, and says what it really computes in.

    with OpenVinoRunner(path) as runner:
        outputs = runner.infer(images)

PyTorch is the reference; every other runner is held against it (`parity.py`, `gate.py`). A runtime joins the
house by one class here and one backend folder in serving/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from alexnet_model.checkpoint import Checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Uint8Array
from alexnet_model.extras import needs
from alexnet_model.manifest import Runtime

with needs("export"):
    import torch

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """Row i answers picture i."""

    probabilities: FloatArray  # (N, classes)
    logits: FloatArray  # (N, classes)


class Runner(Protocol):
    """Holds a loaded model between `__enter__` and `__exit__`.

    `runtime` is complete only inside the `with`: what a runner computes in is asked of the loaded model.
    """

    @property
    def runtime(self) -> Runtime: ...

    def infer(self, images: Uint8Array) -> Outputs:
        """Answer `(N, 224, 224, 3)` uint8, N at least 1."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class TorchRunner:
    """The reference: the checkpoint itself in PyTorch, in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._classifier = Classifier(checkpoint.network(), checkpoint.contract).eval()
        self.runtime = Runtime(name="pytorch", device="CPU", computes_in="f32")

    def infer(self, images: Uint8Array) -> Outputs:
        with torch.inference_mode():
            probabilities, logits = self._classifier(torch.from_numpy(images))
        return Outputs(probabilities.numpy(), logits.numpy())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def infer_in_batches(runner: Runner, images: Uint8Array, batch: int) -> Outputs:
    """Answer any number of pictures, `batch` at a time."""
    parts = [runner.infer(images[start : start + batch]) for start in range(0, len(images), batch)]
    return Outputs(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.logits for part in parts]),
    )
