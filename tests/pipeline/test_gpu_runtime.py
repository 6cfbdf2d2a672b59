"""What serves on a GPU without Docker and TensorRT, with a GPU and compiled networks that are stand-ins.

The stand-ins compute with ONNX Runtime on the CPU, so the gate, the timing and the repository are real.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from alexnet_export import EngineBuilder, EngineOptions, runner_from_artifact
from alexnet_export.engines import aoti_builder, aoti_runner
from alexnet_export.engines.aoti_runner import AotiRunner
from alexnet_export.engines.passports import write_engine_passport
from alexnet_export.onnxruntime_runner import CudaOnnxRunner
from alexnet_model.contract import Contract
from alexnet_model.environment import cpu_extensions, versions_of
from alexnet_model.errors import EngineError
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import manifest_from_folder
from alexnet_model.passport import Passport
from alexnet_pipeline import ExportOptions, ExportResult, export_model, gpu_runtime
from alexnet_pipeline.gpu_runtime import GpuRuntimes, with_fastest_runtime
from alexnet_serving import devices_not_judged, lint

from ..stand_ins.cuda_onnxruntime import Cuda, fake_cuda
from ..stand_ins.docker import fake_docker, no_docker
from ..stand_ins.host_gpu import HostGpu
from ..stand_ins.nvidia_smi import fake_nvidia_smi, no_nvidia_smi
from ..stand_ins.small_networks import MeanColour

H100 = Gpu(index=0, name=HostGpu.name, compute_capability="9.0", driver="580.95.05", memory_mib=81559)
LISTED = (0, HostGpu.name, "9.0", "580.95.05", 81559)
SLOWER_S = 0.01
Session = onnxruntime.InferenceSession  # before a stand-in takes its place


class Loader:
    """PyTorch's loader of a compiled network, for files that are ONNX."""

    def __init__(self, path: str, *_: object) -> None:
        self._session = Session(path, providers=["CPUExecutionProvider"])

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        rows = self._session.run(["probabilities", "logits"], {"image": inputs[0].numpy()})
        return [torch.from_numpy(row) for row in rows]


def builder(options: Any, device: HostGpu) -> EngineBuilder:
    def build(onnx: Path, engine: Path, **more: Any) -> Passport:
        shutil.copyfile(onnx, engine)
        return write_engine_passport(
            engine,
            onnx,
            options,
            runtime_version=versions_of("torch")["torch"],
            precision=more["precision"],
            profile=more["profile"],
            build_seconds=1.0,
            gpu=H100,
            cuda="13.0",
            cpu_extensions=cpu_extensions(),
            layer_precisions={"f32": 1},
        )

    def run(engine: Path, passport: Passport, classes: int, contract: Contract) -> AotiRunner:
        return AotiRunner(engine, passport, device=device, classes=classes, contract=contract)  # type: ignore[arg-type]

    return EngineBuilder("aoti-sm90", build, run, suffix=".pt2", not_built=aoti_builder.NOT_BUILT_FOR_GPUS)


def on_an_h100(patch: pytest.MonkeyPatch, folder: Path) -> Cuda:
    """Make this a machine with an H100 and without Docker and TensorRT."""
    folder.mkdir(exist_ok=True)
    fake_nvidia_smi(patch, folder, [LISTED])
    no_docker(patch, folder)
    device = HostGpu()
    patch.setattr(gpu_runtime, "CudaDevice", lambda _: device)
    patch.setattr(gpu_runtime, "builders_from", lambda options: (builder(options, device),))
    patch.setattr(aoti_runner, "AOTIModelPackageLoader", Loader)
    patch.setattr(gpu_runtime, "SECONDS", 0.05)
    return fake_cuda(patch)


def slower(patch: pytest.MonkeyPatch, runner: type) -> None:
    infer = runner.infer  # type: ignore[attr-defined]

    def sleepy(self: Any, images: Any) -> Any:
        time.sleep(SLOWER_S)
        return infer(self, images)

    patch.setattr(runner, "infer", sleepy)


def options_in(folder: Path, **more: Any) -> ExportOptions:
    return ExportOptions(
        name="small",
        precisions=("fp32",),
        contract=Contract(size=32, resize=32),
        max_batch=8,
        out=folder / "export",
        repository=folder / "models",
        **more,
    )


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cuda:
    return on_an_h100(monkeypatch, tmp_path / "machine")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """Exported where ONNX Runtime is slower. Tests must not change its folders."""
    folder = tmp_path_factory.mktemp("h100")
    with pytest.MonkeyPatch.context() as patch:
        on_an_h100(patch, folder / "machine")
        slower(patch, CudaOnnxRunner)
        return export_model(MeanColour().eval(), options_in(folder))


