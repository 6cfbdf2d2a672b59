"""Engines of AOTInductor for GPUs: their configuration, where they load, and the backend on a fake GPU."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from alexnet_model.contract import Uint8Array
from alexnet_model.gpus import GpuSurvey
from alexnet_model.runtimes import runtime_named
from alexnet_serving import (
    EngineTarget,
    MachineTarget,
    RepositoryOptions,
    engine_compatibility,
    lint,
    write_repository,
)
from alexnet_serving.engine_compatibility import engine_for, reason_to_refuse, targets_of_machine
from alexnet_serving.repositories.layout import packable_engines
from alexnet_serving.servers.tritonserver import OUR_BACKENDS

from .conftest import Artifacts
from .recorded_engines import H200, L4, TENSORRT, engine_of, with_engines
from .test_backend_device import loaded
from .test_repository import config_of

AOTI = RepositoryOptions(runtime="aoti", encoded=False)
PASSPORT: dict[str, Any] = {
    "runtime": "aoti",
    "runtime_version": "2.13.0",
    "cpu_extensions": ("avx", "avx2"),
    "image": None,
    "image_digest": None,
    "autotuned": True,
}
ON_CPU: dict[str, Any] = {**PASSPORT, "cpu": "a CPU", "gpu_name": None, "compute_capability": None}
MACHINE = MachineTarget(
    torch_version="2.13.0", cpu="a CPU", cpu_extensions=frozenset({"avx", "avx2", "fma"}), gpu=H200
)


def test_a_gpu_runs_one_engine_with_a_graph_for_each_warm_batch(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export", **PASSPORT)
    models = tmp_path / "models"
    assert write_repository(export.manifest, export.folder, models, AOTI) == ("alexnet_fp32", "alexnet_int8")
    assert lint(models) == ()
    config = config_of(models, "alexnet_fp32")
    assert config.backend == "aoti"
    assert [group.kind for group in config.instance_group] == [ModelInstanceGroup.KIND_GPU]
    assert not config.optimization.HasField("cuda"), "Triton's own backends read it"
    assert config.parameters["cuda_graph_batches"].string_value == "[1,2,3,4,5,6,7,8]"
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert config.parameters["torch_version"].string_value == "2.13.0"
    assert "tensorrt_version" not in config.parameters
    assert (models / "alexnet_fp32" / "1" / "model.pt2").is_file()
    assert (models / "alexnet_fp32" / "1" / "model.passport.json").is_file()


def test_several_gpus_have_an_engine_each(artifacts: Artifacts, tmp_path: Path) -> None:
    export = with_engines(artifacts, tmp_path / "export", H200, L4, **PASSPORT)
    write_repository(export.manifest, export.folder, tmp_path / "models", AOTI)
    assert lint(tmp_path / "models") == ()
    config = config_of(tmp_path / "models", "alexnet_fp32")
    assert dict(config.cc_model_filenames) == {"9.0": "model_sm90.pt2", "8.9": "model_sm89.pt2"}
    assert "engine_sha256_sm90" in config.parameters


def test_engines_that_were_swapped_between_models_are_found(artifacts: Artifacts, tmp_path: Path) -> None:
    """With their passports, so that each engine fits the passport beside it, and not the record."""
    export = with_engines(artifacts, tmp_path / "export", **PASSPORT)
    models = tmp_path / "models"
    write_repository(export.manifest, export.folder, models, AOTI)
    one, other = (models / f"alexnet_{precision}" / "1" for precision in ("fp32", "int8"))
    for name in ("model.pt2", "model.passport.json"):
        (one / name).rename(tmp_path / name)
        (other / name).rename(one / name)
        (tmp_path / name).rename(other / name)
    findings = lint(models)
    assert {finding.file.partition("/")[0] for finding in findings} == {"alexnet_fp32", "alexnet_int8"}
    assert all(finding.about_engine for finding in findings)


def test_an_engine_for_a_cpu_is_left_out_beside_one_for_a_gpu(artifacts: Artifacts, tmp_path: Path) -> None:
    (fp32, *_) = artifacts.manifest.artifacts
    on_gpu = engine_of(fp32, tmp_path, H200, **PASSPORT)
    on_cpu = engine_of(fp32, tmp_path, L4, **ON_CPU)
    runtime = runtime_named("aoti")
    assert packable_engines(fp32.model_copy(update={"engines": (on_cpu, on_gpu)}), runtime) == (on_gpu,)
    assert packable_engines(fp32.model_copy(update={"engines": (on_cpu,)}), runtime) == (on_cpu,)


@pytest.mark.parametrize(
    ("passport", "target", "reason"),
    [
        (PASSPORT, MACHINE, ""),
        (PASSPORT, replace(MACHINE, torch_version="2.13.1"), "PyTorch 2.13.1 loads only its own engines"),
        (PASSPORT, replace(MACHINE, torch_version=""), "PyTorch (not installed) loads only"),
        (PASSPORT, replace(MACHINE, cpu_extensions=frozenset({"avx"})), "this CPU has no avx2"),
        (PASSPORT, replace(MACHINE, gpu=L4), "needs a GPU of compute capability 9.0"),
        (PASSPORT, replace(MACHINE, gpu=None), "needs a GPU of compute capability 9.0"),
        (PASSPORT, replace(MACHINE, gpu=replace(H200, name="NVIDIA H100")), ""),
        (ON_CPU, replace(MACHINE, gpu=None), ""),
        (ON_CPU, MACHINE, ""),
        (ON_CPU, replace(MACHINE, cpu_extensions=frozenset()), "this CPU has no avx, avx2"),
        (PASSPORT, EngineTarget(tensorrt_version=TENSORRT, gpu=H200), "image has no backend for AOTInductor"),
    ],
)
def test_rules(
    passport: dict[str, Any],
    target: EngineTarget | MachineTarget,
    reason: str,
    artifacts: Artifacts,
    tmp_path: Path,
) -> None:
    engine = engine_of(artifacts.manifest.artifacts[0], tmp_path, **passport)
    refused = reason_to_refuse(engine.passport, target)
    assert bool(refused) == bool(reason)
    assert reason in refused


def test_hidden_gpus_are_no_target(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(artifacts.manifest.artifacts[0], tmp_path, **{**PASSPORT, "cpu_extensions": ()})
    monkeypatch.setattr(engine_compatibility, "versions_of", lambda _: {"torch": "2.13.0"})
    survey = GpuSurvey(gpus=(H200, L4))
    assert [target.gpu for target in targets_of_machine(survey)] == [H200, L4]
    assert reason_to_refuse(engine.passport, targets_of_machine(survey)[0]) == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (target,) = targets_of_machine(survey)
    assert "CUDA_VISIBLE_DEVICES hides every GPU" in reason_to_refuse(engine.passport, target)


def test_the_engine_is_that_of_the_gpus_compute_capability(artifacts: Artifacts, tmp_path: Path) -> None:
    (fp32, *_) = artifacts.manifest.artifacts
    engines = {
        "model_sm90.pt2": engine_of(fp32, tmp_path, H200, **PASSPORT),
        "model_sm89.pt2": engine_of(fp32, tmp_path, L4, **PASSPORT),
    }
    assert engine_for(engines, replace(MACHINE, gpu=L4)) == engines["model_sm89.pt2"]
    assert engine_for(engines, replace(MACHINE, gpu=None)) is None


class FakeCuda:
    """The part of `torch.cuda` that the backend uses; a graph repeats the runs that were captured in it."""

    def __init__(self) -> None:
        self.captures = 0

    def get_device_capability(self, _: object) -> tuple[int, int]:
        return 9, 0

    def set_device(self, _: object) -> None: ...

    def Stream(self, _: object) -> Any:
        return types.SimpleNamespace(synchronize=lambda: None)

    def stream(self, _: object) -> Any:
        return nullcontext()

    def CUDAGraph(self) -> Any:
        return FakeGraph()

    @contextmanager
    def graph(self, graph: FakeGraph, **_: object) -> Iterator[None]:
        self.captures += 1
        yield
        graph.images, graph.outputs = Loader.last


class FakeGraph:
    """Computes what was captured again, from the same memory to the same memory."""

    images: torch.Tensor
    outputs: list[torch.Tensor]

    def replay(self) -> None:
        for rows, again in zip(self.outputs, outputs_of(self.images), strict=True):
            rows.copy_(again)


def outputs_of(images: torch.Tensor) -> list[torch.Tensor]:
    logits = images.float().mean(dim=(1, 2))
    return [torch.softmax(logits, 1), logits]


class Loader:
    """In place of PyTorch's: the mean of each image, and the number of runs."""

    runs = 0
    opened = ""
    last: tuple[torch.Tensor, list[torch.Tensor]]

    def __init__(self, path: str, *_: object) -> None:
        Loader.opened = path
        Loader.runs = 0

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        Loader.runs += 1
        Loader.last = inputs[0], outputs_of(inputs[0])
        return Loader.last[1]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The backend with a PyTorch whose one GPU is this machine's memory."""
    utilities = types.ModuleType("triton_python_backend_utils")
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities)
    loaded(OUR_BACKENDS / "batching.py", "batching", monkeypatch)
    module = loaded(OUR_BACKENDS / "aoti" / "model.py", "our_aoti", monkeypatch)

    class FakeTorch:
        cuda = FakeCuda()

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def empty(self, shape: tuple[int, ...], *, dtype: Any, device: Any) -> torch.Tensor:
            assert device == torch.device("cuda", 1)
            return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr(module, "torch", FakeTorch())
    monkeypatch.setattr(module, "AOTIModelPackageLoader", Loader)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield module
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def arguments(folder: Path, kind: str, **parameters: str) -> dict[str, str]:
    engine = folder / "1" / "model_sm90.pt2"
    engine.parent.mkdir()
    engine.write_bytes(b"an engine")
    sha256 = hashlib.sha256(b"an engine").hexdigest()
    values = {"engine_sha256_sm90": sha256, "cuda_graph_batches": "[1,2]", **parameters}
    config = {
        "input": [{"name": "image", "dims": ["8", "8", "3"]}],
        "output": [{"name": "probabilities"}, {"name": "logits"}],
        "max_batch_size": 4,
        "cc_model_filenames": {"9.0": "model_sm90.pt2"},
        "parameters": {name: {"string_value": value} for name, value in values.items()},
    }
    return {
        "model_config": json.dumps(config),
        "model_repository": str(folder),
        "model_version": "1",
        "model_instance_kind": kind,
        "model_instance_device_id": "1",
    }


def test_the_backend_replays_a_graph_for_each_named_batch_and_pads_none(backend: Any, tmp_path: Path) -> None:
    model = backend.TritonPythonModel()
    model.initialize(arguments(tmp_path, "GPU"))
    assert Path(Loader.opened).name == "model_sm90.pt2"
    images: Uint8Array = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    # A capture runs the network twice, a replay not at all.
    for start, (batch, runs) in enumerate([(1, 2), (3, 3), (1, 3), (3, 4)]):
        part = images[start : start + batch]
        outputs = model.infer(part)
        assert list(outputs) == ["probabilities", "logits"]
        np.testing.assert_allclose(outputs["logits"], part.mean(axis=(1, 2)), rtol=1e-4)
        assert Loader.runs == runs
    assert backend.torch.cuda.captures == 1
    assert not torch.backends.cudnn.allow_tf32


def test_the_backend_loads_nothing_of_another_hash(backend: Any, tmp_path: Path) -> None:
    Loader.opened = ""
    wrong = arguments(tmp_path, "GPU", engine_sha256_sm90="0" * 64)
    with pytest.raises(RuntimeError, match="and not that of its record"):
        backend.TritonPythonModel().initialize(wrong)
    assert Loader.opened == ""
