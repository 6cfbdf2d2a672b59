from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_export.gate import Reference
from alexnet_export.onnxruntime_runner import OnnxRunner
from alexnet_export.openvino_runner import OpenVinoRunner, openvino_options
from alexnet_export.statistics import signal_to_noise_db
from alexnet_model.errors import ExportError
from alexnet_model.manifest import PRECISIONS, Precision

AT_LEAST_DB = {"fp32": 100, "fp16": 50, "int8": 15}  # random weights quantise badly, and that is fine here


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_runtimes_answer_like_pytorch(
    files: dict[str, Path], reference: Reference, precision: Precision
) -> None:
    path = files[precision]
    for runner in (OpenVinoRunner(path, openvino_options(precision)), OnnxRunner(path)):
        with runner:
            outputs = runner.infer(reference.images[:8])
        assert outputs.logits.dtype == outputs.probabilities.dtype == np.float32
        assert signal_to_noise_db(reference.logits[:8], outputs.logits) > AT_LEAST_DB[precision]
        np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-3)


def test_a_runner_says_what_it_really_computes_in(files: dict[str, Path]) -> None:
    with OpenVinoRunner(files["fp32"], openvino_options("fp32")) as runner:
        assert runner.runtime.computes_in == "f32"
    with OpenVinoRunner(files["int8"], openvino_options("int8")) as runner:
        assert runner.runtime.computes_in == "i8"
    with OnnxRunner(files["fp32"]) as onnx_runner:
        assert onnx_runner.runtime.computes_in == "f32"
    # ONNX Runtime's CPU provider computes TensorRT's placement in float: that is why it does not serve it.
    with OnnxRunner(files["int8"]) as onnx_runner:
        assert onnx_runner.runtime.computes_in == "f32"


def test_results_stay_valid_after_the_next_request(files: dict[str, Path], reference: Reference) -> None:
    with OpenVinoRunner(files["fp32"], openvino_options("fp32")) as runner:
        first = runner.infer(reference.images[:2]).logits
        kept = first.copy()
        runner.infer(reference.images[2:4])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for runner in (OpenVinoRunner(path, openvino_options("fp32")), OnnxRunner(path)):
        with pytest.raises(ExportError, match=r"broken\.onnx") as caught, runner:
            pass
        assert "\n" not in str(caught.value)
