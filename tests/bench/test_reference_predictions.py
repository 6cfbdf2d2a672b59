"""Reference predictions: the correct outputs of a served model, computed from its export."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_bench import ModelUnderTest
from alexnet_bench.engines.specs import EngineSpec
from alexnet_bench.loads.traffic import request_set_from_config
from alexnet_bench.reference_predictions import ExportPredictions
from alexnet_clients import FakeTransport, ServerUrl
from alexnet_export import Outputs
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import UsageError

from ..serving.conftest import Artifacts

WITHOUT_OPENVINO = """
import sys
sys.modules["openvino"] = None  # importing it fails
from pathlib import Path
from alexnet_bench.engines.selection import onnx_engine
from alexnet_bench.reference_predictions import ExportPredictions
from alexnet_model.manifest import manifest_from_folder
folder = Path(sys.argv[1])
manifest = manifest_from_folder(folder)
artifact = next(artifact for artifact in manifest.accepted if artifact.served_by.name == "onnxruntime")
predictions = ExportPredictions(manifest, folder)
with predictions.open_runner(onnx_engine(artifact, manifest, folder)) as runner:
    print(runner.runtime.name)
"""


def subject(model: str, backend: str = "onnxruntime") -> ModelUnderTest:
    config = replace(FakeTransport().model_config(model, timeout_s=1).result(), backend=backend)
    return ModelUnderTest(
        url=ServerUrl.parse("grpc://127.0.0.1:1"), config=config, network=config, device="CPU"
    )


class Ones:
    """A runner whose probabilities are all one; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def infer(self, images: Uint8Array) -> Outputs:
        self.calls += 1
        ones = np.ones((len(images), 10), np.float32)
        return Outputs(ones, ones)


@pytest.mark.parametrize(("backend", "within"), [("onnxruntime", 1e-3), ("tensorrt", 0.05)])
def test_each_batch_is_computed_once_and_engines_may_differ_more(
    artifacts: Artifacts, backend: str, within: float
) -> None:
    runner, opened = Ones(), list[EngineSpec]()

    def open_runner(spec: EngineSpec) -> AbstractContextManager[Any]:
        opened.append(spec)
        return nullcontext(runner)

    predictions = ExportPredictions(artifacts.manifest, artifacts.folder, open_runner)
    served = subject("alexnet_fp32", backend)
    requests = request_set_from_config(served.config, 8)
    found = predictions(served, requests)
    assert predictions(served, requests) is found
    assert len(found.probabilities) == runner.calls == requests.distinct
    assert found.tolerance == within
    # By the ONNX file, also for an engine: TensorRT may not be installed here.
    assert [(spec.runtime, spec.file.suffix) for spec in opened] == [("onnxruntime", ".onnx")]


def test_a_precision_that_the_export_does_not_have_is_an_error(artifacts: Artifacts) -> None:
    served = subject("alexnet_fp16")  # refused by the gate
    with pytest.raises(UsageError, match="served model alexnet_fp16: got precision fp16, expected one of"):
        ExportPredictions(artifacts.manifest, artifacts.folder)(
            served, request_set_from_config(served.config, 1)
        )


def test_an_onnx_runtime_model_needs_no_openvino(artifacts: Artifacts, tmp_path: Path) -> None:
    from alexnet_model.manifest import write_manifest

    write_manifest(artifacts.manifest, artifacts.folder)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENVINO, str(artifacts.folder)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "onnxruntime", done.stderr
