"""Which engines of an export a machine can run, and the reasons for those it cannot."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_bench.engines.selection import EngineFilter, EngineSelection, engines_of_export
from alexnet_model.checkpoint import save_checkpoint
from alexnet_model.environment import cpu_extensions
from alexnet_model.errors import CheckpointError, ExportError, ManifestError, UsageError
from alexnet_model.gpus import GpuSurvey
from alexnet_model.manifest import GateDecision

from ..networks import random_checkpoint
from ..serving.conftest import Artifacts
from ..serving.recorded_engines import H200, L4, with_engines

NO_DRIVER = "no NVIDIA driver (nvidia-smi is not installed)"
ON_CPU = GpuSurvey(problem=NO_DRIVER)
ON_H200 = GpuSurvey(gpus=(H200,), cuda="13.0")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What the export was made from."""
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(random_checkpoint(), path)
    return path


def selected(
    artifacts: Artifacts, gpus: GpuSurvey = ON_CPU, engine_filter: EngineFilter | None = None
) -> EngineSelection:
    return engines_of_export(artifacts.manifest, artifacts.folder, engine_filter or EngineFilter(), gpus)


def names(selection: EngineSelection) -> list[str]:
    return [str(spec) for spec in selection.specs]


def reasons(selection: EngineSelection) -> dict[str, str]:
    return {left_out.what: left_out.why for left_out in selection.left_out}


def test_on_a_cpu_the_onnx_files_of_accepted_precisions_are_selected(artifacts: Artifacts) -> None:
    selection = selected(artifacts)
    assert names(selection) == [
        "fp32 on openvino (CPU)",
        "fp32 on onnxruntime (CPU)",
        "int8 on openvino (CPU)",
        "int8 on onnxruntime (CPU)",
    ]
    # The options that a file is served with; the defaults of a runtime that does not serve it.
    fp32, int8 = (artifact.served_by.options for artifact in artifacts.manifest.accepted)
    assert [spec.options for spec in selection.specs] == [None, fp32, int8, None]
    assert {spec.max_batch for spec in selection.specs} == {8}
    assert all(spec.size_bytes == spec.file.stat().st_size for spec in selection.specs)
    assert reasons(selection) == {
        "pytorch": "no checkpoint was given (--checkpoint FILE)",
        "torch.compile": "no checkpoint was given (--checkpoint FILE)",
        "tensorrt": "this export has no engine for it (alexnet export --runtime)",
        "tensorrt-rtx": "this export has no engine for it (alexnet export --runtime)",
        "aoti": "this export has no engine for it (alexnet export --runtime)",
        "everything on a GPU": NO_DRIVER,
    }


def test_pytorch_is_measured_from_the_checkpoint_of_the_export(
    artifacts: Artifacts, checkpoint: Path
) -> None:
    selection = selected(
        artifacts, engine_filter=EngineFilter(checkpoint=checkpoint, runtimes=("pytorch", "torch.compile"))
    )
    assert names(selection) == ["fp32 on pytorch (CPU)", "fp32 on torch.compile (CPU)"]
    assert selection.specs[0].size_bytes == checkpoint.stat().st_size
    assert set(reasons(selection)) == {"everything on a GPU"}


def test_another_models_checkpoint_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(random_checkpoint(width=0.05), path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors: got other weights"):
        selected(artifacts, engine_filter=EngineFilter(checkpoint=path))


def test_on_a_gpu_all_that_a_user_could_choose_is_selected_with_and_without_graphs_and_copies(
    artifacts: Artifacts, tmp_path: Path, checkpoint: Path
) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200, max_batch=4)
    selection = selected(export, ON_H200, EngineFilter(precisions=("fp32",), checkpoint=checkpoint))
    assert names(selection) == [
        "fp32 on pytorch (CPU)",
        "fp32 on pytorch (NVIDIA H200)",
        "fp32 on pytorch (NVIDIA H200, with copies)",
        "fp32 on torch.compile (CPU)",
        "fp32 on torch.compile (NVIDIA H200)",
        "fp32 on torch.compile (NVIDIA H200, with copies)",
        "fp32 on openvino (CPU)",
        "fp32 on onnxruntime (CPU)",
        "fp32 on onnxruntime (NVIDIA H200)",
        "fp32 on onnxruntime (NVIDIA H200, with copies)",
        "fp32 on onnxruntime (NVIDIA H200, CUDA graphs)",
        "fp32 on onnxruntime (NVIDIA H200, CUDA graphs, with copies)",
        "fp32 on tensorrt (NVIDIA H200)",
        "fp32 on tensorrt (NVIDIA H200, with copies)",
        "fp32 on tensorrt (NVIDIA H200, CUDA graphs)",
        "fp32 on tensorrt (NVIDIA H200, CUDA graphs, with copies)",
    ]
    assert selection.specs[-1].max_batch == 4
    assert set(reasons(selection)) == {"tensorrt-rtx", "aoti"}


