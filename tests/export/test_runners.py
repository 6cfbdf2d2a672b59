from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch

from alexnet_export import (
    CompiledTorchRunner,
    CudaDevice,
    RunnerSource,
    TorchRunner,
    open_runner,
    signal_to_noise_db,
)
from alexnet_export.convert import fp16_from_onnx, int8_from_onnx, onnx_from_checkpoint
from alexnet_export.gate import Reference
from alexnet_export.onnxruntime_runner import CPU, CUDA, OnnxRunner, types_from_profile
from alexnet_export.openvino_runner import OpenVinoRunner, openvino_options
from alexnet_model.checkpoint import Checkpoint, save_checkpoint
from alexnet_model.contract import Contract, Uint8Array
from alexnet_model.errors import ExportError, UsageError
from alexnet_model.manifest import PRECISIONS, Precision
from alexnet_model.runtimes import BUILT_IN


class FakeDevice:
    name, index, stream = "NVIDIA H200", 0, 1


def source_of(file: Path) -> RunnerSource:
    return RunnerSource(file=file, precision="fp32", contract=Contract(), classes=10, max_batch=8)


AT_LEAST_DB = {"fp32": 100, "fp16": 50, "int8": 15}  # random weights quantise badly, and that is fine here


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_onnx_runtimes_agree_with_pytorch(
    files: dict[str, Path], reference: Reference, precision: Precision
) -> None:
    path = files[precision]
    for name in ("openvino", "onnxruntime"):
        runner = open_runner(name, replace(source_of(path), precision=precision))
        with runner:
            outputs = runner.infer(reference.images[:8])
        assert outputs.logits.dtype == outputs.probabilities.dtype == np.float32
        assert signal_to_noise_db(reference.logits[:8], outputs.logits) > AT_LEAST_DB[precision]
        np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensor_names_come_from_the_contract(
    checkpoint: Checkpoint, digits: Uint8Array, precision: Precision, tmp_path: Path
) -> None:
    contract = replace(
        checkpoint.contract, input_name="pixels", probabilities_name="shares", logits_name="scores"
    )
    renamed = replace(checkpoint, contract=contract)
    fp32, path = tmp_path / "fp32.onnx", tmp_path / f"{precision}.onnx"
    onnx_from_checkpoint(renamed, fp32, max_batch=8)
    if precision == "fp16":
        fp16_from_onnx(fp32, path)
    elif precision == "int8":
        int8_from_onnx(fp32, path, digits)
    source = RunnerSource(file=path, precision=precision, contract=contract, classes=10, max_batch=8)
    with TorchRunner(renamed) as torch_runner:
        logits = torch_runner.infer(digits[:8]).logits
    for name in ("openvino", "onnxruntime"):
        with open_runner(name, source) as runner:
            assert runner.runtime.computes_in
            assert signal_to_noise_db(logits, runner.infer(digits[:8]).logits) > AT_LEAST_DB[precision]


def test_every_cpu_runtime_is_opened_by_name(
    checkpoint: Checkpoint, files: dict[str, Path], reference: Reference, tmp_path: Path
) -> None:
    weights = tmp_path / "checkpoint.safetensors"
    save_checkpoint(checkpoint, weights)
    opened = []
    for runtime in BUILT_IN:
        if runtime.name in ("torch.compile", "aoti"):
            continue  # which need a compiler
        if "cpu" in runtime.devices:
            file = weights if runtime.source == "checkpoint" else files["fp32"]
            with open_runner(runtime.name, source_of(file)) as runner:
                assert runner.runtime.name == runtime.name
                logits = runner.infer(reference.images[:2]).logits
                np.testing.assert_allclose(logits, reference.logits[:2], atol=1e-3)
            opened.append(runtime.name)
    assert opened == ["openvino", "onnxruntime", "pytorch"]


def test_an_unsupported_device_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="device for TensorRT: got CPU, expected GPU"):
        open_runner("tensorrt", source_of(files["fp32"]))
    on_gpu = replace(source_of(files["fp32"]), device=cast("CudaDevice", FakeDevice()))
    with pytest.raises(UsageError, match="device for OpenVINO: got GPU, expected CPU"):
        open_runner("openvino", on_gpu)


def test_options_are_applied_and_reported(files: dict[str, Path]) -> None:
    source = source_of(files["fp32"])
    with open_runner("openvino", source) as runner:
        assert runner.runtime.options == openvino_options("fp32")
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    with open_runner("openvino", replace(source, options=hint)) as runner:
        assert runner.runtime.options == hint
    entries = {"session.intra_op.allow_spinning": "0"}
    with open_runner("onnxruntime", replace(source, options=entries)) as runner:
        assert runner.runtime.options == entries


def test_tf32_is_off_inside_a_runner_and_restored_after_it(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.Module.to", lambda self, *_: self)
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = True
        with TorchRunner(checkpoint, cast("CudaDevice", FakeDevice())):
            assert [switch.allow_tf32 for switch in switches] == [False, False]
        assert [switch.allow_tf32 for switch in switches] == [True, True]
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def test_a_runner_reports_the_type_it_computes_in(files: dict[str, Path]) -> None:
    with OpenVinoRunner(files["fp32"], Contract(), openvino_options("fp32")) as runner:
        assert runner.runtime.computes_in == "f32"
    with OpenVinoRunner(files["int8"], Contract(), openvino_options("int8")) as runner:
        assert runner.runtime.computes_in == "i8"
    with OnnxRunner(files["fp32"], Contract()) as onnx_runner:
        assert onnx_runner.runtime.computes_in == "f32"
    # ONNX Runtime's CPU provider computes TensorRT's placement in float: that is why it does not serve it.
    with OnnxRunner(files["int8"], Contract()) as onnx_runner:
        assert onnx_runner.runtime.computes_in == "f32"


def test_onnxruntime_without_cuda_is_an_error_on_a_gpu(files: dict[str, Path]) -> None:
    source = replace(source_of(files["fp32"]), device=cast("CudaDevice", FakeDevice()))
    with pytest.raises(
        ExportError, match=r"build without CUDA, expected it to use NVIDIA H200.*onnxruntime-gpu"
    ):
        open_runner("onnxruntime", source).__enter__()


def test_compiled_pytorch_agrees_with_pytorch_at_every_batch(
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
    with OpenVinoRunner(files["fp32"], Contract(), openvino_options("fp32")) as runner:
        first = runner.infer(reference.images[:2]).logits
        kept = first.copy()
        runner.infer(reference.images[2:4])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for runner in (OpenVinoRunner(path, Contract(), openvino_options("fp32")), OnnxRunner(path, Contract())):
        with pytest.raises(ExportError, match=r"broken\.onnx") as caught, runner:
            pass
        assert "\n" not in str(caught.value)


def test_layers_that_ran_on_another_provider_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    """A real profile, of the only provider that every machine has."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(files["fp32"], options, providers=[CPU])
    session.run(None, {"image": np.zeros((1, 224, 224, 3), np.uint8)})
    profile = Path(session.end_profiling())
    assert types_from_profile(profile, on=CPU) == "f32"
    assert types_from_profile(profile, on=CUDA) == "f32 on the CPU"
