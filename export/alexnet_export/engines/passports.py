"""The passport of a new engine, and what TensorRT's engine inspector says about its layers."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_model.files import sha256_of_file
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import RuntimeInfo
from alexnet_model.passport import Passport, write_passport

from .options import EngineOptions

HEAVY = re.compile(r"conv|gemm|matmul|matrix|fully", re.IGNORECASE)
TYPES = (
    (re.compile(r"\bint8\b", re.IGNORECASE), "i8"),
    (re.compile(r"\b(?:fp16|half)\b", re.IGNORECASE), "f16"),
    (re.compile(r"\b(?:bf16|bfloat16)\b", re.IGNORECASE), "bf16"),
    (re.compile(r"\b(?:fp32|float)\b", re.IGNORECASE), "f32"),
)


def write_engine_passport(
    engine: Path,
    onnx: Path,
    options: EngineOptions,
    *,
    gpu: Gpu | None,
    build_seconds: float,
    **fields: Any,
) -> Passport:
    """Write the passport of an engine beside it.

    Args:
        engine: The engine's file.
        onnx: The ONNX file that it was built from.
        options: The options that it was built with.
        gpu: The GPU that it was built on; None if it was built without one.
        build_seconds: How long the build took, in seconds.
        fields: The other fields of `Passport`.

    Raises:
        OSError: a file cannot be read or written.
    """
    passport = Passport(
        runtime=options.runtime,
        onnx_sha256=sha256_of_file(onnx),
        engine_sha256=sha256_of_file(engine),
        engine_size_bytes=engine.stat().st_size,
        gpu_name=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        targets=options.targets,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        driver=gpu.driver if gpu else None,
        build_seconds=round(build_seconds, 2),
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **fields,
    )
    write_passport(passport, engine)
    return passport


def runtime_info(passport: Passport, device: str) -> RuntimeInfo:
    """Return the description of an engine's runtime on the GPU of that name."""
    layers = passport.layer_precisions
    return RuntimeInfo(
        name=passport.runtime,
        device=device,
        computes_in="+".join(layers) if layers else f"{passport.precision} (not inspected)",
        options={"tensorrt_version": passport.runtime_version},
    )


def layer_precisions_from_json(text: str) -> dict[str, int] | None:
    """Count the Conv and Gemm layers of an engine by type, such as `{"i8": 8}`.

    TensorRT's wording differs by version: `"Format/Datatype": "Half"`, `"Row major linear FP16 format"`, and
    `"N/A due to dynamic shapes"` if the inspector had no context with shapes.

    Args:
        text: The JSON of TensorRT's engine inspector.

    Returns:
        The counts, or None if the text names no types.
    """
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
