"""Correct the biases of an INT8 model for the rounding of its weights.

Rounding changes each weight a little. Multiplied by a layer's mean input, the changes add up to a constant
error of each output channel, which the layer's bias, a float, can take back. It costs nothing at run time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_model.contract import Uint8Array
from alexnet_model.extras import needs

with needs("export"):
    import onnx
    import onnxruntime
    from onnx import numpy_helper

FloatArray = npt.NDArray[np.float32]


def correct_biases(
    original: onnx.ModelProto, quantised: onnx.ModelProto, batches: Iterable[Uint8Array]
) -> None:
    """Change the biases of a quantised model in place.

    Args:
        original: The FP32 model.
        quantised: The model that ONNX Runtime's quantiser made of it, with the same names of nodes.
        batches: Images for the mean inputs, each uint8 `(N, height, width, 3)`.
    """
    before = {tensor.name: tensor for tensor in original.graph.initializer}
    # Weights that the network computes are not quantised.
    layers = [node for node in original.graph.node if _is_corrected(node) and node.input[1] in before]
    means = _mean_inputs(original, layers, batches)
    after = {tensor.name: tensor for tensor in quantised.graph.initializer}
    made_by = {output: node for node in quantised.graph.node for output in node.output}
    by_name = {node.name: node for node in quantised.graph.node}
    for layer in layers:
        node = by_name[layer.name]
        dequantise = made_by.get(node.input[1])
        if dequantise is None:  # the layer stayed in float
            continue
        weight = numpy_helper.to_array(before[layer.input[1]])
        stored, scale = (numpy_helper.to_array(after[name]) for name in dequantise.input[:2])
        rounded = stored.astype(np.float32) * scale.reshape(-1, *[1] * (stored.ndim - 1))
        error = _constant_error(rounded - weight, means[layer.input[0]])
        bias = numpy_helper.to_array(after[node.input[2]]) if len(node.input) > 2 else np.zeros_like(error)
        corrected = numpy_helper.from_array((bias - error).astype(np.float32), f"{node.output[0]}_bias")
        quantised.graph.initializer.append(corrected)
        node.input[2:] = [corrected.name]
    used = {name for node in quantised.graph.node for name in node.input}
    kept = [tensor for tensor in quantised.graph.initializer if tensor.name in used]
    del quantised.graph.initializer[:]
    quantised.graph.initializer.extend(kept)


def _is_corrected(node: onnx.NodeProto) -> bool:
    """Return whether a node is a Conv, or a Gemm with weights (outputs, inputs)."""
    return node.op_type == "Conv" or (node.op_type == "Gemm" and _attribute(node, "transB", 0) == 1)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _mean_inputs(
    model: onnx.ModelProto, layers: list[onnx.NodeProto], batches: Iterable[Uint8Array]
) -> dict[str, FloatArray]:
    """Return the mean of each channel of each layer's input, `(channels,)`."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    # An output for each mean, not for each tensor, which would take gigabytes.
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for rank in {ranks[layer.input[1]] for layer in layers}:  # 4 for a convolution of images
        axes = numpy_helper.from_array(np.arange(2, rank), f"mean_axes_{rank}")
        probed.graph.initializer.append(axes)
    names = {}
    for layer in layers:
        source = layer.input[0]
        if source in names:
            continue
        names[source] = f"{source}_mean"
        if layer.op_type == "Conv":
            axes_name = f"mean_axes_{ranks[layer.input[1]]}"
            node = onnx.helper.make_node("ReduceMean", [source, axes_name], [names[source]], keepdims=0)
        else:
            node = onnx.helper.make_node("Identity", [source], [names[source]])
        probed.graph.node.append(node)
        probed.graph.output.append(onnx.ValueInfoProto(name=names[source]))
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    input_name, count = model.graph.input[0].name, 0
    totals: dict[str, Any] = dict.fromkeys(names, 0.0)
    for images in batches:
        count += len(images)
        for source, mean in zip(names, session.run(list(names.values()), {input_name: images}), strict=True):
            totals[source] = totals[source] + mean.sum(axis=0)  # (channels,)
    return {source: total / count for source, total in totals.items()}


def _constant_error(change: FloatArray, mean: FloatArray) -> FloatArray:
    """Return the change of each output that a change of weights makes, for a mean input.

    Args:
        change: `(outputs, inputs per group, ...)`.
        mean: `(inputs,)`.
    """
    per_input = change.reshape(change.shape[0], change.shape[1], -1).sum(
        axis=2
    )  # (outputs, inputs per group)
    groups = len(mean) // change.shape[1]
    by_group = per_input.reshape(groups, -1, change.shape[1])  # (groups, outputs per group, inputs per group)
    errors: FloatArray = np.einsum("goi,gi->go", by_group, mean.reshape(groups, -1)).reshape(-1)
    return errors
