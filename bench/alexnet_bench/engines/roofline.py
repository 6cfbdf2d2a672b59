"""The roofline: the shortest call that a device allows, from a network's work and the device's ceilings.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", 2009, layer by layer: each layer takes the longer of computing and of moving its bytes, and
the layers run one after another. If weights stay in a cache from call to call, a call can be shorter than the
limit by memory.

The work is counted from the ONNX file, for each Conv, Gemm and MatMul:

- multiply-adds: a convolution does (input channels / groups x kernel) for each output, a matrix product its
  inner dimension for each output;
- weights: the bytes of its constants in the file's own types, with scales and zero points;
- activations: what it reads and what it writes, each once, in the width of the precision.

Cast, normalisation, ReLU, pooling, softmax and additions of biases are left out, as if fused into these
layers. What an engine really does is more, never less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.records import Precision

from ..schema import EngineLabel, Roof

with needs("export"):
    import onnx
    from onnx import NodeProto, TensorProto

OPERATIONS = 2  # in a multiply-add
WIDTH_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
_COUNTED = frozenset({"Conv", "Gemm", "MatMul"})
_TO_FLOAT = frozenset({"DequantizeLinear", "Cast"})  # between a constant and the layer that reads it
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The work of one layer for one image; its weights are read once for a whole batch.

    Attributes:
        name: Name of the ONNX node.
        multiply_adds: Multiply-adds for one image.
        weights: How many weights and biases, without scales.
        weight_bytes: Bytes of its constants.
        activations: How many numbers it reads and writes for one image.
    """

    name: str
    multiply_adds: int
    weights: int
    weight_bytes: int
    activations: int


@dataclass(frozen=True)
class Limit:
    """The shortest call in milliseconds, and what most of that time goes to."""

    ms: float
    bound_by: Literal["compute", "memory"]


def limit_at(layers: Sequence[Layer], precision: Precision, batch: int, roof: Roof) -> Limit:
    """Compute the shortest call at a batch.

    Args:
        layers: The network's layers.
        precision: Decides the width of activations.
        batch: Images in the call.
        roof: The device's ceilings.
    """
    computing_s = moving_s = 0.0  # of the layers that are bound by each
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
    """Return the ceilings of what an engine computes in on its device.

    If it computes in several types, those of the fastest; None if the ceilings of one type are unknown.
    """
    by_type = {roof.computes_in: roof for roof in roofs if roof.device == engine.device}
    types = engine.computes_in.split("+")
    if not all(kind in by_type for kind in types):
        return None
    return max((by_type[kind] for kind in types), key=lambda roof: roof.operations_per_s)


def layers_from_onnx(path: Path) -> tuple[Layer, ...]:
    """Count the layers that have multiply-adds, in the file's order.

    Raises:
        ExportError: the file cannot be read, has no such layer, or a shape does not follow from it.
    """
    try:
        model = onnx.load(path)
        for value in model.graph.input:  # one image
            value.type.tensor_type.shape.dim[0].dim_value = 1
        for value in model.graph.output:
            value.type.tensor_type.shape.dim[0].Clear()
        del model.graph.value_info[:]  # they hold the batch's name
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx's errors and protobuf's share no base but Exception
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(str(path), got=first_line, expected="an ONNX file with known shapes") from error
    graph = _Graph(model.graph)
    layers = tuple(graph.layer(node) for node in model.graph.node if node.op_type in _COUNTED)
    if not layers:
        raise ExportError(str(path), got="no Conv, Gemm or MatMul", expected="at least one such layer")
    return layers


def multiply_adds(layers: Sequence[Layer]) -> int:
    """Add up the multiply-adds of all layers for one image."""
    return sum(layer.multiply_adds for layer in layers)


class _Graph:
    """Shapes and constants of an ONNX graph by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._maker = {output: node for node in graph.node for output in node.output}
        values = (*graph.input, *graph.value_info, *graph.output)
        self._shapes: Mapping[str, Shape] = {
            **{name: tuple(tensor.dims) for name, tensor in self._constants.items()},
            **{
                value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
                for value in values
            },
        }

    def layer(self, node: NodeProto) -> Layer:
        read, written = self._shape(node.input[0]), self._shape(node.output[0])
        weight = self._shape(node.input[1])
        # Conv: (M, C / groups, kH, kW); else the dimension that a product sums over
        summed = math.prod(weight[1:]) if node.op_type == "Conv" else self._inner(node, read)
        constants = [self._constants_behind(name) for name in node.input[1:]]
        return Layer(
            name=node.name or node.output[0],
            multiply_adds=math.prod(written) * summed,
            weights=sum(math.prod(tensors[0].dims) for tensors in constants if tensors),
            weight_bytes=sum(_size_bytes(tensor) for tensors in constants for tensor in tensors),
            activations=math.prod(read) + math.prod(written),
        )

    def _inner(self, node: NodeProto, read: Shape) -> int:
        is_transposed = any(one.name == "transA" and one.i for one in node.attribute)
        return read[0] if is_transposed else read[-1]

    def _constants_behind(self, name: str) -> list[TensorProto]:
        """Return the constant of that name, or the one that it is made from with its scale and zero point."""
        if name in self._constants:
            return [self._constants[name]]
        maker = self._maker.get(name)
        if maker is None or maker.op_type not in _TO_FLOAT or maker.input[0] not in self._constants:
            return []
        return [self._constants[one] for one in maker.input if one in self._constants]

    def _shape(self, name: str) -> Shape:
        shape = self._shapes.get(name, ())
        if not shape or not all(shape):
            raise ExportError(
                f"tensor {name}",
                got=f"shape {shape}",
                expected="a shape that follows from a batch of one image",
            )
        return shape


def _size_bytes(tensor: TensorProto) -> int:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(math.prod(tensor.dims)) * dtype.itemsize
