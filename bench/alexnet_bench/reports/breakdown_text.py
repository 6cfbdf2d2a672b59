"""What a faster precision is worth, rung by rung: the engine alone gains more than what is asked of it."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_model.records import Precision

from ..schema import LatencyStep
from .names import in_short

_SLOW: Precision = "fp32"
_FAST: Precision = "int8"
_ENGINE = "engine"


def breakdown_in_words(breakdown: Sequence[LatencyStep]) -> tuple[str, ...]:
    """A sentence for each load that was measured in FP32 and in INT8; medians against medians."""
    by_load: dict[str, dict[Precision | None, dict[str, LatencyStep]]] = {}
    for step in breakdown:
        load = step.of.partition(", ")[2]  # without the precision
        by_load.setdefault(load, {}).setdefault(step.engine.precision, {})[step.name] = step
    return tuple(
        words
        for load, found in by_load.items()
        if (words := _sentence(load, found.get(_SLOW), found.get(_FAST)))
    )


def _sentence(load: str, slow: dict[str, LatencyStep] | None, fast: dict[str, LatencyStep] | None) -> str:
    if not slow or not fast or _ENGINE not in slow or _ENGINE not in fast:
        return ""
    gains = {
        name: slow[name].total_ms / fast[name].total_ms
        for name in fast
        if name in slow and fast[name].source == "client"
    }
    if not gains:
        return ""
    engine = slow[_ENGINE].total_ms / fast[_ENGINE].total_ms
    ends = ", ".join(f"{gain:.2f} ({name})" for name, gain in gains.items())
    computes = f"{in_short(fast[_ENGINE].total_ms)} ms against {in_short(slow[_ENGINE].total_ms)} ms"
    return (
        f"At {load} INT8 computes {engine:.2f} times as fast as FP32 ({computes}), and what a client sees is "
        f"{ends} times as fast: what lies between costs both alike."
    )
