"""ONNX Runtime on a GPU: graphs, addresses, options and errors, with a stand-in for CUDA."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from alexnet_export import CudaDevice, RunnerSource, open_runner
from alexnet_export.gate import Reference
from alexnet_export.onnxruntime_runner import CudaOnnxRunner, OnnxRunner
from alexnet_model.contract import Contract
from alexnet_model.errors import ExportError

from ..stand_ins.cuda_onnxruntime import Cuda, fake_cuda
from .fake_tensorrt import HostDevice


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return fake_cuda(monkeypatch)


def runner_of(path: Path, *, cuda_graphs: bool, device: Any = None) -> CudaOnnxRunner:
    return CudaOnnxRunner(path, Contract(), device or HostDevice(), cuda_graphs=cuda_graphs)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_outputs_are_those_of_the_cpu_at_every_batch_in_any_order(
    files: dict[str, Path], reference: Reference, cuda: Cuda, cuda_graphs: bool
) -> None:
    batches = (1, 3, 1, 8, 3, 1)
    with OnnxRunner(files["fp32"], Contract()) as on_cpu:
        expected = on_cpu.infer(reference.images[:16])
    with runner_of(files["fp32"], cuda_graphs=cuda_graphs) as runner:
        for start, batch in enumerate(batches):  # other images at each call
            outputs = runner.infer(reference.images[start : start + batch])
            np.testing.assert_allclose(outputs.logits, expected.logits[start : start + batch], atol=1e-4)
            part = expected.probabilities[start : start + batch]
            np.testing.assert_allclose(outputs.probabilities, part, atol=1e-5)
    assert cuda.captured == (["1", "3", "8"] if cuda_graphs else [])
    assert cuda.replayed == (["1", "3", "1"] if cuda_graphs else [])


def test_images_that_are_on_the_gpu_already(files: dict[str, Path], reference: Reference, cuda: Cuda) -> None:
    device = HostDevice()
    with OnnxRunner(files["fp32"], Contract()) as on_cpu:
        expected = on_cpu.infer(reference.images[:4]).logits
    with runner_of(files["fp32"], cuda_graphs=True, device=device) as runner:
        placed = [runner.place(reference.images[start : start + 2]) for start in (0, 2)]
        for start, images in zip((0, 2, 0), (*placed, placed[0]), strict=True):
            runner.take(images)
            runner.launch()
            assert runner._current is not None
            logits = device.download(runner._current.buffers["logits"], 2)
            np.testing.assert_allclose(logits, expected[start : start + 2], atol=1e-4)
    assert (cuda.captured, cuda.replayed) == (["2"], ["2", "2"])


def test_what_onnxruntime_is_given(files: dict[str, Path], cuda: Cuda) -> None:
    """No `device_id` of the first GPU, and no log below fatal: both would print warnings that say nothing."""
    common = {"user_compute_stream": "1", "use_tf32": "0"}
    with runner_of(files["fp32"], cuda_graphs=False):
        assert cuda.options == common
    assert cuda.severity == 4
    with runner_of(files["fp32"], cuda_graphs=True):
        assert cuda.options == {**common, "enable_cuda_graph": "1"}
    second = HostDevice()
    second.index = 1
    with runner_of(files["fp32"], cuda_graphs=False, device=second):
        assert cuda.options == {**common, "device_id": "1"}


def test_layers_are_profiled_without_a_graph(files: dict[str, Path], cuda: Cuda) -> None:
    with runner_of(files["fp32"], cuda_graphs=True) as runner:
        runtime = runner.runtime
    assert "enable_cuda_graph" not in cuda.options
    assert (runtime.name, runtime.device) == ("onnxruntime", "host memory")
    assert runtime.computes_in == "f32 on the CPU", "where the stand-in computes"


def test_it_is_opened_by_name_with_graphs(files: dict[str, Path], reference: Reference, cuda: Cuda) -> None:
    source = RunnerSource(
        file=files["fp32"], precision="fp32", contract=Contract(), classes=10, max_batch=8, cuda_graphs=True
    )
    on_gpu = replace(source, device=cast("CudaDevice", HostDevice()))
    with open_runner("onnxruntime", on_gpu) as runner:
        runner.infer(reference.images[:2])
    assert cuda.captured == ["2"]


def test_a_network_that_cannot_be_captured_is_an_error(files: dict[str, Path], cuda: Cuda) -> None:
    cuda.captures = False
    with pytest.raises(ExportError, match="cannot use the graph capture feature"):
        runner_of(files["fp32"], cuda_graphs=True).__enter__()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"available": False}, "without CUDA: a build without CUDA"),
        ({"loads": False}, "without CUDA: its CUDA libraries do not load"),
        (
            {"loads": False, "missing": ("libcufft.so.12",)},
            r"without CUDA: Failed to load libcufft\.so\.12: cannot open shared object file",
        ),
    ],
)
def test_without_cuda_it_is_one_line_and_never_the_cpu(
    state: dict[str, Any],
    reason: str,
    files: dict[str, Path],
    cuda: Cuda,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.modules["torch"].version, "cuda", None)
    vars(cuda).update(state)
    with pytest.raises(
        ExportError, match=rf"{reason}, expected it to use host memory.*onnxruntime-gpu"
    ) as caught:
        runner_of(files["fp32"], cuda_graphs=False).__enter__()
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("of_torch", "preloads"),
    [("13.2", 0), ("12.6", 1), (None, 1)],
    ids=["same CUDA", "older CUDA", "no CUDA"],
)
def test_cuda_is_loaded_unless_pytorch_has_loaded_it(
    of_torch: str | None,
    preloads: int,
    files: dict[str, Path],
    cuda: Cuda,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(version=SimpleNamespace(cuda=of_torch)))
    with runner_of(files["fp32"], cuda_graphs=False):
        assert cuda.preloads == preloads
