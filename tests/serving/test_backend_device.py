"""On which device our ONNX Runtime backend computes: the one that Triton gave its instance.

Triton's own stub is what imports the backend; here a few lines stand in for it, so that an instance on a GPU
can be tried without one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from alexnet_model.contract import Uint8Array
from alexnet_serving.servers.tritonserver import OUR_BACKENDS

from .test_repository import config_of


def loaded(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(
        sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils")
    )
    loaded(OUR_BACKENDS / "batching.py", "batching", monkeypatch)
    return loaded(OUR_BACKENDS / "onnxruntime" / "model.py", "our_onnxruntime", monkeypatch)


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The providers that a session requests, in a build without CUDA."""
    found: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: Any) -> Any:
        found.extend(providers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a CPU build has no CUDA
            return real(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return found


def arguments(repository: Path, kind: str) -> dict[str, str]:
    config = config_of(repository, "alexnet_fp32")
    parameters = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    return {
        "model_config": json.dumps(
            {
                "input": [{"name": "image", "dims": ["224", "224", "3"]}],
                "max_batch_size": 8,
                "parameters": parameters,
            }
        ),
        "model_repository": str(repository / "alexnet_fp32"),
        "model_version": "1",
        "model_instance_kind": kind,
        "model_instance_device_id": "1",
    }


def test_the_cpu_where_triton_gave_it_the_cpu(
    backend: Any, requested: list[Any], repository: Path, images: Uint8Array
) -> None:
    model = backend.TritonPythonModel()
    model.initialize(arguments(repository, "CPU"))
    assert requested == [("CPUExecutionProvider", {})]
    assert model.infer(images[:3])["logits"].shape == (3, 10)


def test_cuda_where_triton_gave_it_a_gpu_and_never_the_cpu_under_its_name(
    backend: Any, requested: list[Any], repository: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"no CUDAExecutionProvider that loads.*onnxruntime-gpu"):
        backend.TritonPythonModel().initialize(arguments(repository, "GPU"))
    cuda = {"device_id": "1", "use_tf32": "0"}
    assert requested == [("CUDAExecutionProvider", cuda), ("CPUExecutionProvider", {})]