def test_the_fastest_that_the_gate_accepted_is_served_and_recorded(exported: ExportResult) -> None:
    (artifact,) = exported.manifest.artifacts
    assert [engine.accepted for engine in artifact.engines] == [True]
    choice = exported.manifest.runtime_choice
    assert choice is not None
    assert choice.runtime == "aoti"
    assert [(one.runtime, one.batch) for one in choice.timings] == [
        ("onnxruntime", 1),
        ("onnxruntime", 8),
        ("aoti", 1),
        ("aoti", 8),
    ]
    assert all(one.device == H100.name and one.runs for one in choice.timings)
    assert min(one.median_ms for one in choice.timings[:2]) > 1000 * SLOWER_S
    assert exported.folder is not None
    assert manifest_from_folder(exported.folder) == exported.manifest
    assert 'backend: "aoti"' in (exported.repository / "small_fp32" / "config.pbtxt").read_text()
    assert lint(exported.repository) == ()


def test_the_figures_are_shown(exported: ExportResult) -> None:
    choice = exported.manifest.runtime_choice
    assert choice is not None
    single, several = (one.median_ms for one in choice.timings if one.runtime == "aoti")
    *_, last = exported.notes
    assert (
        f"aoti fp32 on NVIDIA H100: {single:.2f} ms for 1 image, {several:.2f} ms for 8 images, with copies."
    ) in exported.notes
    assert last.startswith("Serving with aoti, the fastest here")
    assert last.endswith("--runtime onnxruntime")


def test_the_gate_judges_onnx_files_on_the_gpu_and_the_cpu_stands_beside_it(exported: ExportResult) -> None:
    (artifact,) = exported.manifest.artifacts
    runtimes = [(report.runtime.name, report.runtime.device) for report in artifact.reports]
    assert runtimes == [("onnxruntime", "NVIDIA H100"), ("openvino", "CPU"), ("onnxruntime", "CPU")]


def found_on(device: HostGpu, **changed: Any) -> GpuRuntimes:
    values: dict[str, Any] = {"gpu": H100, "device": device, "has_onnxruntime": True}
    return GpuRuntimes(**{"builders": (builder(EngineOptions(runtime="aoti"), device),)} | values | changed)


