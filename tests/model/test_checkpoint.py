from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from alexnet_model import Contract
from alexnet_model.architectures import ARCHITECTURES, build
from alexnet_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, sha256_of_weights
from alexnet_model.errors import CheckpointError

GOLDEN_WEIGHTS_SHA256 = "015deb02b09ba471bec5e7b3774cb9ae3311312fa697fd35cd3efd8501124b32"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(
        architecture="lenet",
        options={"width": 1.0},
        class_names=("cat", "dog", "Ω"),
        contract=Contract(mean=(0.1, 0.2, 0.3)),
        training={"data": "digits", "accuracy": 0.5},
        weights=build("lenet", 3).state_dict(),
    )


@pytest.fixture
def path(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(checkpoint, path)
    return path


def rewritten(path: Path, *, metadata: dict[str, str] | None = None, **tensors: torch.Tensor | None) -> None:
    """Rewrite the file with other metadata or tensors; None removes a tensor, and `__` stands for a dot."""
    with safe_open(path, framework="pt") as file:
        known: dict[str, str] = file.metadata()
    weights: dict[str, Any] = load_file(path)
    for name, tensor in tensors.items():
        weights[name.replace("__", ".")] = tensor
    save_file({k: v for k, v in weights.items() if v is not None}, path, metadata=known | (metadata or {}))


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(path)
    line = str(refused.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


def test_a_checkpoint_comes_back_equal(checkpoint: Checkpoint, path: Path) -> None:
    loaded = load_checkpoint(path)
    assert replace(loaded, weights={}) == replace(checkpoint, weights={})
    assert loaded.weights_sha256 == checkpoint.weights_sha256
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network()(images), checkpoint.network()(images), rtol=0, atol=0)
    assert not loaded.network().training


def test_a_network_shares_no_memory_with_the_checkpoint_and_no_random_state_with_the_caller(
    checkpoint: Checkpoint,
) -> None:
    before, generator = checkpoint.weights_sha256, torch.get_rng_state()
    with torch.no_grad():
        for parameter in checkpoint.network().parameters():
            parameter.zero_()
    assert checkpoint.weights_sha256 == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_weights_hash_covers_names_shapes_dtypes_and_bytes() -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    others = [
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0).double(), "b": torch.ones(2)},
        {"a": torch.arange(6.0) + 1e-6, "b": torch.ones(2)},
        {"a": torch.arange(6.0)},
    ]
    assert len({sha256_of_weights(weights) for weights in [base, *others]}) == 6
    assert sha256_of_weights(dict(reversed(base.items()))) == sha256_of_weights(base)
    assert sha256_of_weights({**base, "a": torch.arange(12.0)[::2] / 2}) == sha256_of_weights(base)


def batch_norm_network(classes: int) -> nn.Sequential:
    """A small network whose state dict has int64, bool and half-precision buffers beside its parameters."""
    norm = nn.BatchNorm2d(4)
    norm.register_buffer("mask", torch.tensor([True, False]))
    norm.register_buffer("table", torch.tensor([1, 2], dtype=torch.int32))
    norm.register_buffer("half_precision", torch.tensor([0.5], dtype=torch.float16))
    norm.register_buffer("brain_float", torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=8, bias=False),
        norm,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


