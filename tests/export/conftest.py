"""A small network with random weights, its real ONNX files, and real digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_export import TorchRunner
from alexnet_export.convert import fp16_from_onnx, int8_from_onnx, onnx_from_checkpoint
from alexnet_export.gate import Reference
from alexnet_model import prepared_from_set, splits_from
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Contract, Uint8Array

from ..networks import random_checkpoint


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return random_checkpoint()


@pytest.fixture(scope="session")
def digits() -> Uint8Array:
    return prepared_from_set(splits_from("digits").test.sample(64), Contract()).images


@pytest.fixture(scope="session")
def files(
    checkpoint: Checkpoint, digits: Uint8Array, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    paths = {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", "int8")}
    onnx_from_checkpoint(checkpoint, paths["fp32"], max_batch=8)
    fp16_from_onnx(paths["fp32"], paths["fp16"])
    int8_from_onnx(paths["fp32"], paths["int8"], digits)
    return paths


@pytest.fixture(scope="session")
def reference(checkpoint: Checkpoint, digits: Uint8Array) -> Reference:
    with TorchRunner(checkpoint) as runner:
        logits = runner.infer(digits).logits
    return Reference(digits, logits.argmax(axis=1), logits)
