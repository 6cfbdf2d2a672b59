"""ONNX files computed in PyTorch: the outputs of ONNX Runtime, and what is refused with the node's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from alexnet_export.convert import fp16_from_onnx, onnx_from_checkpoint
from alexnet_export.engines.torch_from_onnx import CONSTANT_INPUTS, OPERATORS, torch_from_onnx
from alexnet_model import Contract, WeightsOptions, checkpoint_from
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import EngineError

from ..networks import random_checkpoint
from ..stand_ins.small_networks import SmallMobileNet

SMALL = Contract(size=32, resize=32)


def images_of(checkpoint: Checkpoint, count: int) -> Uint8Array:
    shape = (count, *checkpoint.contract.image_shape)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def outputs_of(path: Path, images: Uint8Array) -> tuple[list[Any], list[Any]]:
    """Outputs of ONNX Runtime and of PyTorch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: images})
    with torch.inference_mode():
        found = [rows.numpy() for rows in torch_from_onnx(path)(torch.from_numpy(images))]
    return found, expected


def check(path: Path, images: Uint8Array, tolerance: float) -> None:
    found, expected = outputs_of(path, images)
    for rows, wanted in zip(found, expected, strict=True):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_alexnet(precision: str, tolerance: float, files: dict[str, Path], digits: Uint8Array) -> None:
    check(files[precision], digits[:3], tolerance)


def test_alexnet_of_2012_with_slices_and_powers(tmp_path: Path) -> None:
    checkpoint = random_checkpoint("alexnet-2012")
    onnx_from_checkpoint(checkpoint, tmp_path / "x.onnx", max_batch=4)
    check(tmp_path / "x.onnx", images_of(checkpoint, 2), 1e-4)


def test_a_mobile_net_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = checkpoint_from(SmallMobileNet().eval(), WeightsOptions(contract=SMALL))
    onnx_from_checkpoint(checkpoint, tmp_path / "fp32.onnx", max_batch=4)
    fp16_from_onnx(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx")
    check(tmp_path / "fp32.onnx", images_of(checkpoint, 3), 1e-4)
    check(tmp_path / "fp16.onnx", images_of(checkpoint, 3), 2e-2)


def test_half_precision_weights_stay_half_and_kernels_are_channels_last(files: dict[str, Path]) -> None:
    weights = dict(torch_from_onnx(files["fp16"]).named_buffers())
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    kernels = [weight for weight in weights.values() if weight.dim() == 4 and weight.shape[-1] > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def written(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Any],
    shape: Sequence[int | str] = ("n", 4, 6, 6),
) -> Path:
    """A file of some nodes, from `x` to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("operator", "constants", "attributes"),
    [
        ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("AveragePool", {}, {"kernel_shape": [2, 2], "count_include_pad": 1, "pads": [1, 1, 1, 1]}),
        ("MaxPool", {}, {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "strides": [2, 2]}),
        ("MaxPool", {}, {"kernel_shape": [3, 3], "ceil_mode": 1, "strides": [2, 2]}),
        ("Conv", {"w": np.ones((2, 4, 3, 3), np.float32)}, {"pads": [0, 1, 2, 1]}),
        ("Pad", {"p": [0, 1, 0, 0, 0, 2, 0, 3], "v": np.float32(1.5)}, {}),
        ("Pad", {"p": [1, 2], "v": np.float32(0), "axes": [-1]}, {}),
        ("Pad", {"p": [0, 0, 1, 2, 0, 0, 2, 1]}, {"mode": "reflect"}),
        ("Slice", {"s": [1, -4], "e": [2**62, -1], "a": [1, 3], "t": [2, 1]}, {}),
        ("Reshape", {"s": [0, -1, 6]}, {}),
        ("ReduceMean", {"a": [-1, -2]}, {"keepdims": 0}),
        ("ReduceSum", {"a": [1]}, {}),
        ("Flatten", {}, {"axis": 2}),
        ("Gather", {"i": [3, 0]}, {"axis": 1}),
        ("Gather", {"i": 2}, {"axis": -1}),
        ("Clip", {"low": np.float32(-0.5), "high": np.float32(0.5)}, {}),
        ("Unsqueeze", {"a": [0, -1]}, {}),
        ("Squeeze", {"a": [0]}, {}),
        ("HardSigmoid", {}, {"alpha": 0.25}),
        ("PRelu", {"s": np.full((4, 1, 1), 0.1, np.float32)}, {}),
        ("Softmax", {}, {"axis": 1}),
        ("Gelu", {}, {"approximate": "tanh"}),
        ("LayerNormalization", {"w": np.ones(6, np.float32), "b": np.ones(6, np.float32)}, {"epsilon": 1e-3}),
    ],
)
def test_operators_and_their_attributes(
    operator: str, constants: dict[str, Any], attributes: dict[str, Any], tmp_path: Path
) -> None:
    node = helper.make_node(operator, ["x", *constants], ["y"], **attributes)
    shape: tuple[int | str, ...] = (1, 4, 6, 6)
    path = written(tmp_path / "x.onnx", [node], constants, shape)
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    (found,) = torch_from_onnx(path)(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_split_has_several_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=1),
    ]
    path = written(tmp_path / "x.onnx", nodes, {"sizes": [1, 3]})
    x = torch.arange(2 * 4 * 36.0).reshape(2, 4, 6, 6)
    (found,) = torch_from_onnx(path)(x)
    assert torch.equal(found, torch.cat([x[:, 1:], x[:, :1]], 1))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        (
            [helper.make_node("Det", ["x"], ["y"], name="det_1")],
            r"node det_1 \(Det\): got an operator",
        ),
        (
            [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])],
            r"node s \(Shape\): got an operator",
        ),
        (
            [helper.make_node("Cast", ["x"], ["s"], to=7), helper.make_node("Reshape", ["x", "s"], ["y"])],
            r"node y \(Reshape\): got a shape or an axis that the file computes",
        ),
        (
            [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SAME_UPPER")],
            "auto_pad SAME_UPPER",
        ),
    ],
)
def test_what_is_not_covered_is_one_line_with_the_node(
    nodes: list[onnx.NodeProto], words: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        torch_from_onnx(written(tmp_path / "x.onnx", nodes, {}))
    assert "--runtime onnxruntime" in str(caught.value)


def test_a_truncated_file(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(files["fp32"].read_bytes()[:1000])
    with pytest.raises(EngineError, match="a file that onnx cannot read"):
        torch_from_onnx(tmp_path / "x.onnx")


def test_constant_inputs_are_of_known_operators() -> None:
    assert set(CONSTANT_INPUTS) <= set(OPERATORS)