@pytest.fixture
def with_batch_norm(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setitem(ARCHITECTURES, "batch-norm", batch_norm_network)
    network = build("batch-norm", 3)
    network(torch.randn(2, 3, 224, 224))  # in training mode, so the running statistics change
    return replace(checkpoint, architecture="batch-norm", options={}, weights=network.state_dict())


def test_a_network_with_batch_norm_comes_back_equal(with_batch_norm: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(with_batch_norm, path)
    loaded = load_checkpoint(path)
    assert loaded.weights_sha256 == with_batch_norm.weights_sha256
    state = loaded.network().state_dict()
    assert state["1.num_batches_tracked"] == 1
    for name, tensor in with_batch_norm.weights.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name


def test_a_network_keeps_the_buffers_that_are_not_in_its_state_dict(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_with_constant(classes: int) -> nn.Linear:
        layer = nn.Linear(2, classes)
        layer.register_buffer("constant", torch.full((1000,), 3.0), persistent=False)
        return layer

    monkeypatch.setitem(ARCHITECTURES, "constant", build_with_constant)
    weights = build("constant", 3).state_dict()
    network = replace(checkpoint, architecture="constant", options={}, weights=weights).network()
    assert torch.equal(network.get_buffer("constant"), torch.full((1000,), 3.0))


def test_a_dtype_that_cannot_be_stored_is_refused_when_saving(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "complex", lambda classes: nn.Linear(2, 3, dtype=torch.complex128))
    wrong = replace(checkpoint, architecture="complex", options={}, weights=build("complex", 3).state_dict())
    with pytest.raises(CheckpointError, match=r"tensor weight: got complex128, expected .*float32"):
        save_checkpoint(wrong, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    line = refusal(tmp_path / "none.safetensors")
    assert "no such file" in line
    assert "alexnet train" in line


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path)


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.999])
def test_empty_and_truncated_files_are_refused(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "not a complete safetensors file" in refusal(path)


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    path.write_text("hello " * 1000)
    assert "not a complete safetensors file" in refusal(path)


def test_another_safetensors_file_is_refused(path: Path) -> None:
    save_file({"embedding": torch.ones(3)}, path)
    assert "format None" in refusal(path)
    save_file({"embedding": torch.ones(3)}, path, metadata={"format": "pt"})
    assert "format 'pt'" in refusal(path)


def test_the_weights_hash_of_existing_checkpoints_does_not_change() -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "c": torch.tensor([0.5]).half()}
    assert sha256_of_weights(weights) == GOLDEN_WEIGHTS_SHA256


def test_a_checkpoint_of_another_format_version_is_refused(path: Path) -> None:
    rewritten(path, metadata={"format": "alexnet-checkpoint-9"})
    assert "alexnet-checkpoint-9" in refusal(path)


def test_an_altered_record_is_refused(path: Path) -> None:
    altered = path.read_bytes().replace(b'\\"cat\\"', b'\\"cow\\"')
    assert altered != path.read_bytes()
    path.write_bytes(altered)
    assert ": record: got a SHA-256 other than" in refusal(path)


def record_with(path: Path, changes: dict[str, Any]) -> dict[str, str]:
    """Return metadata with changed fields and a matching hash; None removes a field."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"]) | changes
    text = json.dumps({name: value for name, value in record.items() if value is not None})
    return {"record": text, "record_sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"width": "wide"}},
        {"options": {"width": [1]}},
        {"options": {"depth": 2}},
        {"options": 3},
        {"options": None},
        {"class_names": None},
        {"class_names": 3},
        {"contract": {"version": 1}},
        {"contract": None},
        {"architecture": "resnet"},
        {"options": {"width": 100}},
        {"options": {"width": float("nan")}},
        {"options": {"width": True}},
        {"class_names": []},
        {"weights_sha256": None},
        {"training": None},
    ],
    ids=str,
)
def test_a_record_with_wrong_values_is_refused(path: Path, changes: dict[str, Any]) -> None:
    rewritten(path, metadata=record_with(path, changes))
    refusal(path)


@pytest.mark.parametrize("text", ["[]", "null", "{", "3"])
def test_a_record_that_is_not_an_object_is_refused(path: Path, text: str) -> None:
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    rewritten(path, metadata={"record": text, "record_sha256": sha256})
    refusal(path)


def test_one_altered_byte_of_the_weights_is_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert ": weights: got a SHA-256 other than" in refusal(path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"1__weight": torch.zeros(6, 1, 5, 4)}, ["tensor 1.weight", "(6, 1, 5, 4)", "(6, 1, 5, 5)"]),
        ({"1__weight": torch.zeros(6, 1, 5, 5).half()}, ["tensor 1.weight", "float16", "float32"]),
        ({"1__bias": None}, ["tensor 1.bias", "no such tensor", "(6,)"]),
        ({"extra": torch.zeros(1)}, ["tensor extra", "no such tensor"]),
        ({"1__bias": torch.zeros(6, dtype=torch.int64)}, ["tensor 1.bias"]),
    ],
    ids=lambda value: "",
)
def test_weights_that_do_not_fit_are_refused(path: Path, tensors: dict[str, Any], words: list[str]) -> None:
    rewritten(path, **tensors)
    line = refusal(path)
    for word in [*words, "lenet (width 1, 3 classes)"]:
        assert word in line


def test_saving_weights_that_do_not_fit_writes_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    wrong = replace(checkpoint, class_names=("a", "b"))
    with pytest.raises(CheckpointError, match=r"for lenet \(width 1, 2 classes\)"):
        save_checkpoint(wrong, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_with_this_suffix_is_not_unpickled(tmp_path: Path) -> None:
    mark, path = tmp_path / "unpickled", tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps({"weights": Bomb(mark)}))
    refusal(path)
    torch.save({"weights": Bomb(mark)}, path)
    refusal(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # the bomb works