def test_onnxruntime_is_served_where_it_is_the_faster(
    exported: ExportResult, cuda: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exported.folder is not None
    folder = Path(shutil.copytree(exported.folder, tmp_path / "export"))
    slower(monkeypatch, AotiRunner)
    manifest, notes = with_fastest_runtime(
        manifest_from_folder(folder), folder, found_on(HostGpu()), options_in(tmp_path)
    )
    assert manifest.runtime_choice is not None
    assert manifest.runtime_choice.runtime == "onnxruntime"
    assert notes[-1].endswith("--runtime aoti")
    assert {"1", "8"} <= set(cuda.captured), "timed as served, with CUDA graphs"


def test_a_network_that_aoti_cannot_compile_is_served_by_onnxruntime(
    exported: ExportResult, cuda: Cuda, tmp_path: Path
) -> None:
    def fails(*_: object, **__: object) -> Passport:
        raise EngineError("small_fp32.onnx", got="operator Foo", expected="an operator that is covered")

    assert exported.folder is not None
    folder = Path(shutil.copytree(exported.folder, tmp_path / "export"))
    without = manifest_from_folder(folder)
    (artifact,) = without.artifacts
    without = without.model_copy(update={"artifacts": (artifact.model_copy(update={"engines": ()}),)})
    failing = EngineBuilder("aoti-sm90", fails, None, suffix=".pt2")
    manifest, notes = with_fastest_runtime(
        without, folder, found_on(HostGpu(), builders=(failing,)), options_in(tmp_path)
    )
    assert notes[0].startswith("AOTInductor is left out: small_fp32.onnx: got operator Foo")
    assert manifest.runtime_choice is not None
    assert manifest.runtime_choice.runtime == "onnxruntime"


class TestWhatIsMeasured:
    def test_both(self, cuda: Cuda, tmp_path: Path) -> None:
        found, left_out = gpu_runtime.runtimes_to_measure(options_in(tmp_path))
        assert found is not None
        assert (found.gpu.name, found.has_onnxruntime, len(found.builders)) == (H100.name, True, 1)
        assert left_out == ()

    @pytest.mark.parametrize("more", [{"runtime": "openvino"}, {"image": "my/triton:26.11-py3"}])
    def test_nothing_if_the_user_chose(self, more: dict[str, Any], cuda: Cuda, tmp_path: Path) -> None:
        assert gpu_runtime.runtimes_to_measure(options_in(tmp_path, **more)) == (None, ())

    def test_nothing_without_a_gpu(self, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        no_nvidia_smi(monkeypatch, tmp_path)
        assert gpu_runtime.runtimes_to_measure(options_in(tmp_path)) == (None, ())

    def test_nothing_with_docker(self, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fake_docker(monkeypatch, tmp_path)
        assert gpu_runtime.runtimes_to_measure(options_in(tmp_path)) == (None, ())

    def test_only_aoti_without_cuda_in_onnxruntime(self, cuda: Cuda, tmp_path: Path) -> None:
        cuda.available = False
        found, (sentence,) = gpu_runtime.runtimes_to_measure(options_in(tmp_path))
        assert found is not None
        assert not found.has_onnxruntime
        assert sentence.startswith("ONNX Runtime is left out: a build without CUDA. Install onnxruntime-gpu")

    def test_only_onnxruntime_without_a_compiler_or_for_int8(
        self, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        options = replace(options_in(tmp_path), precisions=("int8",))
        found, (sentence,) = gpu_runtime.runtimes_to_measure(options)
        assert found is not None
        assert found.builders == ()
        assert "AOTInductor is left out" in sentence

        def no_compiler(_: object) -> tuple[EngineBuilder, ...]:
            raise EngineError("C++ compiler", got="none", expected="one")

        monkeypatch.setattr(gpu_runtime, "builders_from", no_compiler)
        _, (sentence,) = gpu_runtime.runtimes_to_measure(options_in(tmp_path))
        assert sentence.startswith("AOTInductor is left out: C++ compiler: got none")
        cuda.available = False
        found, sentences = gpu_runtime.runtimes_to_measure(options_in(tmp_path))
        assert found is None
        assert sentences[-1] == "NVIDIA H100 is not used."

    def test_a_gpu_that_pytorch_cannot_use_is_named(
        self, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def no_cuda(_: Gpu) -> HostGpu:
            raise EngineError("PyTorch", got="2.13.0+cpu, a build without CUDA", expected="one with CUDA")

        monkeypatch.setattr(gpu_runtime, "CudaDevice", no_cuda)
        found, (sentence,) = gpu_runtime.runtimes_to_measure(options_in(tmp_path))
        assert found is None
        assert sentence.startswith("NVIDIA H100 is not used: PyTorch: got 2.13.0+cpu, a build without CUDA")


class TestOnnxRuntimeByName:
    def test_without_a_gpu_the_device_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        no_nvidia_smi(monkeypatch, tmp_path)
        options = options_in(tmp_path, runtime="onnxruntime")
        result = export_model(MeanColour().eval(), options)
        assert any("judged on the CPU (no NVIDIA driver" in note for note in result.notes)
        assert devices_not_judged(result.repository) == ()
        fake_nvidia_smi(monkeypatch, tmp_path, [LISTED])
        (sentence,) = devices_not_judged(result.repository)
        assert sentence.startswith(
            "small was judged with ONNX Runtime on the CPU, and not on NVIDIA H100, which serves it here."
        )
        command = f"alexnet export CHECKPOINT --runtime onnxruntime --repository {result.repository}"
        assert sentence.endswith(command)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert devices_not_judged(result.repository) == ()

    def test_with_a_gpu_it_is_judged_there(self, cuda: Cuda, tmp_path: Path) -> None:
        result = export_model(MeanColour().eval(), options_in(tmp_path, runtime="onnxruntime"))
        assert result.manifest.artifacts[0].served_by.device == "NVIDIA H100"
        assert result.manifest.runtime_choice is None
        assert not any("judged" in note for note in result.notes)
        assert devices_not_judged(result.repository) == ()

    def test_a_gpu_that_cannot_be_used_is_named(self, cuda: Cuda) -> None:
        cuda.available = False
        device, sentence = gpu_runtime.device_of_onnxruntime()
        assert device is None
        assert "not on NVIDIA H100 (ONNX Runtime: a build without CUDA)" in sentence


def test_a_network_that_cannot_be_captured_is_judged_without_graphs(
    exported: ExportResult, cuda: Cuda
) -> None:
    assert exported.folder is not None
    cuda.captures = False
    (artifact,) = exported.manifest.artifacts
    device: Any = HostGpu()
    with runner_from_artifact(artifact, exported.folder, device) as runner:
        assert runner.infer(np.zeros((3, 32, 32, 3), np.uint8)).logits.shape == (3, 10)
    assert ["enable_cuda_graph" in provided[0][1] for provided in cuda.providers] == [True, False]
    assert cuda.captured == []
