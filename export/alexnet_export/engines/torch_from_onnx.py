"""`torch_from_onnx`: a PyTorch module that computes an ONNX file, for compilers that start from PyTorch.

An engine is built from the ONNX file that the gate accepted, also where only a repository is left. So the
precision is that of the file: half-precision weights stay half. It covers the operators that PyTorch's
exporter writes for image classifiers, on graphs whose shapes depend on nothing but the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_model.errors import EngineError
from alexnet_model.extras import needs

with needs("export"):
    import onnx
    import torch
    from onnx import numpy_helper
    from torch import Tensor, nn
    from torch.nn import functional

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]  # attributes and inputs to one output, or to a tuple of them

DTYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True)
class _Node:
    """One node: an operator with its attributes, and where each input comes from.

    An input is the name of a value or weight, None if it is left out, or a list or number that the operator
    needs as such, as the shape of a Reshape.
    """

    operator: str
    attributes: Attributes
    inputs: tuple[Any, ...]
    outputs: tuple[str, ...]


class TorchFromOnnx(nn.Module):
    """Compute an ONNX graph of one input in PyTorch; weights of convolutions are stored channels last.

    Args:
        nodes: The nodes in the order of the file, each after those that it depends on.
        weights: The file's constant tensors by name.
        input_name: The name of the graph's input.
        output_names: The names of its outputs.
    """

    def __init__(
        self,
        nodes: Sequence[_Node],
        weights: Mapping[str, Tensor],
        *,
        input_name: str,
        output_names: Sequence[str],
    ) -> None:
        super().__init__()
        self._nodes = tuple(nodes)
        self._input_name = input_name
        self._output_names = tuple(output_names)
        self._buffer_names = {name: f"weight_{number}" for number, name in enumerate(weights)}
        for name, tensor in weights.items():
            self.register_buffer(self._buffer_names[name], tensor)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the graph's outputs for its input, such as uint8 `(N, S, S, 3)`."""
        values = {name: getattr(self, buffer) for name, buffer in self._buffer_names.items()}
        values[self._input_name] = image
        for node in self._nodes:
            inputs = [values[one] if isinstance(one, str) else one for one in node.inputs]
            results = OPERATORS[node.operator](node.attributes, *inputs)
            results = results if isinstance(results, tuple) else (results,)
            values.update(zip(node.outputs, results, strict=False))
        return tuple(values[name] for name in self._output_names)


def torch_from_onnx(path: Path) -> TorchFromOnnx:
    """Return a module that computes an ONNX file with its weights, in their types.

    Args:
        path: The file.

    Raises:
        EngineError: the file is no ONNX file, or has an operator or a use of one that is not covered (node
            named).
        OSError: the file cannot be read.
    """
    try:
        graph = onnx.load(path).graph
    except OSError:
        raise
    except Exception as error:  # protobuf and onnx raise errors of their own types
        raise EngineError(
            str(path),
            got=f"a file that onnx cannot read ({type(error).__name__})",
            expected="an ONNX file",
            next_step="The file is truncated, or no ONNX file: export again.",
        ) from error
    constants = {tensor.name: _tensor_of(tensor) for tensor in graph.initializer}
    nodes: list[_Node] = []
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant" and isinstance(attributes.get("value"), onnx.TensorProto):
            constants[node.output[0]] = _tensor_of(attributes["value"])
            continue
        nodes.append(_checked(node, attributes, constants, path))
    used = {name for node in nodes for name in node.inputs if isinstance(name, str)}
    convolved = {node.inputs[1] for node in nodes if node.operator == "Conv"}
    weights = {}
    for name in sorted(constants.keys() & used):
        weight = constants[name]
        is_kernel = name in convolved and weight.dim() == 4
        weights[name] = weight.contiguous(memory_format=torch.channels_last) if is_kernel else weight
    (image,) = (value for value in graph.input if value.name not in constants)
    outputs = [value.name for value in graph.output]
    return TorchFromOnnx(nodes, weights, input_name=image.name, output_names=outputs).eval()


def _tensor_of(tensor: onnx.TensorProto) -> Tensor:
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(numpy_helper.to_array(tensor).astype("float32")).to(torch.bfloat16)
    return torch.from_numpy(numpy_helper.to_array(tensor).copy())


