"""The matrix must see every way in which a batch can go wrong: it is shown models wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from alexnet_export import FloatArray, Outputs, Tolerances
from alexnet_export.gate import Reference, gate_decision, runner_report
from alexnet_export.openvino_runner import OpenVinoRunner, openvino_options
from alexnet_export.parity import parity_batches, parity_matrix
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.manifest import RuntimeInfo

BATCHES = (1, 2, 3, 8)


class SpoiledRunner:
    """A real runner whose logits are spoiled on the way out."""

    def __init__(self, path: Path, spoil: Callable[[FloatArray], None]) -> None:
        self._runner = OpenVinoRunner(path, Contract(), openvino_options("fp32"))
        self._spoil = spoil

    @property
    def runtime(self) -> RuntimeInfo:
        return self._runner.runtime

    def infer(self, images: Uint8Array) -> Outputs:
        outputs = self._runner.infer(images)
        logits, probabilities = outputs.logits.copy(), outputs.probabilities.copy()
        self._spoil(probabilities if self._spoil in OF_PROBABILITIES else logits)
        return Outputs(probabilities, logits)

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.__exit__()


def slot_five_of_eight(logits: FloatArray) -> None:
    if len(logits) == 8:
        logits[5] = logits[5][::-1]


def neighbour_leaks(logits: FloatArray) -> None:
    if len(logits) > 1:
        logits[0] += 0.05 * logits[1]


def last_slot_of_three_is_stale(logits: FloatArray) -> None:
    if len(logits) == 3:
        logits[2] = logits[0]


def nan_in_the_largest(logits: FloatArray) -> None:
    if len(logits) == 8:
        logits[7, 3] = np.nan


def probabilities_over_the_batch(probabilities: FloatArray) -> None:
    probabilities /= probabilities.sum(axis=0, keepdims=True)


def nan_probabilities(probabilities: FloatArray) -> None:
    probabilities[:] = np.nan


OF_PROBABILITIES = (probabilities_over_the_batch, nan_probabilities)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(probabilities_over_the_batch, "off the softmax of its logits"), (nan_probabilities, "not finite")],
)
def test_wrong_probabilities_are_refused_with_right_logits(
    files: dict[str, Path], reference: Reference, spoil: Callable[[FloatArray], None], words: str
) -> None:
    with SpoiledRunner(files["fp32"], spoil) as runner:
        report = runner_report(runner, reference, reference.images, reference.logits, max_batch=8)
    decision = gate_decision(report, Tolerances())
    assert not decision.accepted
    assert words in decision.reason


def test_a_right_model_is_equal_in_every_slot(files: dict[str, Path], reference: Reference) -> None:
    with OpenVinoRunner(files["fp32"], Contract(), openvino_options("fp32")) as runner:
        rows = parity_matrix(runner, reference.images, reference.logits, BATCHES)
    assert [row.batch for row in rows] == list(BATCHES)
    assert all(row.finite and row.same_top1 for row in rows)
    assert all(row.against_alone_db > 90 and row.against_pytorch_db > 90 for row in rows)


@pytest.mark.parametrize(
    ("spoil", "batch", "slot"),
    [
        (slot_five_of_eight, 8, 5),
        (neighbour_leaks, 2, 0),
        (last_slot_of_three_is_stale, 3, 2),
        (nan_in_the_largest, 8, None),
    ],
)
def test_a_model_that_is_wrong_in_one_slot_is_refused(
    files: dict[str, Path],
    reference: Reference,
    spoil: Callable[[FloatArray], None],
    batch: int,
    slot: int | None,
) -> None:
    with SpoiledRunner(files["fp32"], spoil) as runner:
        report = runner_report(runner, reference, reference.images, reference.logits, max_batch=8)
    decision = gate_decision(report, Tolerances())
    assert not decision.accepted
    assert f"batch {batch}" in decision.reason
    if slot is None:
        assert "not finite" in decision.reason
    else:
        assert f"slot {slot}" in decision.reason


def test_batches_of_the_matrix() -> None:
    assert parity_batches(64) == (1, 2, 3, 8, 64)
    assert parity_batches(8) == (1, 2, 3, 8)
    assert parity_batches(4) == (1, 2, 3, 4)
    assert parity_batches(1) == (1,)
