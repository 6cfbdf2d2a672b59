"""Weights as people have them: what is read, what fits, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alexnet_model.architectures import build
from alexnet_model.checkpoint import sha256_of_weights
from alexnet_model.errors import CheckpointError, UsageError
from alexnet_model.matching import Matched, matched
from alexnet_model.weights import hash_in_name, weights_file

from ..weights_files import WAYS, rounded


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return rounded(build("lenet", 5).state_dict())


def matched_lenet(path: Path, **more: Any) -> Matched:
    return matched(weights_file(path), "lenet", {}, **more)


def refusal(path: Path, **more: Any) -> str:
    with pytest.raises(CheckpointError) as refused:
        matched_lenet(path, **more)
    line = str(refused.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_saving_gives_the_same_weights(
    way: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    found = matched_lenet(WAYS[way](state, tmp_path))
    assert list(found.weights) == list(state)
    assert sha256_of_weights(found.weights) == sha256_of_weights(state)
    assert found.classes == 5


@pytest.mark.parametrize(
    ("way", "kind"), [("half", "float16"), ("bfloat16", "bfloat16"), ("double", "float64")]
)
def test_a_conversion_is_noted(way: str, kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    assert matched_lenet(WAYS[way](state, tmp_path)).notes == (
        f"Converted 10 of 10 tensors from {kind} to float32.",
    )


def test_ignored_tensors_are_noted(state: dict[str, Tensor], tmp_path: Path) -> None:
    (sentence,) = matched_lenet(WAYS["lightning"](state, tmp_path)).notes
    assert sentence == "Ignored 1 of 11 tensors that the network does not have: loss.weight."


def test_of_two_state_dicts_that_fit_one_is_taken_and_the_other_named(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    averaged = {name: value + 1 for name, value in state.items()}
    path = tmp_path / "two.pth"
    torch.save({"ema": averaged, "model": state, "teacher": {"weight": torch.ones(2)}}, path)
    found = matched_lenet(path)
    assert sha256_of_weights(found.weights) == sha256_of_weights(state)
    assert found.notes == (
        f"{path} has 2 state dicts that fit the network. Took model; to take another: --key ema.",
    )
    chosen = matched_lenet(path, key="ema")
    assert sha256_of_weights(chosen.weights) == sha256_of_weights(averaged)
    assert chosen.notes == ()
    assert "got no state dict of that key, expected one of 'model', 'ema', 'teacher'" in refusal(
        path, key="swa"
    )


def test_a_network_with_a_part_named_model_keeps_its_names(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet_model.architectures import ARCHITECTURES

    def wrapped(classes: int) -> nn.Module:
        return nn.ModuleDict({"model": nn.Linear(3, classes), "module": nn.Linear(3, 2)})

    monkeypatch.setitem(ARCHITECTURES, "wrapped", wrapped)
    torch.save(build("wrapped", 4).state_dict(), tmp_path / "weights.pth")
    found = matched(weights_file(tmp_path / "weights.pth"), "wrapped", {})
    assert list(found.weights) == ["model.weight", "model.bias", "module.weight", "module.bias"]
    assert found.classes == 4


def test_old_batch_norm_without_a_counter_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_model.architectures import ARCHITECTURES

    def normed(classes: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, classes))

    monkeypatch.setitem(ARCHITECTURES, "normed", normed)
    old = {n: t for n, t in build("normed", 4).state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "weights.pth")
    found = matched(weights_file(tmp_path / "weights.pth"), "normed", {})
    assert found.weights["0.num_batches_tracked"] == 0


def test_weights_of_another_architecture_name_what_differs_and_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": build("alexnet", 3, width=0.1).state_dict()}, path)
    line = refusal(path)
    assert "differ from lenet" in line
    assert "1.weight is missing; 1.bias is missing; 4.weight is missing; and " in line
    assert line.endswith("They fit --arch alexnet --arch-option width=0.1.")
    torch.save(build("alexnet", 3, width=0.3).state_dict(), path)
    with pytest.raises(CheckpointError) as refused:
        matched(weights_file(path), "alexnet", {"width": 0.1})
    assert (
        "differ from alexnet (width 0.1, 3 classes): features.0.weight is (19, 3, 11, 11), not (6, 3"
        in str(refused.value)
    )
    assert str(refused.value).endswith("They fit --arch alexnet --arch-option width=0.3.")


def test_weights_that_fit_nothing_ask_for_their_network(tmp_path: Path) -> None:
    torch.save({"embedding": torch.ones(3, 2)}, tmp_path / "weights.pth")
    line = refusal(tmp_path / "weights.pth")
    assert "and 8 more" in line
    assert line.endswith("Pass their network with --arch, and its arguments with --arch-option.")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name(
    value: float, state: dict[str, Tensor], tmp_path: Path
) -> None:
    broken = {**state, "4.bias": state["4.bias"].clone()}
    broken["4.bias"][2] = value
    torch.save(broken, tmp_path / "weights.pth")
    line = refusal(tmp_path / "weights.pth")
    assert "tensor 4.bias: got 1 of 16 values that are NaN or infinite" in line


def with_hash(path: Path, digits: str) -> Path:
    return path.rename(path.with_name(f"lenet-{digits}{path.suffix}"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_hash_in_the_name_is_checked(suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = WAYS[suffix](state, tmp_path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for digits in (sha256[:8], sha256):
        path = with_hash(path, digits)
        assert matched_lenet(path).classes == 5
    wrong = with_hash(path, sha256[:-1] + ("1" if sha256[-1] == "0" else "0"))
    assert "as its name says" in refusal(wrong)


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("alexnet.pth", ""),
        ("alexnet-owt-7be5be79.pth", "7be5be79"),
        ("alexnet-20261127.pth", ""),
        ("alexnet-deadbee.pth", ""),
        ("alexnet-epoch0010.pth", ""),
        ("run-7be5be79/alexnet.pth", ""),
    ],
)
def test_a_hash_is_recognised(name: str, digits: str) -> None:
    assert hash_in_name(Path(name)) == digits


def test_a_missing_file_and_another_suffix_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pth")
    (tmp_path / "weights.h5").touch()
    assert "'.h5', expected one of .pth" in refusal(tmp_path / "weights.h5")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 100, b"<html>"], ids=len)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_broken_files_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert f"got {len(content)} bytes that " in refusal(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_broken_file_is_described_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content in (b"", b"hello"):  # the unpickler has no message for the first, and a number for the second
        path.write_bytes(content)
        assert "cannot read, expected a complete file of torch.save" in refusal(path)
    torch.save({"weight": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    assert "failed finding central directory), expected a complete file" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "a list without tensors by name"),
        ({"epoch": 3}, "a dict without tensors by name (keys epoch)"),
        (OrderedDict(), "an OrderedDict without tensors by name"),
        (torch.ones(2), "a Tensor without tensors by name"),
        (
            {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
            "a dict without tensors by name (keys opt",
        ),
    ],
    ids=str,
)
def test_files_without_tensors_are_refused(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert words.replace("an ", "a ") in refusal(tmp_path / "weights.pth").replace("an ", "a ")


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_pickled_module_gets_the_lines_that_save_a_state_dict(
    tmp_path: Path, new_format: bool, inside: bool
) -> None:
    path = tmp_path / "weights.pth"
    module = nn.Sequential(nn.Linear(2, 2))
    torch.save({"model": module} if inside else module, path, _use_new_zipfile_serialization=new_format)
    line = refusal(path)
    assert "torch.nn.modules.container.Sequential, which is code, expected a state dict" in line
    assert f"model = torch.load({str(path)!r}, weights_only=False); torch.save(model.state_dict()" in line


def test_a_torchscript_archive_gets_its_lines(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "weights.pt"))  # type: ignore[no-untyped-call]
    line = refusal(tmp_path / "weights.pt")
    assert "got a TorchScript archive" in line
    assert "model = torch.jit.load(" in line


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "in Namespace"])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, kind: str) -> None:
    from argparse import Namespace

    mark, path = tmp_path / "unpickled", tmp_path / "weights.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": Bomb(mark)}))
    else:
        content = Namespace(weight=Bomb(mark)) if kind == "in Namespace" else {"weight": Bomb(mark)}
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    refusal(path)
    assert not mark.exists()
    if kind != "pickle":
        torch.load(path, weights_only=False)
        assert mark.exists()  # the bomb works


def test_reading_leaves_the_list_of_safe_classes_as_it_was(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = WAYS["training"](state, tmp_path)
    before = set(torch.serialization.get_safe_globals())
    matched_lenet(path)
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_safetensors_file_needs_no_metadata(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    assert matched_lenet(tmp_path / "weights.safetensors").classes == 5


def test_weights_for_a_factory_that_cannot_be_built_name_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = WAYS[".pth"](state, tmp_path)
    with pytest.raises(UsageError, match="no module nowhere"):
        matched(weights_file(path), "nowhere:net", {})


def test_reading_weights_imports_no_module_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "not_trusted.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    thing = import_module("not_trusted").Thing()
    torch.save({"a": thing, "weight": torch.ones(2)}, tmp_path / "weights.pth")
    monkeypatch.delitem(sys.modules, "not_trusted")
    assert "got a pickled not_trusted.Thing, which is code" in refusal(tmp_path / "weights.pth")
    assert "not_trusted" not in sys.modules
