"""Everything a runner is judged by: images, PyTorch's answers, and what may be lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from alexnet_model.contract import Uint8Array
from alexnet_model.manifest import GateDecision, RunnerReport, Runtime
from alexnet_model.progress import Progress, silent

from .gate import EVALUATION_BATCH, Reference, Tolerances, judge, report_of
from .parity import ARRANGEMENTS, parity_batches
from .runners import FloatArray, Outputs, Runner


@dataclass(frozen=True)
class GateInputs:
    """`probes` are for the parity matrix: as many different images as the largest batch."""

    reference: Reference
    probes: Uint8Array  # (P, 224, 224, 3)
    probe_logits: FloatArray  # (P, classes)
    max_batch: int
    tolerances: Tolerances
    judged_on: str

    @classmethod
    def of(
        cls,
        reference: Reference,
        synthetic: Reference,
        *,
        max_batch: int,
        tolerances: Tolerances,
        judged_on: str,
    ) -> Self:
        """Probes are real images first, then synthetic ones as far as those are too few."""
        missing = max(0, max_batch - len(reference.images))
        return cls(
            reference,
            np.concatenate([reference.images[:max_batch], synthetic.images[:missing]]),
            np.concatenate([reference.logits[:max_batch], synthetic.logits[:missing]]),
            max_batch,
            tolerances,
            judged_on,
        )

    def report(
        self,
        runner: Runner,
        max_batch: int | None = None,
        *,
        progress: Progress = silent,
        stage: str = "proving",
    ) -> RunnerReport:
        """Measure a runner, up to its own largest batch where that is smaller."""
        with runner:
            return self.report_of_loaded(runner, max_batch, progress=progress, stage=stage)

    def report_of_loaded(
        self,
        runner: Runner,
        max_batch: int | None = None,
        *,
        progress: Progress = silent,
        stage: str = "proving",
    ) -> RunnerReport:
        """The same of a runner that was entered already, and stays so."""
        largest = min(self.max_batch, max_batch or self.max_batch)
        return report_of(
            _Counted(runner, progress, stage, self._requests(largest)),
            self.reference,
            self.probes[:largest],
            self.probe_logits[:largest],
            largest,
        )

    def _requests(self, largest: int) -> int:
        """How many a report takes: each probe alone, the parity matrix, and the evaluation images."""
        evaluation = math.ceil(len(self.reference.images) / min(EVALUATION_BATCH, largest))
        return largest + ARRANGEMENTS * len(parity_batches(largest)) + evaluation

    def decision(self, report: RunnerReport) -> GateDecision:
        return judge(report, self.tolerances)


class _Counted:
    """A runner that reports each request: some take seconds."""

    def __init__(self, runner: Runner, progress: Progress, stage: str, total: int) -> None:
        self._runner = runner
        self._progress = progress
        self._stage = stage
        self._total = total
        self._done = 0
        progress(stage, 0, total)

    @property
    def runtime(self) -> Runtime:
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
