"""Checkpoint to ONNX in FP32, and from there to FP16 and INT8: the precision is written into the graph.

TensorRT 11 has no precision flags and no calibrators, so what a file computes in is decided here, and the
same three files run on TensorRT 10.12+ and 11, TensorRT-RTX, OpenVINO and ONNX Runtime.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_model.checkpoint import Checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import ExportError
from alexnet_model.extras import needs
from alexnet_model.files import sha256_of_file

with needs("export"):
    import onnx
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.transformers.float16 import convert_float_to_float16

OPSET = 20
CALIBRATION_METHOD = "MinMax, symmetric, per-channel weights"
CALIBRATION_BATCH = 16


def onnx_from_checkpoint(checkpoint: Checkpoint, path: Path, *, max_batch: int) -> None:
    """Write the FP32 file: uint8 `image` in, `probabilities` and `logits` out, any batch to `max_batch`.

    Raises:
        ExportError: PyTorch cannot export the network.
    """
    classifier = Classifier(checkpoint.network(), checkpoint.contract).eval()
    # Two images: an example batch of one would be taken for a constant.
    example = torch.zeros(2, *checkpoint.contract.image_shape, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=max(2, max_batch))
    with _quiet():
        try:
            program = torch.onnx.export(
                classifier,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[checkpoint.contract.input_name],
                output_names=[checkpoint.contract.probabilities_name, checkpoint.contract.logits_name],
                dynamic_shapes={"image": {0: batch}},
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(
                f"{checkpoint.architecture} to ONNX",
                got=str(error).strip().splitlines()[0],
                expected="a network that PyTorch can export",
            ) from error
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with this machine's paths
    metadata = {
        "weights_sha256": checkpoint.weights_sha256,
        "contract": checkpoint.contract.to_json(),
        "contract_digest": checkpoint.contract.digest,
        "architecture": checkpoint.architecture,
    }
    _save(model, path, {**metadata, "precision": "fp32"})


def fp16_from_onnx(source: Path, path: Path) -> None:
    """Write half-precision weights and layers; input and outputs keep their types.

    Raises:
        OSError: a file cannot be read or written.
    """
    original = onnx.load(source)
    with _quiet():
        model = convert_float_to_float16(original, keep_io_types=True)
    _save(model, path, {**_metadata(original), "precision": "fp16", "source_sha256": sha256_of_file(source)})


def int8_from_onnx(source: Path, path: Path, images: Uint8Array) -> None:
    """Write INT8 weights and Q/DQ pairs on the inputs of Conv and Gemm, with scales from `images`.

    Symmetric, per-channel weights, float biases, nothing quantised on outputs: the placement that TensorRT's
    parser accepts. `images`: the calibration images, `(N, 224, 224, 3)` uint8.

    Raises:
        OSError: a file cannot be read or written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
        quantised = Path(folder) / "quantised.onnx"
        quantize_static(
            source,
            quantised,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Weights in 7 bits: without VNNI instructions a CPU adds two 8-bit products in 16 bits, which
            # overflows with 8-bit weights (docs/decisions/precision-in-the-graph.md).
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "AddQDQPairToWeight": False,
                "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"],
            },
        )
        model = onnx.load(quantised)
    metadata = _metadata(onnx.load(source, load_external_data=False))
    _save(model, path, {**metadata, "precision": "int8", "source_sha256": sha256_of_file(source)})


def operator_counts(path: Path) -> dict[str, int]:
    """How many nodes of each operator a file has."""
    graph = onnx.load(path, load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Uint8Array) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        self._batches = iter([images[start : start + CALIBRATION_BATCH] for start in starts])

    def get_next(self) -> dict[str, Uint8Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _save(model: onnx.ModelProto, path: Path, metadata: dict[str, str]) -> None:
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' advice about themselves off the user's screen; errors still come through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
