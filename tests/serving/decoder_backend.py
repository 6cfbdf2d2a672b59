"""The backend `image_decoder` without Triton: a few lines stand in for Triton's stub, which imports it."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract, Uint8Array
from alexnet_serving.servers.tritonserver import OUR_BACKENDS


@dataclass(frozen=True)
class Tensor:
    name: str
    values: Any

    def as_numpy(self) -> Any:
        return self.values


@dataclass(frozen=True)
class TritonError:
    message: str
    code: int = 0
    INVALID_ARG = 3


@dataclass(frozen=True)
class InferenceResponse:
    output_tensors: Any = ()
    error: TritonError | None = None


def imported_decoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend's module, as Triton's stub imports it."""
    stub: Any = types.ModuleType("triton_python_backend_utils")
    stub.Tensor, stub.TritonError, stub.InferenceResponse = Tensor, TritonError, InferenceResponse
    stub.get_input_tensor_by_name = lambda request, name: request.get(name)
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("decoder", OUR_BACKENDS / "image_decoder" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(decoder: Any, contract: Contract) -> Any:
    model = decoder.TritonPythonModel()
    parameters = {"contract": {"string_value": contract.to_json()}}
    model.initialize({"model_config": json.dumps({"parameters": parameters})})
    return model


def request_of(*images: object) -> dict[str, Tensor]:
    values = np.empty((len(images), 1), np.object_)
    values[:, 0] = images
    return {ENCODED_INPUT_NAME: Tensor(ENCODED_INPUT_NAME, values)}


def images_of(response: InferenceResponse) -> Uint8Array:
    assert response.error is None
    (tensor,) = response.output_tensors
    images: Uint8Array = tensor.values
    return images