def _checked(
    node: onnx.NodeProto, attributes: Attributes, constants: Mapping[str, Tensor], path: Path
) -> _Node:
    """Return a node with its constant arguments as Python values, after checking that it is covered.

    Raises:
        EngineError: it is not.
    """
    name = node.name or (node.output[0] if node.output else "?")

    def not_covered(got: str) -> EngineError:
        return EngineError(
            f"{path}: node {name} ({node.op_type})",
            got=got,
            expected="an operator that AOTInductor is given from ONNX",
            next_step="Serve the ONNX file itself: --runtime onnxruntime",
        )

    if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
        raise not_covered("an operator that is not covered")
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise not_covered(f"auto_pad {attributes['auto_pad'].decode()}")
    inputs: list[Any] = []
    for position, value in enumerate(node.input):
        if not value:
            inputs.append(None)
        elif position not in CONSTANT_INPUTS.get(node.op_type, ()):
            inputs.append(value)
        elif value in constants:
            inputs.append(constants[value].tolist())
        else:
            raise not_covered("a shape or an axis that the file computes")
    return _Node(node.op_type, dict(attributes), tuple(inputs), tuple(node.output))


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dimensions = weight.dim() - 2
    x, padding = _padded(x, attributes, dimensions)
    ones = [1] * dimensions
    return torch.convolution(
        x,
        weight,
        bias,
        attributes.get("strides", ones),
        padding,
        attributes.get("dilations", ones),
        False,
        [0] * dimensions,
        attributes.get("group", 1),
    )


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    x, padding = _padded(x, attributes, len(kernel), value=float("-inf"))
    pools: list[Operator] = [functional.max_pool1d, functional.max_pool2d, functional.max_pool3d]
    pooled: Tensor = pools[len(kernel) - 1](
        x,
        kernel,
        attributes.get("strides", [1] * len(kernel)),
        padding,
        attributes.get("dilations", [1] * len(kernel)),
        bool(attributes.get("ceil_mode", 0)),
    )
    return pooled


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    pads = attributes.get("pads", [0] * 2 * len(kernel))
    pools: list[Operator] = [functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d]
    pooled: Tensor = pools[len(kernel) - 1](
        x,
        kernel,
        attributes.get("strides", [1] * len(kernel)),
        pads[: len(kernel)],
        bool(attributes.get("ceil_mode", 0)),
        bool(attributes.get("count_include_pad", 0)),
    )
    return pooled


def _padded(
    x: Tensor, attributes: Attributes, dimensions: int, value: float = 0.0
) -> tuple[Tensor, Sequence[int]]:
    """Pad `x` where the two ends differ, and return it with the padding that is left for the operator."""
    pads = attributes.get("pads", [0] * 2 * dimensions)
    before, after = pads[:dimensions], pads[dimensions:]
    if before == after:
        return x, before
    return functional.pad(x, _last_first(before, after), value=value), [0] * dimensions


def _pad(attributes: Attributes, x: Tensor, pads: Any, value: Any = 0.0, axes: Any = None) -> Tensor:
    axes = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
    before, after = [0] * x.dim(), [0] * x.dim()
    for number, axis in enumerate(axes):
        before[axis], after[axis] = pads[number], pads[number + len(axes)]
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}[
        attributes.get("mode", b"constant")
    ]
    if mode == "constant":
        return functional.pad(x, _last_first(before, after), value=_number(value, 0.0))
    return functional.pad(x, _last_first(before[2:], after[2:]), mode)  # which PyTorch needs without N and C


