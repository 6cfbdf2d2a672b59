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


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("CPU", [("CPUExecutionProvider", {})]),
        ("GPU", [("CUDAExecutionProvider", {"device_id": "1"}), ("CPUExecutionProvider", {})]),
    ],
)
def test_cuda_first_where_triton_sees_a_gpu(
    kind: str,
    wanted: list[tuple[str, dict[str, str]]],
    repository: Path,
    pictures: Uint8Array,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils")
    )
    loaded(OUR_BACKENDS / "batching.py", "batching", monkeypatch)
    backend = loaded(OUR_BACKENDS / "onnxruntime" / "model.py", "our_onnxruntime", monkeypatch)
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: Any) -> Any:
        asked.extend(providers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a CPU build has no CUDA
            return real(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    config = config_of(repository, "alexnet_fp32")
    parameters = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    model = backend.TritonPythonModel()
    model.initialize(
        {
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
    )
    assert asked == wanted
    assert model.infer(pictures[:3])["logits"].shape == (3, 10), "a CPU build answers all the same"
