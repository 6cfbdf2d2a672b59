"""The engine inspector's JSON, in the words of several versions of TensorRT."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alexnet_export.engines.passports import layer_precisions_from_json


def layer(kind: str, said: str, **more: Any) -> dict[str, Any]:
    return {"Name": "x", "LayerType": kind, "Inputs": [{"Name": "y", "Format/Datatype": said}], **more}


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Int8", "i8"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "i8"),
        ("Half", "f16"),
        ("Row major linear FP16 format", "f16"),
        ("Channel major FP16 format where channel % 4 == 0", "f16"),
        ("BFloat16", "bf16"),
        ("Float", "f32"),
        ("Row major linear FP32", "f32"),
    ],
)
def test_types_are_read_from_every_wording(said: str, kind: str) -> None:
    text = json.dumps({"Layers": [layer("CaskConvolution", said), layer("gemm", said)]})
    assert layer_precisions_from_json(text) == {kind: 2}


def test_only_layers_with_multiply_adds_count() -> None:
    layers = [
        layer("CaskConvolution", "Int8"),
        layer("kgen", "Half"),
        layer("Reformat", "Float"),
        layer("", "Half", ParameterType="FullyConnected"),
    ]
    assert layer_precisions_from_json(json.dumps({"Layers": layers})) == {"f16": 1, "i8": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "{}",
        json.dumps({"Layers": ["only a name"]}),
        json.dumps({"Layers": [layer("gemm", "N/A due to dynamic shapes")]}),
        json.dumps({"Layers": [{"LayerType": "gemm"}]}),
    ],
)
def test_unknown_types_are_none(text: str) -> None:
    assert layer_precisions_from_json(text) is None
