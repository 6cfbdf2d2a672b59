"""The roofline: no call can be shorter than what a network asks of a device over what the device can.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", 2009, layer by layer: each takes the longer of computing and of moving its bytes, and they run
one after another, as these runtimes run them. Where weights stay in a cache from call to call, the limit by
memory can be beaten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alexnet_model.records import Precision

from ..schema import EngineLabel, Roof
from .counting import WIDTH_BYTES, Layer

OPERATIONS = 2  # a multiply-add


@dataclass(frozen=True)
class Limit:
    """`bound_by` is what most of the time goes to."""

    ms: float
    bound_by: Literal["compute", "memory"]


def limit_at(layers: Sequence[Layer], precision: Precision, batch: int, roof: Roof) -> Limit:
    """The shortest that a call at a batch can take."""
    computing_s = moving_s = 0.0  # of the layers that are bound by it
    for layer in layers:
        compute_s = OPERATIONS * layer.multiply_adds * batch / roof.operations_per_s
        moved = layer.weight_bytes + layer.activations * WIDTH_BYTES[precision] * batch
        memory_s = moved / roof.bytes_per_s
        if compute_s > memory_s:
            computing_s += compute_s
        else:
            moving_s += memory_s
    return Limit(1e3 * (computing_s + moving_s), "compute" if computing_s > moving_s else "memory")


def roof_over(engine: EngineLabel, roofs: Sequence[Roof]) -> Roof | None:
    """The ceiling of what an engine computes in: of several types the highest; None where one is unknown."""
    here = {roof.computes_in: roof for roof in roofs if roof.device == engine.device}
    kinds = engine.computes_in.split("+")
    if not all(kind in here for kind in kinds):
        return None
    return max((here[kind] for kind in kinds), key=lambda roof: roof.operations_per_s)
