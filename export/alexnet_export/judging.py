"""Everything a runner is judged by: pictures, PyTorch's answers, and what may be lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from alexnet_model.contract import Uint8Array
from alexnet_model.manifest import RunnerReport, Verdict

from .gate import Reference, Tolerances, judge, report_of
from .runners import FloatArray, Runner


@dataclass(frozen=True)
class Judging:
    """`probes` are for the parity matrix: as many different pictures as the largest batch."""

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
        """Probes are real pictures first, then synthetic ones as far as those are too few."""
        missing = max(0, max_batch - len(reference.images))
        return cls(
            reference,
            np.concatenate([reference.images[:max_batch], synthetic.images[:missing]]),
            np.concatenate([reference.logits[:max_batch], synthetic.logits[:missing]]),
            max_batch,
            tolerances,
            judged_on,
        )

    def report(self, runner: Runner, max_batch: int | None = None) -> RunnerReport:
        """Measure a runner, up to its own largest batch where that is smaller."""
        with runner:
            largest = min(self.max_batch, max_batch or self.max_batch)
            return report_of(
                runner, self.reference, self.probes[:largest], self.probe_logits[:largest], largest
            )

    def verdict(self, report: RunnerReport) -> Verdict:
        return judge(report, self.tolerances)
