from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch

from alexnet_export import CompiledTorchRunner, CudaDevice, signal_to_noise_db
from alexnet_export.gate import Reference
from alexnet_export.onnxruntime_runner import CPU, CUDA, OUTPUTS, OnnxRunner, types_from_profile
from alexnet_export.openvino_runner import OpenVinoRunner, openvino_options
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.errors import ExportError
from alexnet_model.manifest import PRECISIONS, Precision

AT_LEAST_DB = {"fp32": 100, "fp16": 50, "int8": 15}  # random weights quantise badly, and that is fine here


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_runtimes_answer_like_pytorch(
    files: dict[str, Path], reference: Reference, precision: Precision
) -> None:
    path = files[precision]
    for runner in (OpenVinoRunner(path, openvino_options(precision)), OnnxRunner(path)):
        with runner:
            outputs = runner.infer(reference.images[:8])
        assert outputs.logits.dtype == outputs.probabilities.dtype == np.float32
        assert signal_to_noise_db(reference.logits[:8], outputs.logits) > AT_LEAST_DB[precision]
        np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-3)


def test_a_runner_says_what_it_really_computes_in(files: dict[str, Path]) -> None:
    with OpenVinoRunner(files["fp32"], openvino_options("fp32")) as runner:
        assert runner.runtime.computes_in == "f32"
    with OpenVinoRunner(files["int8"], openvino_options("int8")) as runner:
        assert runner.runtime.computes_in == "i8"
    with OnnxRunner(files["fp32"]) as onnx_runner:
        assert onnx_runner.runtime.computes_in == "f32"
    # ONNX Runtime's CPU provider computes TensorRT's placement in float: that is why it does not serve it.
    with OnnxRunner(files["int8"]) as onnx_runner:
        assert onnx_runner.runtime.computes_in == "f32"


def test_onnxruntime_without_cuda_is_not_taken_for_one_with_it(files: dict[str, Path]) -> None:
    """It says so in its log alone, and computes on the CPU."""

    class Device:
        name, index, stream = "NVIDIA H200", 0, 1

    class OnCpu(OnnxRunner):
        def _providers(self) -> list[Any]:
            return ["CPUExecutionProvider"]

    with pytest.raises(ExportError, match=r"without CUDA, expected it to use NVIDIA H200.*onnxruntime-gpu"):
        OnCpu(files["fp32"], cast("CudaDevice", Device())).__enter__()


def test_compiled_pytorch_answers_like_pytorch_whatever_the_batch(
    checkpoint: Checkpoint, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and specialised as for a real compiler, which takes half a minute, and then run as it is."""
    graphs: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(str(graph))
        return graph.forward

    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    with CompiledTorchRunner(checkpoint, max_batch=8) as runner:
        compiled = len(graphs)
        for batch in (1, 2, 5, 8):
            logits = runner.infer(reference.images[:batch]).logits
            np.testing.assert_allclose(logits, reference.logits[:batch], atol=1e-4)
        assert runner.runtime.name == "pytorch"
    assert len(graphs) == compiled  # entering compiled for all of them


def test_a_network_that_cannot_be_compiled_is_one_line(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no working C++ compiler\nand a page about it")

    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=broken))
    with pytest.raises(ExportError, match=r"torch\.compile: got .*no working C\+\+ compiler") as caught:
        CompiledTorchRunner(checkpoint, max_batch=2).__enter__()
    assert "\n" not in str(caught.value)


def test_results_stay_valid_after_the_next_request(files: dict[str, Path], reference: Reference) -> None:
    with OpenVinoRunner(files["fp32"], openvino_options("fp32")) as runner:
        first = runner.infer(reference.images[:2]).logits
        kept = first.copy()
        runner.infer(reference.images[2:4])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for runner in (OpenVinoRunner(path, openvino_options("fp32")), OnnxRunner(path)):
        with pytest.raises(ExportError, match=r"broken\.onnx") as caught, runner:
            pass
        assert "\n" not in str(caught.value)


def test_layers_that_ran_elsewhere_than_was_asked_for_are_said(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """A real profile, of the only provider that every machine has."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(files["fp32"], options, providers=[CPU])
    session.run(OUTPUTS, {"image": np.zeros((1, 224, 224, 3), np.uint8)})
    profile = Path(session.end_profiling())
    assert types_from_profile(profile, on=CPU) == "f32"
    assert types_from_profile(profile, on=CUDA) == "f32 on the CPU"
