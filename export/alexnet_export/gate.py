"""The gate: a precision is served only if it is still the same model.

On an easy evaluation set a bad INT8 keeps its accuracy, so the gate also checks the logits' signal-to-noise
ratio and the agreement with PyTorch (docs/decisions/gate.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Uint8Array
from alexnet_model.manifest import GateDecision, RunnerReport, RuntimeInfo
from alexnet_model.progress import Progress, silent

from .parity import ARRANGEMENTS, parity_batches, parity_matrix
from .runners import FloatArray, Outputs, Runner, infer_in_batches
from .statistics import paired_drop_interval, signal_to_noise_db, wilson_interval

EVALUATION_BATCH = 32
BRIEF_BATCH = 8
BRIEF_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """What a precision may lose.

    Attributes:
        signal_to_noise_db: Least ratio of the logits to their error against PyTorch, in decibels.
        slot_db: Least ratio of the logits to their difference from the same image alone, in decibels.
        agreement: Least share of images with PyTorch's top-1 class, 0 to 1.
        probabilities_off: Largest difference of a probability from the softmax of its logits.
        top1_drop: Largest fall of the top-1 accuracy, as a share 0 to 1.
    """

    signal_to_noise_db: float = 30.0
    slot_db: float = 40.0
    agreement: float = 0.99
    probabilities_off: float = 0.002  # half precision rounds a probability near 1 by 0.0005
    top1_drop: float = 0.01


@dataclass(frozen=True)
class Reference:
    """Images and PyTorch's outputs for them.

    Attributes:
        images: uint8, `(N, S, S, 3)`.
        labels: int64, `(N,)`; None if the classes are unknown.
        logits: PyTorch's, float32, `(N, classes)`.
    """

    images: Uint8Array
    labels: npt.NDArray[np.int64] | None
    logits: FloatArray

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """PyTorch's top-1 classes, int64, `(N,)`."""
        best: npt.NDArray[np.int64] = np.argmax(self.logits, axis=1)
        return best

    def first(self, count: int) -> Self:
        """Return the first `count` images, or all if there are fewer."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, images=self.images[:count], labels=labels, logits=self.logits[:count])


@dataclass(frozen=True)
class GateInputs:
    """Everything a runner is checked with: images, PyTorch's outputs, and what may be lost.

    Attributes:
        reference: The evaluation images.
        probes: Different images for the parity matrix, as many as the largest batch, uint8
            `(P, S, S, 3)`.
        probe_logits: PyTorch's logits for the probes, float32 `(P, classes)`.
        max_batch: The largest batch to check.
        tolerances: What a precision may lose.
        evaluated_on: The evaluation images in words, for the record.
    """

    reference: Reference
    probes: Uint8Array
    probe_logits: FloatArray
    max_batch: int
    tolerances: Tolerances
    evaluated_on: str

    @classmethod
    def from_references(
        cls,
        reference: Reference,
        synthetic: Reference,
        *,
        max_batch: int,
        tolerances: Tolerances,
        evaluated_on: str,
    ) -> Self:
        """Make the inputs; the probes are evaluation images, then synthetic ones if those are too few."""
        missing = max(0, max_batch - len(reference.images))
        return cls(
            reference,
            np.concatenate([reference.images[:max_batch], synthetic.images[:missing]]),
            np.concatenate([reference.logits[:max_batch], synthetic.logits[:missing]]),
            max_batch,
            tolerances,
            evaluated_on,
        )

    def brief(self) -> Self:
        """Return the inputs for a runtime that does not serve: the first images, and small batches.

        Measuring such a runtime as fully as the one that serves took half the time of an export.
        """
        return replace(
            self,
            reference=self.reference.first(BRIEF_IMAGES),
            max_batch=min(self.max_batch, BRIEF_BATCH),
        )

    def report(
        self,
        runner: Runner,
        max_batch: int | None = None,
        *,
        progress: Progress = silent,
        stage: str = "checking",
    ) -> RunnerReport:
        """Enter a runner and measure it.

        Args:
            runner: The runner.
            max_batch: The runner's own largest batch, if it is smaller. None: that of the gate.
            progress: Called after each call of the runner.
            stage: The name of the stage for `progress`.
        """
        with runner:
            return self.report_of_loaded(runner, max_batch, progress=progress, stage=stage)

    def report_of_loaded(
        self,
        runner: Runner,
        max_batch: int | None = None,
        *,
        progress: Progress = silent,
        stage: str = "checking",
    ) -> RunnerReport:
        """Measure a runner that was entered already; otherwise as `report`."""
        largest = min(self.max_batch, max_batch or self.max_batch)
        return runner_report(
            _ProgressRunner(runner, progress, stage, self._calls(largest)),
            self.reference,
            self.probes[:largest],
            self.probe_logits[:largest],
            largest,
        )

    def _calls(self, largest: int) -> int:
        """Return the calls of a report: each probe alone, the parity matrix, and the evaluation images."""
        evaluation = math.ceil(len(self.reference.images) / min(EVALUATION_BATCH, largest))
        return largest + ARRANGEMENTS * len(parity_batches(largest)) + evaluation

    def decision(self, report: RunnerReport) -> GateDecision:
        """Accept or refuse what was measured."""
        return gate_decision(report, self.tolerances)


class _ProgressRunner:
    """A runner that reports progress after each call, since some take seconds."""

    def __init__(self, runner: Runner, progress: Progress, stage: str, total: int) -> None:
        self._runner = runner
        self._progress = progress
        self._stage = stage
        self._total = total
        self._done = 0
        progress(stage, 0, total)

    @property
    def runtime(self) -> RuntimeInfo:
        return self._runner.runtime

    def infer(self, images: Uint8Array) -> Outputs:
        outputs = self._runner.infer(images)
        self._done += 1
        self._progress(self._stage, self._done, self._total)
        return outputs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def runner_report(
    runner: Runner, reference: Reference, probes: Uint8Array, probe_logits: FloatArray, max_batch: int
) -> RunnerReport:
    """Measure a runner: the parity matrix on the probes, fidelity and accuracy on the evaluation images.

    Args:
        runner: A runner that was entered.
        reference: The evaluation images.
        probes: Different images, uint8 `(P, S, S, 3)`, P at least `max_batch`.
        probe_logits: PyTorch's logits for the probes, float32 `(P, classes)`.
        max_batch: The largest batch to check.
    """
    parity = parity_matrix(runner, probes, probe_logits, parity_batches(max_batch))
    outputs = infer_in_batches(runner, reference.images, min(EVALUATION_BATCH, max_batch))
    return RunnerReport(runtime=runner.runtime, parity=parity, **_fidelity(outputs, reference))


def gate_decision(report: RunnerReport, tolerances: Tolerances) -> GateDecision:
    """Accept a runner's report, or refuse it with the first reason."""
    reason = _first_failure(report, tolerances)
    if reason:
        return GateDecision(accepted=False, reason=reason)
    measured = (
        "same model" if report.top1_drop is not None else "same model (accuracy not measured: no labels)"
    )
    return GateDecision(accepted=True, reason=measured)


