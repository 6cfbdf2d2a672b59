from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from alexnet_export import TorchRunner, signal_to_noise_db
from alexnet_export.convert import fp16_from_onnx, int8_from_onnx, onnx_from_checkpoint, operator_counts
from alexnet_export.openvino_runner import OpenVinoRunner, openvino_options
from alexnet_model import WeightsOptions, checkpoint_from
from alexnet_model.architectures import ARCHITECTURES
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Contract, Uint8Array

from ..networks import random_checkpoint

NO_OPS = {"Identity", "Dropout", "AveragePool", "GlobalAveragePool", "Flatten", "Constant"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_inputs_and_outputs_are_those_of_the_contract(files: dict[str, Path], precision: str) -> None:
    graph = onnx.load(files[precision]).graph

    def interface(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[int, list[str | int]]]:
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    assert interface(list(graph.input)) == {"image": (TensorProto.UINT8, ["batch", 224, 224, 3])}
    assert interface(list(graph.output)) == {
        "probabilities": (TensorProto.FLOAT, ["batch", 10]),
        "logits": (TensorProto.FLOAT, ["batch", 10]),
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_has_no_no_ops_external_data_or_local_paths(files: dict[str, Path], precision: str) -> None:
    path = files[precision]
    assert not NO_OPS & operator_counts(path).keys()
    assert not any(node.metadata_props for node in onnx.load(path).graph.node)
    assert b"site-packages" not in path.read_bytes()
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(path.name)] == [path.name]


def test_metadata_carries_the_hash_chain(files: dict[str, Path], checkpoint: Checkpoint) -> None:
    from alexnet_model.files import sha256_of_file

    for precision, path in files.items():
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert metadata["precision"] == precision
        assert metadata["weights_sha256"] == checkpoint.weights_sha256
        assert metadata["contract_digest"] == Contract().digest
        assert json.loads(metadata["contract"])["size"] == 224
        if precision != "fp32":
            assert metadata["source_sha256"] == sha256_of_file(files["fp32"])
        assert Contract.from_json(metadata["contract"]) == Contract()


def test_two_exports_are_the_same_bytes(
    checkpoint: Checkpoint, files: dict[str, Path], tmp_path: Path
) -> None:
    again = tmp_path / "again.onnx"
    onnx_from_checkpoint(checkpoint, again, max_batch=8)
    assert again.read_bytes() == files["fp32"].read_bytes()


def test_conversion_leaves_the_logging_level_of_the_caller(files: dict[str, Path], tmp_path: Path) -> None:
    logging.disable(logging.ERROR)
    try:
        fp16_from_onnx(files["fp32"], tmp_path / "fp16.onnx")
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)


def test_fp16_holds_half_the_bytes(files: dict[str, Path]) -> None:
    graph = onnx.load(files["fp16"]).graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > 64]
    assert large
    assert {tensor.data_type for tensor in large} == {TensorProto.FLOAT16}


def test_int8_is_placed_as_tensorrt_wants_it(files: dict[str, Path]) -> None:
    """Symmetric, weights per channel on axis 0, float biases, Q/DQ on the inputs of Conv and Gemm alone."""
    graph = onnx.load(files["int8"]).graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    heavy = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(heavy) == 8
    for node in heavy:
        activation, weight, bias = node.input
        assert made_by[activation].op_type == made_by[weight].op_type == "DequantizeLinear"
        assert made_by[made_by[activation].input[0]].op_type == "QuantizeLinear"
        assert values[bias].data_type == TensorProto.FLOAT
        stored = values[made_by[weight].input[0]]
        assert stored.data_type == TensorProto.INT8
        assert np.abs(numpy_helper.to_array(stored).astype(int)).max() <= 64, "more than 7 bits"
        scales = values[made_by[weight].input[1]]
        assert list(scales.dims) == [stored.dims[0]]
        axis = [attribute.i for attribute in made_by[weight].attribute if attribute.name == "axis"]
        assert axis == [0]
        consumers = [other.op_type for other in graph.node if node.output[0] in other.input]
        assert "QuantizeLinear" not in consumers or (node.op_type == "Gemm" and not consumers)
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not numpy_helper.to_array(values[node.input[2]]).any(), "a zero point is not zero"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_exports_to_the_same_model(
    architecture: str, digits: Uint8Array, tmp_path: Path
) -> None:
    checkpoint = random_checkpoint(architecture, 0.2)
    path = tmp_path / "model.onnx"
    onnx_from_checkpoint(checkpoint, path, max_batch=64)
    openvino_runner = OpenVinoRunner(path, Contract(), openvino_options("fp32"))
    with openvino_runner as runner, TorchRunner(checkpoint) as torch_runner:
        for batch in (1, 5):
            expected = torch_runner.infer(digits[:batch])
            got = runner.infer(digits[:batch])
            assert signal_to_noise_db(expected.logits, got.logits) > 90
            np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-5)


def test_batch_norm_is_folded_into_the_convolutions(digits: Uint8Array, tmp_path: Path) -> None:
    checkpoint = random_checkpoint("alexnet-bn", 0.1)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.rand(tensor.shape, generator=generator) + 0.5
        if name.endswith(("running_mean", "running_var"))
        else tensor
        for name, tensor in checkpoint.weights.items()
    }
    checkpoint = replace(checkpoint, weights=weights)
    path = tmp_path / "model.onnx"
    onnx_from_checkpoint(checkpoint, path, max_batch=4)
    operators = operator_counts(path)
    assert "BatchNormalization" not in operators
    assert operators["Conv"] == 5
    with (
        OpenVinoRunner(path, Contract(), openvino_options("fp32")) as runner,
        TorchRunner(checkpoint) as torch_runner,
    ):
        expected, got = torch_runner.infer(digits[:3]), runner.infer(digits[:3])
    assert signal_to_noise_db(expected.logits, got.logits) > 90


class ChannelAttention(torch.nn.Module):
    """A network whose channels are weighted by a convolution of one dimension, as in ECA-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2)
        self.weights = torch.nn.Conv1d(1, 1, 3, stride=1, padding=1)
        self.fc = torch.nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu()
        weights = self.weights(x.mean(dim=(2, 3)).unsqueeze(1)).sigmoid()  # (N, 1, 8)
        logits: torch.Tensor = self.fc(x.mean(dim=(2, 3)) * weights.squeeze(1))
        return logits


def test_convolutions_of_one_dimension_are_quantised_too(tmp_path: Path) -> None:
    contract = Contract(size=32, resize=32)
    checkpoint = checkpoint_from(
        ChannelAttention(), WeightsOptions(classes=tuple(map(str, range(10))), contract=contract)
    )
    onnx_from_checkpoint(checkpoint, tmp_path / "fp32.onnx", max_batch=4)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    int8_from_onnx(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", images)
    with OpenVinoRunner(tmp_path / "int8.onnx", contract, {}) as runner:
        assert np.isfinite(runner.infer(images).logits).all()
