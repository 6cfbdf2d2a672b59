"""Engines behind the Runner seam: real arithmetic behind a stand-in for the GPU's memory and TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_export import CudaDevice, EngineOptions
from alexnet_export.engines.tensorrt_api import TensorRt
from alexnet_export.engines.tensorrt_compiler import engine_from_onnx
from alexnet_export.engines.tensorrt_runner import EngineRunner
from alexnet_export.gate import Reference
from alexnet_export.onnxruntime_runner import OnnxRunner
from alexnet_export.parity import parity_batches, parity_matrix
from alexnet_model.contract import Contract
from alexnet_model.errors import EngineError, UsageError
from alexnet_model.gpus import gpus_here
from alexnet_model.passport import Passport, Profile

from .fake_tensorrt import HostDevice, fake_tensorrt
from .test_tensorrt_api import H200, INSPECTED

PROFILE = Profile(min=1, opt=2, max=8)


class Built:
    """An engine of the FP32 file, built by the stand-in."""

    def __init__(self, onnx: Path, folder: Path, **options: Any) -> None:
        self.trt = fake_tensorrt("11.1.0.106")
        self.trt.recorder.inspected = INSPECTED
        self.api = TensorRt(self.trt, "tensorrt")
        self.path = folder / "engine.plan"
        self.device = HostDevice()
        self.passport: Passport = engine_from_onnx(
            self.api,
            onnx,
            self.path,
            EngineOptions(runtime="tensorrt", timing_caches=folder, **options),
            precision="fp32",
            profile=PROFILE,
            contract=Contract(),
            gpu=H200,
        )
        self.trt.recorder.contexts = 0  # the inspection had one

    def runner(self, **more: Any) -> EngineRunner:
        return EngineRunner(
            self.path,
            self.passport,
            api=self.api,
            device=self.device,
            classes=10,
            contract=Contract(),
            **more,
        )


@pytest.fixture
def built(files: dict[str, Path], tmp_path: Path) -> Built:
    return Built(files["fp32"], tmp_path)


def test_outputs_equal_those_of_the_onnx_file(
    built: Built, files: dict[str, Path], reference: Reference
) -> None:
    with OnnxRunner(files["fp32"], Contract()) as onnx_runner, built.runner() as runner:
        for batch in (8, 1, 3):
            expected = onnx_runner.infer(reference.images[:batch])
            outputs = runner.infer(reference.images[:batch])
            np.testing.assert_array_equal(outputs.logits, expected.logits)
            np.testing.assert_array_equal(outputs.probabilities, expected.probabilities)
    assert built.trt.recorder.executions == [8, 1, 3]
    assert built.trt.recorder.contexts == 1
    assert built.device.captures == 0
    assert built.device.made_current == 1


def test_outputs_stay_valid_after_the_next_call(built: Built, reference: Reference) -> None:
    with built.runner() as runner:
        first = runner.infer(reference.images[:2])
        kept = first.logits.copy()
        runner.infer(reference.images[2:4])
    np.testing.assert_array_equal(first.logits, kept)


def test_it_passes_the_parity_matrix(built: Built, reference: Reference) -> None:
    with built.runner() as runner:
        rows = parity_matrix(runner, reference.images[:8], reference.logits[:8], parity_batches(8))
    assert [row.batch for row in rows] == [1, 2, 3, 8]
    assert all(row.finite and row.same_top1 and row.against_alone_db > 100 for row in rows)


def test_each_batch_size_has_one_graph_and_its_own_context(built: Built, reference: Reference) -> None:
    with built.runner(cuda_graphs=True) as runner:
        for batch in (1, 2, 1, 2, 1):
            outputs = runner.infer(reference.images[:batch])
            np.testing.assert_allclose(outputs.logits, reference.logits[:batch], atol=1e-3)
    assert built.device.captures == 2
    assert built.trt.recorder.contexts == 1 + 2


@pytest.mark.parametrize("graphs", [False, True])
def test_placed_images_are_computed_without_copies(built: Built, reference: Reference, graphs: bool) -> None:
    """What a benchmark times: `launch` alone, on the last input that was taken."""
    with built.runner(cuda_graphs=graphs) as runner:
        placed = [runner.place(reference.images[start : start + 3]) for start in (0, 3)]
        for index in (0, 1, 0):
            runner.take(placed[index])
            runner.launch()
            logits = runner._buffers["logits"][:3]
            np.testing.assert_allclose(logits, reference.logits[3 * index : 3 * index + 3], atol=1e-3)
        with pytest.raises(EngineError, match="a batch of 9, expected at most 8"):
            runner.take(runner.place(reference.images[:9]))
    assert built.trt.recorder.executions == [3, 3, 3]
    assert built.device.captures == (1 if graphs else 0)


def test_the_runtime_describes_itself(built: Built) -> None:
    runtime = built.runner().runtime
    assert (runtime.name, runtime.device, runtime.computes_in) == ("tensorrt", "host memory", "i8")
    assert runtime.options == {"tensorrt_version": "11.1.0.106"}
    built.passport = built.passport.model_copy(update={"layer_precisions": None})
    assert built.runner().runtime.computes_in == "fp32 (not inspected)"


def test_an_engine_that_does_not_load_is_an_error(built: Built) -> None:
    built.path.write_bytes(b"of another version")
    with pytest.raises(EngineError, match=r"engine\.plan: got The engine plan file is not compatible"):
        built.runner().__enter__()


def test_a_batch_beyond_the_profile_is_refused(built: Built, reference: Reference) -> None:
    with built.runner() as runner, pytest.raises(EngineError, match="a batch of 9, expected at most 8"):
        runner.infer(reference.images[:9])


def test_a_version_compatible_engine_may_run_its_code(files: dict[str, Path], tmp_path: Path) -> None:
    built = Built(files["fp32"], tmp_path, version_compatible=True)
    built.trt.recorder.host_code_allowed = False
    with built.runner():
        assert built.trt.recorder.host_code_allowed


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(EngineError, match="a build without CUDA, expected one with CUDA"):
        CudaDevice(H200)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    with pytest.raises(EngineError, match=r"CUDA 13\.0 can use with driver 580\.95\.05.*Update the driver"):
        CudaDevice(H200)


@pytest.mark.gpu
def test_a_real_engine_on_a_real_gpu(files: dict[str, Path], reference: Reference, tmp_path: Path) -> None:
    """TensorRT-RTX, for the GPU that is here: built, inspected, run, with graphs and without."""
    from alexnet_export.engines.tensorrt_api import tensorrt_api

    survey = gpus_here()
    if not survey.gpus:
        pytest.skip(survey.problem)
    api, gpu = tensorrt_api("tensorrt-rtx"), survey.gpus[0]
    try:
        api.check_targets((gpu.target,))
    except UsageError as error:
        pytest.skip(str(error))
    for precision, at_least_db in (("fp32", 80), ("fp16", 40)):
        engine = tmp_path / f"{precision}.plan"
        passport = engine_from_onnx(
            api,
            files[precision],
            engine,
            EngineOptions(runtime="tensorrt-rtx"),
            precision="fp32",
            profile=PROFILE,
            contract=Contract(),
            gpu=gpu,
        )
        for graphs in (False, True):
            runner = EngineRunner(
                engine,
                passport,
                api=api,
                device=CudaDevice(gpu),
                classes=10,
                contract=Contract(),
                cuda_graphs=graphs,
            )
            with runner:
                rows = parity_matrix(runner, reference.images[:8], reference.logits[:8], parity_batches(8))
            assert all(row.finite and row.against_pytorch_db > at_least_db for row in rows)