def _first_failure(report: RunnerReport, tolerances: Tolerances) -> str:
    for row in report.parity:
        if not row.finite:
            return f"batch {row.batch}: an output is not finite"
        if row.against_alone_db < tolerances.slot_db or not row.same_top1:
            return (
                f"batch {row.batch}, slot {row.worst_slot}: an image's logits depend on its batch "
                f"({row.against_alone_db:.1f} dB to the image alone, at least {tolerances.slot_db:g} needed)"
            )
        if row.probabilities_off > tolerances.probabilities_off:
            return (
                f"batch {row.batch}: a probability is {row.probabilities_off:.2g} off the softmax of its "
                f"logits, at most {tolerances.probabilities_off:g} allowed"
            )
    if report.signal_to_noise_db < tolerances.signal_to_noise_db:
        return (
            f"logits are {report.signal_to_noise_db:.1f} dB above their error, "
            f"at least {tolerances.signal_to_noise_db:g} needed"
        )
    if report.agreement < tolerances.agreement:
        return f"top-1 agrees on {report.agreement:.1%} of images, at least {tolerances.agreement:.1%} needed"
    if report.top1_drop is not None and report.top1_drop > tolerances.top1_drop:
        return (
            f"top-1 falls by {100 * report.top1_drop:.2f} points, "
            f"at most {100 * tolerances.top1_drop:g} allowed"
        )
    return ""


def _fidelity(outputs: Outputs, reference: Reference) -> dict[str, Any]:
    logits = outputs.logits
    predictions = logits.argmax(axis=1)
    total = len(predictions)
    figures: dict[str, Any] = {
        "images": total,
        "signal_to_noise_db": round(signal_to_noise_db(reference.logits, logits), 2),
        "agreement": float((predictions == reference.predictions).mean()),
    }
    if reference.labels is None:
        return figures
    right = predictions == reference.labels
    right_before = reference.predictions == reference.labels
    to_wrong, to_right = int((right_before & ~right).sum()), int((right & ~right_before).sum())
    return figures | {
        "top1": float(right.mean()),
        "top1_interval": wilson_interval(int(right.sum()), total),
        "top1_drop": (to_wrong - to_right) / total,
        "top1_drop_interval": paired_drop_interval(to_wrong, to_right, total),
        "flips_to_wrong": to_wrong,
        "flips_to_right": to_right,
    }