def test_on_a_gpu_pytorch_is_also_measured_as_its_users_would_run_it(
    artifacts: Artifacts, tmp_path: Path, checkpoint: Path
) -> None:
    """In half precision, if the gate accepts FP16; `torch.compile` then in nothing else."""
    accepted = GateDecision(accepted=True, reason="same model")
    changed = tuple(one.model_copy(update={"decision": accepted}) for one in artifacts.manifest.artifacts)
    export = replace(artifacts, manifest=artifacts.manifest.model_copy(update={"artifacts": changed}))
    pytorch = EngineFilter(runtimes=("pytorch", "torch.compile"), checkpoint=checkpoint, device="gpu")
    assert names(selected(export, ON_H200, pytorch)) == [
        "fp32 on pytorch (NVIDIA H200)",
        "fp32 on pytorch (NVIDIA H200, with copies)",
        "fp16 on pytorch (NVIDIA H200, channels last, CUDA graphs)",
        "fp16 on pytorch (NVIDIA H200, channels last, CUDA graphs, with copies)",
        "fp16 on torch.compile (NVIDIA H200, channels last, max-autotune)",
        "fp16 on torch.compile (NVIDIA H200, channels last, max-autotune, with copies)",
    ]
    only_fp16 = replace(pytorch, precisions=("fp16",))
    assert all(name.startswith("fp16") for name in names(selected(export, ON_H200, only_fp16)))
    on_cpu = names(selected(export, ON_CPU, replace(pytorch, device=None)))
    assert on_cpu == ["fp32 on pytorch (CPU)", "fp32 on torch.compile (CPU)"]


def test_an_int8_file_that_onnx_runtime_computes_in_float_is_measured_once_on_a_gpu(
    artifacts: Artifacts,
) -> None:
    int8 = EngineFilter(runtimes=("onnxruntime",), precisions=("int8",), device="gpu")
    assert names(selected(artifacts, ON_H200, int8)) == ["int8 on onnxruntime (NVIDIA H200)"]


def test_an_engine_for_a_cpu_is_measured_on_cpus_with_its_instructions(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    passport: dict[str, Any] = {
        "runtime": "aoti",
        "cpu": "a CPU",
        "gpu_name": None,
        "compute_capability": None,
    }
    here = with_engines(artifacts, tmp_path / "here", **passport, cpu_extensions=cpu_extensions())
    only_fp32 = EngineFilter(precisions=("fp32",), runtimes=("aoti",))
    for survey in (ON_CPU, ON_H200):
        assert names(selected(here, survey, only_fp32)) == ["fp32 on aoti (CPU)"]
    there = with_engines(artifacts, tmp_path / "there", **passport, cpu_extensions=("avx9000",))
    with pytest.raises(ExportError, match=r"built for AOTInductor 11\.1\.0\.106 on a CPU"):
        selected(there, ON_CPU, only_fp32)


def test_the_device_filter_selects_one_device(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200)
    on_gpu = names(selected(export, ON_H200, EngineFilter(device="gpu")))
    assert on_gpu
    assert all("NVIDIA H200" in name for name in on_gpu)
    on_cpu = selected(export, ON_H200, EngineFilter(device="cpu"))
    assert names(on_cpu) == names(selected(artifacts))
    assert "everything on a GPU" not in reasons(selected(artifacts, ON_CPU, EngineFilter(device="cpu")))
    with pytest.raises(
        ExportError, match=f"nothing to measure .*everything on a GPU: {re.escape(NO_DRIVER)}"
    ):
        selected(artifacts, ON_CPU, EngineFilter(device="gpu"))


def test_an_engine_that_cannot_be_measured_here_is_left_out_with_its_file_and_reason(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    engine_filter = EngineFilter(precisions=("int8",))
    there = with_engines(artifacts, tmp_path / "there", H200)
    assert (
        reasons(selected(there, ON_CPU, engine_filter))["tensorrt int8"]
        == f"alexnet_int8.sm90.plan: {NO_DRIVER}"
    )
    foreign = with_engines(artifacts, tmp_path / "foreign", L4)
    assert reasons(selected(foreign, ON_H200, engine_filter))["tensorrt int8"] == (
        "alexnet_int8.sm89.plan: built for TensorRT 11.1.0.106 on NVIDIA L4 (8.9)"
    )
    unproved = with_engines(artifacts, tmp_path / "unproved", H200, accepted=None)
    assert (
        "the gate has not judged it" in reasons(selected(unproved, ON_H200, engine_filter))["tensorrt int8"]
    )
    refused = with_engines(artifacts, tmp_path / "refused", H200, accepted=False)
    assert reasons(selected(refused, ON_H200, engine_filter))["tensorrt int8"] == (
        "alexnet_int8.sm90.plan: refused by the gate (another model)"
    )


def test_an_altered_engine_file_is_an_error(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200)
    plan = export.folder / "alexnet_fp32.sm90.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(ManifestError, match=r"alexnet_fp32\.sm90\.plan"):
        selected(export, ON_H200)


def test_a_precision_that_the_gate_refused_is_an_error(artifacts: Artifacts) -> None:
    with pytest.raises(
        UsageError, match="fp16: got a precision that the gate did not accept, expected some of fp32"
    ):
        selected(artifacts, engine_filter=EngineFilter(precisions=("fp16",)))


def test_an_unregistered_runtime_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"runtime: got 'onnx', expected one of openvino, onnxruntime"):
        EngineFilter(runtimes=("onnx",))


def test_without_any_engine_the_error_lists_the_reasons(artifacts: Artifacts) -> None:
    with pytest.raises(ExportError, match=r"nothing to measure \(tensorrt: this export has no .*no NVIDIA"):
        selected(artifacts, engine_filter=EngineFilter(runtimes=("tensorrt",)))
