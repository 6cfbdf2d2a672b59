"""The parity matrix: whether a runner's output for an image depends on its batch.

For each batch size the probes are sent in four arrangements: one image in every slot, then different
images forwards, backwards and shifted by one. So every slot sees several images, and every image several
slots and neighbours. Each output is compared with the runner's own output for that image alone, and with
PyTorch's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Uint8Array
from alexnet_model.manifest import BatchParity

from .runners import FloatArray, Runner, infer_in_batches
from .statistics import signal_to_noise_db, softmax

ARRANGEMENTS = 4  # of images, at each batch size


def parity_batches(max_batch: int) -> tuple[int, ...]:
    """Return the batch sizes to check: 1, 2, 3 and 8 as far as they fit, and the largest."""
    return tuple(sorted({batch for batch in (1, 2, 3, 8) if batch <= max_batch} | {max_batch}))


def parity_matrix(
    runner: Runner, probes: Uint8Array, reference: FloatArray, batches: tuple[int, ...]
) -> tuple[BatchParity, ...]:
    """Compute one row for each batch size.

    Args:
        runner: A runner that was entered.
        probes: Different images, uint8 `(P, S, S, 3)`, P at least the largest batch.
        reference: PyTorch's logits for the probes, float32 `(P, classes)`.
        batches: The batch sizes.
    """
    alone = infer_in_batches(runner, probes, 1).logits  # (P, classes)
    return tuple(_row(runner, probes, reference, alone, batch) for batch in batches)


def _row(
    runner: Runner, probes: Uint8Array, reference: FloatArray, alone: FloatArray, batch: int
) -> BatchParity:
    against_alone = np.full(batch, np.inf)  # (batch,), the worst of each slot
    against_pytorch = np.inf
    same_top1 = finite = True
    probabilities_off = 0.0
    for chosen in _arrangements(len(probes), batch):
        outputs = runner.infer(probes[chosen])
        logits = outputs.logits  # (batch, classes)
        finite &= bool(np.isfinite(logits).all() and np.isfinite(outputs.probabilities).all())
        if finite:
            off = float(np.abs(outputs.probabilities - softmax(logits)).max())
            probabilities_off = max(probabilities_off, off)
        same_top1 &= bool((logits.argmax(axis=1) == alone[chosen].argmax(axis=1)).all())
        for slot, index in enumerate(chosen):
            to_alone = signal_to_noise_db(alone[index], logits[slot])
            against_alone[slot] = min(against_alone[slot], to_alone)
            against_pytorch = min(against_pytorch, signal_to_noise_db(reference[index], logits[slot]))
    return BatchParity(
        batch=batch,
        against_pytorch_db=round(against_pytorch, 1),
        against_alone_db=round(float(against_alone.min()), 1),
        same_top1=same_top1,
        worst_slot=int(against_alone.argmin()),
        finite=finite,
        probabilities_off=probabilities_off,
    )


def _arrangements(probes: int, batch: int) -> list[npt.NDArray[np.int64]]:
    forwards = np.arange(batch)
    return [np.zeros(batch, np.int64), forwards, probes - 1 - forwards, np.roll(forwards, 1)]
