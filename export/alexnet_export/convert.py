"""Checkpoint to ONNX in FP32, and from there to FP16 and INT8: the precision is written into the graph.

TensorRT 11 has no precision flags and no calibrators, so a file's graph decides what it computes in. The same
three files run on TensorRT 10.12+ and 11, TensorRT-RTX, OpenVINO and ONNX Runtime.
"""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_model.checkpoint import Checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Uint8Array
from alexnet_model.errors import ExportError, is_user_file, user_line_of
from alexnet_model.extras import needs
from alexnet_model.files import folder_beside, sha256_of_file

from .bias_correction import correct_biases

with needs("export"):
    import onnx
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.transformers.float16 import convert_float_to_float16

OPSET = 20
CALIBRATION_METHOD = "MinMax, symmetric, per-channel weights, biases corrected"
CALIBRATION_BATCH = 16


def onnx_from_checkpoint(checkpoint: Checkpoint, path: Path, *, max_batch: int) -> None:
    """Write the FP32 ONNX file of a checkpoint.

    Its input is uint8 `(N, height, width, 3)`, its outputs are float32 `(N, classes)`: probabilities and
    logits. The checkpoint's contract names all three.

    Args:
        checkpoint: The network and its contract.
        path: The file to write.
        max_batch: Largest N that the file takes; N is at least 1.

    Raises:
        ExportError: PyTorch cannot export the network.
        OSError: the file cannot be written.
    """
    contract = checkpoint.contract
    classifier = Classifier(checkpoint.network(), contract).eval()
    # Two images: PyTorch would take an example batch of one for a constant. In memory channels come first:
    # with channels last, PyTorch writes adaptive pooling as a Gather over the whole batch.
    example = torch.zeros(2, 3, contract.size, contract.size, dtype=torch.uint8).permute(0, 2, 3, 1)
    batch = torch.export.Dim("batch", min=1, max=max(2, max_batch))
    (argument,) = inspect.signature(classifier.forward).parameters  # not the input's name in the file
    with _quiet():
        try:
            program = torch.onnx.export(
                classifier,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[contract.input_name],
                output_names=[contract.probabilities_name, contract.logits_name],
                dynamic_shapes={argument: {0: batch}},
                verbose=False,
            )
        except Exception as error:  # PyTorch's exporters raise errors of every kind
            reason, place = _failure(error, classifier, example)
            raise ExportError(
                f"{checkpoint.architecture} to ONNX",
                got=reason,
                expected="a network that PyTorch can export",
                next_step=f"Change {place}" if place else "Run torch.export.export on it for the details.",
            ) from error
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with this machine's paths
    metadata = {
        "weights_sha256": checkpoint.weights_sha256,
        "contract": contract.to_json(),
        "contract_digest": contract.digest,
        "architecture": checkpoint.architecture,
    }
    _save(model, path, {**metadata, "precision": "fp32"})


def fp16_from_onnx(source: Path, path: Path) -> None:
    """Write an ONNX file with half-precision weights and layers; input and outputs keep their types.

    Args:
        source: The FP32 file.
        path: The file to write.

    Raises:
        OSError: a file cannot be read or written.
    """
    original = onnx.load(source)
    with _quiet():
        model = convert_float_to_float16(original, keep_io_types=True)
    _save(model, path, {**_metadata(original), "precision": "fp16", "source_sha256": sha256_of_file(source)})


def int8_from_onnx(source: Path, path: Path, images: Uint8Array) -> None:
    """Write an ONNX file with INT8 weights and Q/DQ pairs on the inputs of Conv and Gemm.

    Quantisation is symmetric, per channel for weights, with float biases and nothing quantised on outputs:
    the only placement that TensorRT's parser accepts. The biases take back the constant part of the error.

    Args:
        source: The FP32 file.
        path: The file to write.
        images: The calibration images that the scales are computed from, uint8 `(N, height, width, 3)`.

    Raises:
        OSError: a file cannot be read or written.
    """
    original = onnx.load(source)
    batches = [images[at : at + CALIBRATION_BATCH] for at in range(0, len(images), CALIBRATION_BATCH)]
    with folder_beside(path) as folder, _quiet():
        quantised = folder / "quantised.onnx"
        quantize_static(
            source,
            quantised,
            _CalibrationImages(original.graph.input[0].name, batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Weights in 7 bits: on a CPU without VNNI instructions, the sum of two 8-bit products overflows
            # its 16-bit intermediate (docs/decisions/precision-in-the-graph.md).
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=_miscomputed_convolutions(original),
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "AddQDQPairToWeight": False,
                "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"],
            },
        )
        model = onnx.load(quantised)
        correct_biases(original, model, batches)
    _save(model, path, {**_metadata(original), "precision": "int8", "source_sha256": sha256_of_file(source)})


def _miscomputed_convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions whose INT8 kernel in OpenVINO is wrong; they stay in float.

    On a CPU with AVX2 but without VNNI, a 1x1 kernel with a stride and 8, 24, 40, ... input channels writes
    past its part of the output: on several threads, the first pixel of the next part is sometimes wrong.
    """
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Conv" and "strides" in attributes:
            _, channels, *kernel = shapes.get(node.input[1], (0, 0))  # weights may be computed
            if set(kernel) == {1} and max(attributes["strides"].ints) > 1 and channels % 16 == 8:
                found.append(node.name)
    return found


def operator_counts(path: Path) -> dict[str, int]:
    """Return how many nodes of each operator an ONNX file has, sorted by operator."""
    graph = onnx.load(path, load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


def _failure(error: BaseException, classifier: Classifier, example: torch.Tensor) -> tuple[str, str]:
    """Return why PyTorch cannot export a network, and the line of the user's code, if it is known."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    place = next((line for link in reversed(chain) if (line := user_line_of(link))), "")
    texts = " ".join(str(link) for link in chain)
    operator = re.search(r"OpOverload\(op='([\w.:]+)'", texts)
    if operator:
        place = place or _line_of_operator(operator[1], classifier, example)
        return f"the operator {operator[1]}, which ONNX has no form of", place
    first = next((line.strip() for line in str(chain[-1]).splitlines() if line.strip()), "no text")
    return f"{type(chain[-1]).__name__}: {first}", place


def _line_of_operator(operator: str, classifier: Classifier, example: torch.Tensor) -> str:
    """Return the line of the user's code that calls an operator, from the trace of the network."""
    name = re.split("[.:]+", operator)[1]  # "bessel_j0", which may be a part of an operator of higher level
    for node in torch.export.export(classifier, (example,)).graph.nodes:
        if name in str(node.target):
            frames = re.findall(
                r'File "([^"]+)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or ""
            )
            for path, line, code in reversed(frames):
                if is_user_file(path) and "alexnet_model" not in path:
                    return f"{Path(path).name}:{line}: {code.strip()}"
    return ""


class _CalibrationImages(CalibrationDataReader):  # type: ignore[misc]
    """Give ONNX Runtime's quantiser the images in batches."""

    def __init__(self, input_name: str, batches: list[Uint8Array]) -> None:
        self._batches = iter([{input_name: images} for images in batches])

    def get_next(self) -> dict[str, Uint8Array] | None:
        return next(self._batches, None)


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _save(model: onnx.ModelProto, path: Path, metadata: dict[str, str]) -> None:
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' warnings about themselves off the screen; errors still come through."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(max(level, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(level)
