"""PyTorch in half precision, as a user would run it on a GPU: on a device in host memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_bench.engines import timing
from alexnet_bench.engines.peers import HalfTorchRunner, MaxAutotuneRunner
from alexnet_bench.engines.timing import runner_from_spec
from alexnet_export import TorchRunner
from alexnet_model.checkpoint import save_checkpoint
from alexnet_model.errors import EngineError, ExportError
from alexnet_model.gpus import Gpu

from ..networks import random_checkpoint
from .sweep_fakes import spec

H200 = Gpu(index=0, name="NVIDIA H200", compute_capability="9.0", driver="580.95.05", memory_mib=143_771)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
CHECKPOINT = random_checkpoint(width=0.05)


class TorchOnHost:
    """The part of a `CudaDevice` that the runners use, with PyTorch's tensors in host memory."""

    name = "host memory"
    index = 0

    def __init__(self, _: Gpu | None = None) -> None:
        self.captures = 0

    def make_current(self) -> None:
        pass

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def buffer(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype))

    def upload(self, images: Any, buffer: torch.Tensor) -> None:
        buffer[: len(images)].copy_(torch.from_numpy(images))

    def move(self, source: torch.Tensor, buffer: torch.Tensor) -> None:
        buffer[: len(source)].copy_(source)

    def download(self, buffer: torch.Tensor, rows: int) -> Any:
        return buffer[:rows].clone().numpy()

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        launch()
        return launch


def test_half_precision_computes_the_network_with_one_graph_a_batch_size() -> None:
    device = TorchOnHost()
    with TorchRunner(CHECKPOINT) as reference:
        expected = reference.infer(IMAGES)
    with HalfTorchRunner(CHECKPOINT, device, max_batch=4) as runner:
        assert {weights.dtype for weights in runner._classifier.parameters()} == {torch.float16}
        (convolution, *_) = (one for one in runner._classifier.modules() if isinstance(one, torch.nn.Conv2d))
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
        for batch in (4, 1, 4):
            outputs = runner.infer(IMAGES[:batch])
            np.testing.assert_allclose(outputs.logits, expected.logits[:batch], atol=0.05)
            np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-6)  # float32's softmax
        assert device.captures == 2
        runner.take(runner.place(IMAGES[2:]))
        runner.launch()
        np.testing.assert_allclose(runner._outputs[2][1], expected.logits[2:], atol=0.05)
        assert runner.runtime.computes_in == "f16"
        with pytest.raises(EngineError, match="a batch of 5, expected at most 4"):
            runner.infer(np.zeros((5, 224, 224, 3), np.uint8))


def test_max_autotune_compiles_for_the_largest_batch_and_for_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes: list[str] = []
    batches: list[int] = []

    def compiled(function: Callable[[Any], Any], *, mode: str) -> Callable[[Any], Any]:
        modes.append(mode)

        def call(images: Any) -> Any:
            batches.append(len(images))
            return function(images)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    device = TorchOnHost()
    with MaxAutotuneRunner(CHECKPOINT, device, max_batch=4) as runner:
        assert (modes, batches) == (["max-autotune"], [4, 1])
        with HalfTorchRunner(CHECKPOINT, device, max_batch=4) as half:
            expected = half.infer(IMAGES[:3])
        assert np.array_equal(runner.infer(IMAGES[:3]).logits, expected.logits)
        assert batches == [4, 1, 3]


def test_a_network_that_does_not_compile_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Callable[[Any], Any]:
        def call(_: Any) -> Any:
            raise RuntimeError("no Triton here\nand more")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    with (
        pytest.raises(ExportError, match=r"^torch\.compile: got RuntimeError: no Triton here, expected"),
        MaxAutotuneRunner(CHECKPOINT, TorchOnHost(), max_batch=2),
    ):
        pass


@pytest.mark.parametrize(
    ("runtime", "runner"), [("pytorch", HalfTorchRunner), ("torch.compile", MaxAutotuneRunner)]
)
def test_a_spec_in_half_precision_opens_its_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, runner: type
) -> None:
    monkeypatch.setattr(timing, "CudaDevice", TorchOnHost)
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(CHECKPOINT, path)
    assert type(runner_from_spec(spec("fp16", runtime=runtime, file=path, gpu=H200, half=True))) is runner
