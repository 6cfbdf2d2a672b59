"""What is measured against what, and that only the same model is compared; no server is needed for that."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alexnet_bench.measuring import (
    LoadedModel,
    MeasureOptions,
    check_same_answers,
    precision_pairs,
    serving_pairs,
    sweep,
)
from alexnet_clients import Client, FakeTransport, InferRequest, ServedModel
from alexnet_model.class_names import DIGITS
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import BadResponse, UsageError
from alexnet_model.manifest import PRECISIONS, Precision, RuntimeInfo


@dataclass
class SameAsTheServer:
    """A runner that answers as a fake server does, but for an error."""

    fake: FakeTransport
    runtime: RuntimeInfo
    error: float = 0.0

    def infer(self, images: Uint8Array) -> Any:
        request = InferRequest(model="m", inputs={"image": images}, outputs=("probabilities",))
        probabilities = self.fake.brightness_as_class(request) + np.float32(self.error)
        return SimpleNamespace(probabilities=probabilities)


def loaded(precision: Precision, *, max_batch: int = 64, error: float = 0.0) -> LoadedModel:
    computes_in = {"fp32": "f32", "fp16": "f32", "int8": "i8"}[precision]
    runtime = RuntimeInfo(name="openvino", device="CPU", computes_in=computes_in)
    served = ServedModel(
        name=f"alexnet_{precision}",
        precision=precision,
        backend="openvino_dynamic",
        computes_in=computes_in,
        max_batch=max_batch,
        labels=DIGITS,
        decodes=False,
    )
    runner: Any = SameAsTheServer(FakeTransport(), runtime, error)
    return LoadedModel(precision, max_batch, runner, served)


ALL: dict[Precision, LoadedModel] = {precision: loaded(precision) for precision in PRECISIONS}


def test_every_precision_is_held_against_fp32_in_process_at_the_same_batch() -> None:
    pairs = precision_pairs(ALL)
    assert [(of.precision, against.precision) for of, against in pairs] == [
        ("fp16", "fp32"),
        ("int8", "fp32"),
    ]
    assert {case.batch for pair in pairs for case in pair} == {32}
    assert {case.through for pair in pairs for case in pair} == {"in process"}
    assert pairs[0][0].computes_in == "f32"  # FP16 that a CPU computes in f32 says so


def test_the_server_is_held_against_the_same_runtime_in_process() -> None:
    pairs = serving_pairs(ALL)
    assert [(of.batch, of.in_flight, against.batch) for of, against in pairs] == [(32, 2, 32), (1, 16, 16)]
    for of, against in pairs:
        assert (of.through, against.through) == ("server", "in process")
        assert (of.precision, of.runtime, of.computes_in) == ("int8", "openvino", "i8")
        assert (against.precision, against.runtime, against.computes_in) == ("int8", "openvino", "i8")


def test_what_was_refused_is_not_compared() -> None:
    without_int8: dict[Precision, LoadedModel] = {
        precision: model for precision, model in ALL.items() if precision != "int8"
    }
    assert serving_pairs(without_int8) == []
    assert len(precision_pairs(without_int8)) == 1
    assert precision_pairs({"int8": ALL["int8"]}) == []


def test_the_ladder_has_every_precision_and_batch_both_ways_up_to_the_models_maximum() -> None:
    cases = sweep(ALL, (1, 8, 32))
    assert len(cases) == len(set(cases)) == 3 * 3 * 2
    small = sweep({"int8": loaded("int8", max_batch=8)}, (1, 8, 32))
    assert [(case.batch, case.through) for case in small] == [
        (1, "in process"),
        (1, "server"),
        (8, "in process"),
        (8, "server"),
    ]
    pairs = serving_pairs({"int8": loaded("int8", max_batch=8)})
    assert max(case.batch for pair in pairs for case in pair) == 8


@pytest.mark.parametrize("batches", [(), (0,), (1, -8)])
def test_batches_that_cannot_be(batches: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="batches"):
        MeasureOptions(batches=batches)


def test_another_model_on_the_server_is_noticed_before_anything_is_measured() -> None:
    images = np.full((2, 224, 224, 3), 200, np.uint8)
    with Client("grpc://host", transport=FakeTransport()) as client:
        check_same_answers(loaded("int8"), client, images)
        with pytest.raises(BadResponse, match=r"alexnet_int8.*another export"):
            check_same_answers(loaded("int8", error=0.01), client, images)