def _last_first(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return paddings in PyTorch's order: both ends of the last axis first."""
    return [pad for pair in reversed(list(zip(before, after, strict=True))) for pad in pair]


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Any:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    a = a.T if attributes.get("transA", 0) else a
    if attributes.get("transB", 0) and alpha == beta == 1.0:
        return functional.linear(a, b, c)
    product = alpha * (a @ (b.T if attributes.get("transB", 0) else b))
    return product if c is None else product + beta * c


def _reshape(attributes: Attributes, x: Tensor, shape: Any) -> Tensor:
    keep = not attributes.get("allowzero", 0)
    return x.reshape([x.shape[n] if size == 0 and keep else size for n, size in enumerate(shape)])


def _reduce(reduction: Operator) -> Operator:
    def reduce(attributes: Attributes, x: Tensor, axes: Any = None) -> Any:
        axes = attributes.get("axes") if axes is None else axes
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return x
        return reduction(x, dim=axes or list(range(x.dim())), keepdim=bool(attributes.get("keepdims", 1)))

    return reduce


def _slice(_: Attributes, x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    axes = range(len(starts)) if axes is None else axes
    for number, axis in enumerate(axes):
        part: list[Any] = [slice(None)] * x.dim()
        part[axis] = slice(starts[number], ends[number], 1 if steps is None else steps[number])
        x = x[tuple(part)]
    return x


def _split(attributes: Attributes, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    if sizes is None:
        return tuple(torch.split(x, -(-x.shape[axis] // attributes["num_outputs"]), axis))
    return tuple(torch.split(x, sizes, axis))


def _squeeze(_: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(_: Attributes, x: Tensor, axes: Any) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    return x.reshape(1, -1) if axis == 0 else x.flatten(axis).flatten(0, axis - 1)


def _gather(attributes: Attributes, x: Tensor, indices: Any) -> Tensor:
    axis = attributes.get("axis", 0) % x.dim()
    return x[(slice(None),) * axis + (torch.tensor(indices, device=x.device),)]


def _gather_nd(_: Attributes, x: Tensor, indices: Any) -> Tensor:
    return x[torch.tensor(indices, device=x.device).unbind(-1)]


def _clip(_: Attributes, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    return x.clamp(_number(low, None), _number(high, None))


def _batch_norm(attributes: Attributes, x: Tensor, *parameters: Tensor) -> Tensor:
    scale, bias, mean, variance = parameters
    return functional.batch_norm(x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _layer_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    normalised = list(x.shape[attributes.get("axis", -1) :])
    return functional.layer_norm(x, normalised, scale, bias, attributes.get("epsilon", 1e-5))


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Any:
    return (x * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)).clamp(0, 1)


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=attributes.get("approximate", b"none").decode())


def _number(value: Any, default: Any) -> Any:
    """Return a constant scalar, which some exporters write as a list of one."""
    if value is None:
        return default
    return value[0] if isinstance(value, list) else value


def _of(function: Operator) -> Operator:
    """Return the operator of a function of tensors that needs no attributes."""
    return lambda _, *inputs: function(*inputs)


# Inputs by position that are Python values and not tensors; the file must have them as constants.
CONSTANT_INPUTS = {
    "Clip": (1, 2),
    "Gather": (1,),
    "GatherND": (1,),
    "Pad": (1, 2, 3),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
OPERATORS: dict[str, Operator] = {
    "Abs": _of(torch.abs),
    "Add": _of(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda attributes, x: x.to(DTYPES[attributes["to"]]),
    "Clip": _clip,
    "Concat": lambda attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Conv": _conv,
    "Div": _of(torch.div),
    "Dropout": lambda _, x, *more: x,
    "Elu": lambda attributes, x: functional.elu(x, attributes.get("alpha", 1.0)),
    "Erf": _of(torch.erf),
    "Exp": _of(torch.exp),
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, x: x.mean(dim=list(range(2, x.dim())), keepdim=True),
    "GlobalMaxPool": lambda _, x: x.amax(dim=list(range(2, x.dim())), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _of(functional.hardswish),
    "Identity": _of(lambda x: x),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda attributes, x: functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Log": _of(torch.log),
    "LogSoftmax": lambda attributes, x: torch.log_softmax(x, attributes.get("axis", -1)),
    "MatMul": _of(torch.matmul),
    "Max": _of(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _of(torch.minimum),
    "Mish": _of(functional.mish),
    "Mul": _of(torch.mul),
    "Neg": _of(torch.neg),
    "PRelu": _of(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pad": _pad,
    "Pow": _of(torch.pow),
    "Reciprocal": _of(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _of(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _of(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda attributes, x: torch.softmax(x, attributes.get("axis", -1)),
    "Softplus": _of(functional.softplus),
    "Split": _split,
    "Sqrt": _of(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _of(torch.sub),
    "Tanh": _of(torch.tanh),
    "Transpose": lambda attributes, x: x.permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
