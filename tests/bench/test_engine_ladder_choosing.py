"""Which engines a machine has of an export, and the reasons why it has not the others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_bench.engines.discovery import EngineFilter, EngineSelection, Machine, engines_of_export
from alexnet_model.checkpoint import save_checkpoint
from alexnet_model.errors import CheckpointError, ExportError, ManifestError, UsageError
from alexnet_model.gpus import GpuSurvey

from ..networks import random_checkpoint
from ..serving.conftest import Artifacts
from ..serving.recorded_engines import H200, L4, with_engines

NO_DRIVER = "no NVIDIA driver (nvidia-smi is not installed)"
ON_CPU = Machine(gpus=GpuSurvey(problem=NO_DRIVER), cpp_compiler="/usr/bin/c++")
ON_H200 = Machine(gpus=GpuSurvey(gpus=(H200,), cuda="13.0"), cpp_compiler="/usr/bin/c++")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What the export was made from."""
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(random_checkpoint(), path)
    return path


def chosen(
    artifacts: Artifacts, machine: Machine = ON_CPU, engine_filter: EngineFilter | None = None
) -> EngineSelection:
    return engines_of_export(artifacts.manifest, artifacts.folder, engine_filter or EngineFilter(), machine)


def names(choice: EngineSelection) -> list[str]:
    return [str(spec) for spec in choice.specs]


def reasons(choice: EngineSelection) -> dict[str, str]:
    return {left_out.what: left_out.why for left_out in choice.left_out}


def test_on_a_cpu_there_are_the_onnx_files_of_what_was_accepted(artifacts: Artifacts) -> None:
    choice = chosen(artifacts)
    assert names(choice) == [
        "fp32 on onnxruntime (CPU)",
        "fp32 on openvino (CPU)",
        "int8 on onnxruntime (CPU)",
        "int8 on openvino (CPU)",
    ]
    # As it is served, or by default where another runtime serves it.
    assert [spec.options for spec in choice.specs] == [{}, {}, {}, {"INFERENCE_PRECISION_HINT": "f32"}]
    assert {spec.max_batch for spec in choice.specs} == {8}
    assert all(spec.size_bytes == spec.file.stat().st_size for spec in choice.specs)
    assert reasons(choice) == {
        "pytorch": "no checkpoint was named (--checkpoint FILE)",
        "torch.compile": "no checkpoint was named (--checkpoint FILE)",
        "tensorrt": "this export has no engine of it (alexnet export --runtime)",
        "tensorrt-rtx": "this export has no engine of it (alexnet export --runtime)",
        "everything on a GPU": NO_DRIVER,
    }


def test_pytorch_is_measured_from_the_checkpoint_of_the_export(
    artifacts: Artifacts, checkpoint: Path
) -> None:
    choice = chosen(
        artifacts, engine_filter=EngineFilter(checkpoint=checkpoint, runtimes=("pytorch", "torch.compile"))
    )
    assert names(choice) == ["fp32 on pytorch (CPU)", "fp32 on torch.compile (CPU)"]
    assert choice.specs[0].size_bytes == checkpoint.stat().st_size
    assert set(reasons(choice)) == {"everything on a GPU"}


def test_without_a_compiler_there_is_no_compiling(artifacts: Artifacts, checkpoint: Path) -> None:
    bare = replace(ON_CPU, cpp_compiler=None)
    choice = chosen(artifacts, bare, EngineFilter(checkpoint=checkpoint))
    assert "fp32 on torch.compile (CPU)" not in names(choice)
    assert reasons(choice)["torch.compile"] == "no C++ compiler (c++, g++, clang++)"


