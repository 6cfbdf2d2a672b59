from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_cli.main import run
from alexnet_model import Contract, load_checkpoint
from alexnet_model.errors import AlexnetError, TrainingError, UsageError
from alexnet_training import TrainingOptions, train
from alexnet_training.devices import Compute, compute_on


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs without bf16, on which nothing is computed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: None)


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    compute = compute_on("auto")
    assert compute == compute_on("cpu")
    assert compute.device == torch.device("cpu")
    assert compute.computes_in in ("bf16 autocast", "fp32")
    assert "core" in compute.name
    assert not compute.scaler().is_enabled()


def refusal(device: str, kind: type[AlexnetError] = UsageError) -> str:
    with pytest.raises(kind) as refused:
        compute_on(device)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_where_there_is_none_is_one_line(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    end = "expected cpu. Run alexnet doctor, which lists the GPUs of this machine."
    assert refusal(device) == f"device: got {device} with a PyTorch that is built without CUDA, {end}"
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    assert refusal(device) == f"device: got {device} with no GPU that PyTorch can use, {end}"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_of_a_higher_number_is_one_line() -> None:
    assert refusal("cuda:2") == "device: got cuda:2 with 2 GPUs, expected cuda:0 to cuda:1, or cpu"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_busy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*size: int, device: torch.device) -> None:
        raise RuntimeError(f"CUDA error: {device} busy or unavailable\nCUDA kernel errors might be ...")

    monkeypatch.setattr(torch, "zeros", busy)
    line = refusal("cuda:1", TrainingError)
    assert line.startswith("device cuda:1: got CUDA error: cuda:1 busy or unavailable, expected a GPU that")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_computes_in_bf16_or_else_in_fp16_with_a_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("auto", 0), ("cuda", 0), ("cuda:1", 1)):
        compute = compute_on(name)
        assert compute.device == torch.device("cuda", number)
        assert compute.computes_in == "fp16 autocast"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert compute_on("cuda").computes_in == "bf16 autocast"
    assert Compute(torch.device("cpu"), torch.float16).scaler().is_enabled()


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:٣"])
def test_a_malformed_device_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match=r"^device: got .*, expected auto, cpu, cuda or cuda:N$"):
        TrainingOptions(device=device)


@pytest.mark.usefixtures("no_gpu")
def test_the_command_refuses_a_device_that_does_not_exist_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--device", "cuda:1", "--out", str(tmp_path / "new" / "out.safetensors")]) == 2
    assert capsys.readouterr().err.startswith("Error: device: got cuda:1 with ")
    assert list(tmp_path.iterdir()) == []


def test_settings_of_pytorch_and_its_generator_are_restored() -> None:
    before = torch.get_rng_state()
    with compute_on("cpu").settings():
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(3)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_on_the_cpu_share_the_memory_of_the_arrays() -> None:
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([1, 0])
    ((first, second),) = compute_on("cpu").batches(iter([(images, labels)]))
    images[0, 0, 0, 0] = 9
    assert first[0, 0, 0, 0] == 9
    assert second.tolist() == [1, 0]


@pytest.mark.slow
def test_a_network_that_cannot_be_compiled_is_one_line(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import _dynamo

    def fails(graph: object, example: object) -> object:
        raise ValueError("no compiler on this machine")

    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module, dynamic: compiled(module, backend=fails, dynamic=dynamic)
    )
    _dynamo.reset()
    options = TrainingOptions(
        data=str(stripes), width=0.05, epochs=1, compile=True, contract=Contract(size=64, resize=72)
    )
    with pytest.raises(TrainingError) as refused:
        train(options, tmp_path / "out.safetensors")
    assert "no compiler on this machine" in str(refused.value)
    assert str(refused.value).endswith("Leave --compile out.")
    assert "\n" not in str(refused.value)


@pytest.mark.gpu
def test_a_gpu_trains_and_its_checkpoint_is_one_of_the_cpu(stripes: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU that PyTorch can use")
    options = TrainingOptions(
        data=str(stripes),
        width=0.1,
        epochs=6,
        batch_size=8,
        device="cuda",
        contract=Contract(size=64, resize=72),
    )
    report = train(options, tmp_path / "out.safetensors")
    assert report.epochs[-1].loss < report.epochs[0].loss
    assert report.checkpoint.training["computed_in"] in ("bf16 autocast", "fp16 autocast")
    checkpoint = load_checkpoint(tmp_path / "out.safetensors")
    assert {tensor.device.type for tensor in checkpoint.weights.values()} == {"cpu"}
