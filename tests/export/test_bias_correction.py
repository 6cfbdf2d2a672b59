"""Biases of INT8 models take back the constant error that rounded weights make."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_export.bias_correction import correct_biases

IMAGES = np.random.default_rng(0).integers(100, 256, (8, 6, 6, 4), np.uint8)


def model(weight: NDArray[np.float32], *, groups: int, bias: bool, quantised: bool) -> onnx.ModelProto:
    """A convolution over uint8 images, whose weight is a float or comes from a DequantizeLinear."""
    initializers = [numpy_helper.from_array(np.array([0.5], np.float32).repeat(len(weight)), "bias")]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
    ]
    if quantised:
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 4  # 3 bits, so that rounding has an effect
        stored = np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
        initializers += [numpy_helper.from_array(stored, "stored"), numpy_helper.from_array(scale, "scale")]
        nodes.append(helper.make_node("DequantizeLinear", ["stored", "scale"], ["weight"], axis=0))
    else:
        initializers.append(numpy_helper.from_array(weight, "weight"))
    inputs = ["x", "weight", "bias"] if bias else ["x", "weight"]
    nodes.append(helper.make_node("Conv", inputs, ["y"], name="conv", group=groups))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 6, 6, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def outputs(of: onnx.ModelProto) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(of.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"image": IMAGES})[0]
    return result


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_mean_of_each_channel_is_that_of_the_original(groups: int, bias: bool) -> None:
    """With a kernel of 1x1 every pixel counts once, so the means are equal and not only close."""
    weight = np.random.default_rng(1).normal(size=(8, 4 // groups, 1, 1)).astype(np.float32)
    original = model(weight, groups=groups, bias=bias, quantised=False)
    quantised = model(weight, groups=groups, bias=bias, quantised=True)
    expected, before = outputs(original), outputs(quantised)
    correct_biases(original, quantised, [IMAGES[:3], IMAGES[3:]])
    after = outputs(quantised)
    off_before = np.abs(before.mean(axis=(0, 2, 3)) - expected.mean(axis=(0, 2, 3)))
    off_after = np.abs(after.mean(axis=(0, 2, 3)) - expected.mean(axis=(0, 2, 3)))
    assert off_before.max() > 1
    assert off_after.max() < 1e-3
    assert np.square(after - expected).mean() < 0.5 * np.square(before - expected).mean()


def test_a_layer_that_stayed_in_float_keeps_its_bias() -> None:
    weight = np.ones((2, 4, 1, 1), np.float32)
    original = model(weight, groups=1, bias=True, quantised=False)
    same = model(weight, groups=1, bias=True, quantised=False)
    correct_biases(original, same, [IMAGES])
    assert np.array_equal(outputs(same), outputs(original))
