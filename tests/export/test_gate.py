from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from alexnet_export import Tolerances, paired_drop_interval, signal_to_noise_db, wilson_interval
from alexnet_export.gate import Reference, gate_decision, runner_report
from alexnet_export.openvino_runner import OpenVinoRunner, openvino_options
from alexnet_model.contract import Contract
from alexnet_model.manifest import RunnerReport

# For random weights, which quantise badly. The labels are PyTorch's predictions, so a drop is a disagreement.
EASY = Tolerances(signal_to_noise_db=10, agreement=0.5, top1_drop=0.5)


def int8_report(path: Path, reference: Reference) -> RunnerReport:
    with OpenVinoRunner(path, Contract(), openvino_options("int8")) as runner:
        return runner_report(runner, reference, reference.images, reference.logits, max_batch=8)


def with_wrong_scales(source: Path, target: Path, factor: float) -> None:
    """The same INT8 file with every activation scale multiplied: what a bad calibration set does."""
    model = onnx.load(source)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale = values[node.input[1]]
            changed = numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(factor), scale.name)
            scale.CopyFrom(changed)
    onnx.save(model, target)


def test_wrong_scales_are_refused(files: dict[str, Path], reference: Reference, tmp_path: Path) -> None:
    control = gate_decision(int8_report(files["int8"], reference), EASY)
    assert control.accepted, control.reason
    bad = tmp_path / "bad.onnx"
    with_wrong_scales(files["int8"], bad, 0.02)
    decision = gate_decision(int8_report(bad, reference), EASY)
    assert not decision.accepted
    assert "dB above their error" in decision.reason


def report(**changes: object) -> RunnerReport:
    figures = {
        "runtime": {"name": "openvino", "device": "CPU", "computes_in": "i8"},
        "parity": [
            {
                "batch": 8,
                "against_pytorch_db": 45,
                "against_alone_db": 80,
                "same_top1": True,
                "worst_slot": 3,
                "finite": True,
                "probabilities_off": 1e-6,
            }
        ],
        "images": 360,
        "signal_to_noise_db": 38.7,
        "agreement": 1.0,
        "top1": 0.97,
        "top1_drop": 0.0,
    }
    return RunnerReport.model_validate(figures | changes)


def test_a_good_report_is_accepted() -> None:
    assert gate_decision(report(), Tolerances()).accepted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"signal_to_noise_db": 29.9}, "29.9 dB above their error, at least 30 needed"),
        ({"agreement": 0.985}, "agrees on 98.5%"),
        ({"top1_drop": 0.0125}, "falls by 1.25 points, at most 1 allowed"),
    ],
)
def test_each_tolerance_refuses_alone(changes: dict[str, object], words: str) -> None:
    decision = gate_decision(report(**changes), Tolerances())
    assert not decision.accepted
    assert words in decision.reason


def test_bounds_are_inclusive() -> None:
    at_the_bounds = report(signal_to_noise_db=30.0, agreement=0.99, top1_drop=0.01)
    assert gate_decision(at_the_bounds, Tolerances()).accepted


def test_without_labels_the_reason_says_that_accuracy_was_not_measured() -> None:
    assert "accuracy not measured" in gate_decision(report(top1=None, top1_drop=None), Tolerances()).reason


def test_signal_to_noise() -> None:
    signal = np.ones((4, 10), np.float32)
    assert signal_to_noise_db(signal, signal) == 200
    assert signal_to_noise_db(signal, signal * 1.1) == pytest.approx(20, abs=1e-3)
    assert signal_to_noise_db(signal, np.full_like(signal, np.nan)) == -200
    assert signal_to_noise_db(np.zeros_like(signal), signal) == -200


def test_wilson_against_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson_interval(0, 20)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)


def test_paired_interval_covers_its_target() -> None:
    """In 2,000 simulated evaluations, the 95% interval holds the true drop in 93% to 99% of them."""
    generator = np.random.default_rng(0)
    to_wrong, to_right = 0.02, 0.01
    draws = generator.multinomial(360, [to_wrong, to_right, 1 - to_wrong - to_right], size=2000)
    held = [
        low <= to_wrong - to_right <= high
        for wrong, right, _ in draws
        for low, high in [paired_drop_interval(int(wrong), int(right), 360)]
    ]
    assert 0.93 <= np.mean(held) <= 0.99
    low, high = paired_drop_interval(0, 0, 360)
    assert low == -high
    assert math.isclose(high, 1.96 / 362, rel_tol=1e-3)
