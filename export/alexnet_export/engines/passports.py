"""What an engine's heavy layers compute in, from the JSON of TensorRT's engine inspector.

The inspector's words differ by version: `"Format/Datatype": "Half"`, `"Row major linear FP16 format"`, and
`"N/A due to dynamic shapes"` unless it is shown a context with shapes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

HEAVY = re.compile(r"conv|gemm|matmul|matrix|fully", re.IGNORECASE)
TYPES = (
    (re.compile(r"\bint8\b", re.IGNORECASE), "i8"),
    (re.compile(r"\b(?:fp16|half)\b", re.IGNORECASE), "f16"),
    (re.compile(r"\b(?:bf16|bfloat16)\b", re.IGNORECASE), "bf16"),
    (re.compile(r"\b(?:fp32|float)\b", re.IGNORECASE), "f32"),
)


def layer_precisions_from_json(text: str) -> dict[str, int] | None:
    """How many Conv and Gemm layers take which type, such as `{"i8": 8}`; None where nothing is said."""
    try:
        information = json.loads(text)
    except ValueError:
        return None
    layers = information.get("Layers", []) if isinstance(information, dict) else []
    found = Counter(
        kind
        for layer in layers
        if isinstance(layer, dict) and _is_heavy(layer) and (kind := _type_of(layer)) is not None
    )
    return dict(sorted(found.items())) or None


def _is_heavy(layer: dict[str, Any]) -> bool:
    return bool(HEAVY.search(f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"))


def _type_of(layer: dict[str, Any]) -> str | None:
    inputs = layer.get("Inputs") or [{}]
    format_and_type = str(inputs[0].get("Format/Datatype", "")) if isinstance(inputs[0], dict) else ""
    return next((name for pattern, name in TYPES if pattern.search(format_and_type)), None)
