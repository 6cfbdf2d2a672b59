"""Our ONNX Runtime backend on the device that Triton gave its instance, and its CUDA graphs.

Triton's own stub is what imports the backend; here a few lines stand in for it, so that an instance on a GPU
can be tried without one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from alexnet_model.contract import Uint8Array
from alexnet_serving.servers.tritonserver import OUR_BACKENDS

from ..stand_ins.cuda_onnxruntime import CPU, CUDA, Cuda, fake_cuda
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
def warnings_of_triton() -> list[str]:
    return []


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, warnings_of_triton: list[str]) -> Any:
    stub: Any = types.ModuleType("triton_python_backend_utils")
    stub.Logger = types.SimpleNamespace(log_warn=warnings_of_triton.append)
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    loaded(OUR_BACKENDS / "batching.py", "batching", monkeypatch)
    return loaded(OUR_BACKENDS / "onnxruntime" / "model.py", "our_onnxruntime", monkeypatch)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # the backend's process has none
    return fake_cuda(monkeypatch)


def arguments(repository: Path, kind: str, device: int = 0) -> dict[str, str]:
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
        "model_instance_device_id": str(device),
    }


def model_of(backend: Any, repository: Path, kind: str = "GPU", device: int = 0) -> Any:
    model = backend.TritonPythonModel()
    model.initialize(arguments(repository, kind, device))
    return model


def test_the_cpu_where_triton_gave_it_the_cpu(
    backend: Any, cuda: Cuda, repository: Path, images: Uint8Array
) -> None:
    model = model_of(backend, repository, "CPU")
    assert cuda.providers == [[(CPU, {})]]
    assert cuda.preloads == 0
    assert model.infer(images[:3])["logits"].shape == (3, 10)


def test_a_build_without_cuda_is_never_the_cpu_under_its_name(backend: Any, repository: Path) -> None:
    """With this machine's own ONNX Runtime."""
    assert CUDA not in onnxruntime.get_available_providers()
    with pytest.raises(RuntimeError, match=r"no CUDAExecutionProvider that loads.*onnxruntime-gpu"):
        model_of(backend, repository)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [((), "its libraries do not load"), (("libcudnn.so.9",), r"Failed to load libcudnn\.so\.9: cannot open")],
)
def test_cuda_that_does_not_load_is_never_the_cpu_under_its_name(
    missing: tuple[str, ...],
    reason: str,
    backend: Any,
    cuda: Cuda,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cuda.loads, cuda.missing = False, missing
    with pytest.raises(
        RuntimeError, match=rf"no CUDAExecutionProvider that loads \({reason}.*onnxruntime-gpu"
    ):
        model_of(backend, repository)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("device", "option"), [(0, {}), (1, {"device_id": "1"})])
def test_what_onnxruntime_is_given_on_a_gpu(
    device: int, option: dict[str, str], backend: Any, cuda: Cuda, repository: Path
) -> None:
    """No `device_id` of the first GPU, and no log below fatal: both would print warnings that say nothing."""
    model_of(backend, repository, device=device)
    options = {"use_tf32": "0", "enable_cuda_graph": "1", **option}
    assert cuda.providers == [[(CUDA, options), (CPU, {})]]
    assert (cuda.preloads, cuda.severity) == (1, 4)


def test_usual_batches_are_captured_before_the_model_is_ready(
    backend: Any, cuda: Cuda, repository: Path, images: Uint8Array
) -> None:
    backend.graph_sizes = lambda largest: [1, 2, 4, largest]
    expected = model_of(backend, repository, "CPU").infer(images[:9])["logits"]
    model = model_of(backend, repository)
    assert cuda.captured == ["1", "2", "4", "8"]
    for start, batch in ((0, 1), (1, 2), (2, 1), (3, 3), (1, 8)):  # other images at each call
        outputs = model.infer(images[start : start + batch])
        np.testing.assert_allclose(outputs["logits"], expected[start : start + batch], atol=1e-4)
        assert set(outputs) == {"logits", "probabilities"}
    assert cuda.replayed == ["1", "2", "1", "8"]
    assert cuda.without_graph == 1, "of three images"


def test_a_network_that_cannot_be_captured_is_served_without_graphs(
    backend: Any, cuda: Cuda, repository: Path, images: Uint8Array, warnings_of_triton: list[str]
) -> None:
    cuda.captures = False
    model = model_of(backend, repository)
    assert cuda.options == {"use_tf32": "0"}
    assert model.infer(images[:2])["logits"].shape == (2, 10)
    (warning,) = warnings_of_triton
    assert "no CUDA graphs" in warning
    assert "cannot use the graph capture feature" in warning


@pytest.mark.parametrize("largest", [1, 3, 8, 12, 48, 64])
def test_graphs_are_of_the_sizes_of_tensorrt_engines(largest: int, backend: Any) -> None:
    small = [batch for batch in range(1, 9) if batch < largest]
    powers = [batch for batch in (16, 32) if batch < largest]
    assert backend.graph_sizes(largest) == [*small, *powers, largest]