def test_another_models_checkpoint_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(random_checkpoint(width=0.05), path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors: got other weights"):
        chosen(artifacts, engine_filter=EngineFilter(checkpoint=path))


def test_a_gpu_brings_its_engines_with_graphs_and_without_and_with_copies(
    artifacts: Artifacts, tmp_path: Path, checkpoint: Path
) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200, max_batch=4)
    choice = chosen(export, ON_H200, EngineFilter(precisions=("fp32",), checkpoint=checkpoint))
    assert names(choice) == [
        "fp32 on pytorch (CPU)",
        "fp32 on torch.compile (CPU)",
        "fp32 on pytorch (NVIDIA H200)",
        "fp32 on pytorch (NVIDIA H200, with copies)",
        "fp32 on torch.compile (NVIDIA H200)",
        "fp32 on torch.compile (NVIDIA H200, with copies)",
        "fp32 on onnxruntime (CPU)",
        "fp32 on openvino (CPU)",
        "fp32 on onnxruntime (NVIDIA H200)",
        "fp32 on onnxruntime (NVIDIA H200, with copies)",
        "fp32 on tensorrt (NVIDIA H200)",
        "fp32 on tensorrt (NVIDIA H200, CUDA graphs)",
        "fp32 on tensorrt (NVIDIA H200, CUDA graphs, with copies)",
    ]
    assert choice.specs[-1].max_batch == 4
    assert set(reasons(choice)) == {"tensorrt-rtx"}


def test_one_device_alone(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200)
    on_gpu = names(chosen(export, ON_H200, EngineFilter(device="gpu")))
    assert on_gpu
    assert all("NVIDIA H200" in name for name in on_gpu)
    on_cpu = chosen(export, ON_H200, EngineFilter(device="cpu"))
    assert names(on_cpu) == names(chosen(artifacts))
    assert "everything on a GPU" not in reasons(chosen(artifacts, ON_CPU, EngineFilter(device="cpu")))
    with pytest.raises(
        ExportError, match=f"nothing to measure .*everything on a GPU: {re.escape(NO_DRIVER)}"
    ):
        chosen(artifacts, ON_CPU, EngineFilter(device="gpu"))


def test_an_engine_that_cannot_be_measured_here_is_said_with_its_file(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    engine_filter = EngineFilter(precisions=("int8",))
    there = with_engines(artifacts, tmp_path / "there", H200)
    assert (
        reasons(chosen(there, ON_CPU, engine_filter))["tensorrt int8"]
        == f"alexnet_int8.sm90.plan: {NO_DRIVER}"
    )
    foreign = with_engines(artifacts, tmp_path / "foreign", L4)
    assert reasons(chosen(foreign, ON_H200, engine_filter))["tensorrt int8"] == (
        "alexnet_int8.sm89.plan: built for TensorRT 11.1.0.106 on NVIDIA L4 (8.9)"
    )
    unproved = with_engines(artifacts, tmp_path / "unproved", H200, accepted=None)
    assert (
        "never proved to be the same model"
        in reasons(chosen(unproved, ON_H200, engine_filter))["tensorrt int8"]
    )
    refused = with_engines(artifacts, tmp_path / "refused", H200, accepted=False)
    assert reasons(chosen(refused, ON_H200, engine_filter))["tensorrt int8"] == (
        "alexnet_int8.sm90.plan: refused by the gate (another model)"
    )


def test_an_altered_file_is_noticed(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200)
    plan = export.folder / "alexnet_fp32.sm90.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(ManifestError, match=r"alexnet_fp32\.sm90\.plan"):
        chosen(export, ON_H200)


def test_a_refused_precision_is_not_measured(artifacts: Artifacts) -> None:
    with pytest.raises(
        UsageError, match="fp16: got no such precision that was accepted, expected some of fp32"
    ):
        chosen(artifacts, engine_filter=EngineFilter(precisions=("fp16",)))


def test_runtimes_are_known_names() -> None:
    with pytest.raises(UsageError, match=r"runtime: got 'onnx', expected some of pytorch, torch\.compile"):
        EngineFilter(runtimes=("onnx",))  # type: ignore[arg-type]


def test_where_nothing_is_left_the_reasons_are_the_error(artifacts: Artifacts) -> None:
    with pytest.raises(ExportError, match=r"nothing to measure \(tensorrt: this export has no .*no NVIDIA"):
        chosen(artifacts, engine_filter=EngineFilter(runtimes=("tensorrt",)))
