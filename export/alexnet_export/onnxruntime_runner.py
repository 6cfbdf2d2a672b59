"""ONNX Runtime: the reference for ONNX files, and the fallback where there is a GPU without TensorRT."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from alexnet_model.contract import Uint8Array
from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.manifest import Runtime

from .runners import Outputs

with needs("export"):
    import onnxruntime

# What ONNX Runtime's graphs call the layers with the multiply-adds, after its own fusions.
HEAVY_OPERATORS = frozenset(
    {"Conv", "ConvInteger", "FusedConv", "FusedGemm", "Gemm", "MatMul", "MatMulInteger", "QGemm"}
    | {"QLinearConv", "QLinearMatMul", "DynamicQuantizeMatMul"}
)
SHORT_NAMES = {"float": "f32", "float16": "f16", "uint8": "i8", "int8": "i8"}


class OnnxRunner:
    """An ONNX file on ONNX Runtime's CPU provider.

    Raises (on entering):
        ExportError: the file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: Any = None
        self._computes_in = ""

    def __enter__(self) -> Self:
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            # A profile of the first run tells in which types the layers really ran.
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            try:
                self._session = onnxruntime.InferenceSession(
                    str(self._path), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # ONNX Runtime's errors share no base but Exception
                raise ExportError(
                    str(self._path),
                    got=str(error).strip().splitlines()[-1],
                    expected="a file ONNX Runtime can load",
                ) from error
            shape = self._session.get_inputs()[0].shape[1:]
            self.infer(np.zeros((1, *shape), np.uint8))
            self._computes_in = _computes_in(Path(self._session.end_profiling()))
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None

    @property
    def runtime(self) -> Runtime:
        return Runtime(name="onnxruntime", device="CPU", computes_in=self._computes_in)

    def infer(self, images: Uint8Array) -> Outputs:
        return Outputs(*self._session.run(["probabilities", "logits"], {"image": images}))


def _computes_in(profile: Path) -> str:
    types = set()
    for event in json.loads(profile.read_text(encoding="utf-8")):
        arguments = event.get("args", {})
        if arguments.get("op_name") in HEAVY_OPERATORS and arguments.get("input_type_shape"):
            types.update(list(arguments["input_type_shape"][0]))
    return "+".join(sorted(SHORT_NAMES.get(kind, kind) for kind in types))
