"""What a network asks of a device: multiply-adds and bytes, counted from the ONNX file itself.

Of each Conv, Gemm and MatMul, by its shapes:

- multiply-adds: a convolution does (input channels / groups x kernel) for each of its outputs, a matrix
  product its inner dimension for each of its;
- weights: the bytes of its constants in the file's own types, with scales and zero points where it has them;
- activations: what it reads and what it writes, each once, in the width of the precision.

Everything else is left out, as if it were fused into these: cast and normalisation, ReLU, pooling, softmax,
the additions of biases. What an engine really does is more, never less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.records import Precision

with needs("export"):
    import onnx
    from onnx import NodeProto, TensorProto

WIDTH_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
_HEAVY = frozenset({"Conv", "Gemm", "MatMul"})
_TO_FLOAT = frozenset({"DequantizeLinear", "Cast"})  # between a constant and the layer that takes it
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer's work for one image; its weights are read once whatever the batch."""

    name: str
    multiply_adds: int
    weights: int  # numbers: weights and biases, not scales
    weight_bytes: int
    activations: int  # numbers read and written


def layers_from_onnx(path: Path) -> tuple[Layer, ...]:
    """The layers with multiply-adds, in the file's order.

    Raises:
        ExportError: the file cannot be read, holds none, or a shape does not follow from it.
    """
    try:
        model = onnx.load(path)
        for value in model.graph.input:  # one image
            value.type.tensor_type.shape.dim[0].dim_value = 1
        for value in model.graph.output:
            value.type.tensor_type.shape.dim[0].Clear()
        del model.graph.value_info[:]  # they still hold the batch's name
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx's errors and protobuf's share no base but Exception
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(str(path), got=said, expected="an ONNX file whose shapes can be told") from error
    graph = _Graph(model.graph)
    layers = tuple(graph.layer(node) for node in model.graph.node if node.op_type in _HEAVY)
    if not layers:
        raise ExportError(str(path), got="no Conv, Gemm or MatMul", expected="a network with some")
    return layers


def multiply_adds(layers: Sequence[Layer]) -> int:
    return sum(layer.multiply_adds for layer in layers)


class _Graph:
    """Shapes and constants by name."""

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
        # (M, C / groups, kH, kW), or the dimension that a product sums over
        summed = math.prod(weight[1:]) if node.op_type == "Conv" else self._inner(node, read)
        constants = [tensor for name in node.input[1:] for tensor in self._constants_behind(name)]
        parameters = [tensors[0] for name in node.input[1:] if (tensors := self._constants_behind(name))]
        return Layer(
            name=node.name or node.output[0],
            multiply_adds=math.prod(written) * summed,
            weights=sum(math.prod(tensor.dims) for tensor in parameters),
            weight_bytes=sum(_size_bytes(tensor) for tensor in constants),
            activations=math.prod(read) + math.prod(written),
        )

    def _inner(self, node: NodeProto, read: Shape) -> int:
        is_transposed = any(one.name == "transA" and one.i for one in node.attribute)
        return read[0] if is_transposed else read[-1]

    def _constants_behind(self, name: str) -> list[TensorProto]:
        """The constant of that name; or that it is made from, with what quantises it after it."""
        if name in self._constants:
            return [self._constants[name]]
        maker = self._maker.get(name)
        if maker is None or maker.op_type not in _TO_FLOAT:
            return []
        found = [self._constants[one] for one in maker.input if one in self._constants]
        return found if maker.input[0] in self._constants else []

    def _shape(self, name: str) -> Shape:
        shape = self._shapes.get(name, ())
        if not shape or not all(shape):
            raise ExportError(
                f"tensor {name}",
                got=f"shape {shape}",
                expected="one that follows from a batch of one image",
            )
        return shape


def _size_bytes(tensor: TensorProto) -> int:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(math.prod(tensor.dims)) * dtype.itemsize
