"""PyTorch's outputs, stored with the exported files, for checking engines that are built later.

An engine may be built on another machine and day than the ONNX file, without the checkpoint. Images are not
stored: the evaluation set is read again if it can be, and the synthetic images are generated again. The hash
of their pixels shows whether they are the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_model.contract import Uint8Array
from alexnet_model.errors import DatasetError, ManifestError
from alexnet_model.extras import needs
from alexnet_model.files import atomic_file, sha256_of_file
from alexnet_model.manifest import REFERENCE_NAME, Manifest, verify_reference
from alexnet_model.progress import Progress, silent

from .datasets import Evaluation, evaluation_from, synthetic_evaluation
from .gate import GateInputs, Reference, Tolerances
from .runners import FloatArray

with needs("export"):
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save


@dataclass(frozen=True)
class ReferenceOutputs:
    """PyTorch's logits for the evaluation and the synthetic images, in order.

    Attributes:
        evaluation: float32, `(N, classes)`.
        evaluation_pixels_sha256: The hash of the evaluation images.
        synthetic: float32, `(S, classes)`.
        synthetic_pixels_sha256: The hash of the synthetic images.
    """

    evaluation: FloatArray
    evaluation_pixels_sha256: str
    synthetic: FloatArray
    synthetic_pixels_sha256: str


def sha256_of_pixels(images: Uint8Array) -> str:
    """Return the hex SHA-256 of all pixels in order."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def write_reference_outputs(outputs: ReferenceOutputs, folder: Path) -> str:
    """Write `reference.safetensors` and return its SHA-256.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / REFERENCE_NAME
    tensors = {"evaluation": outputs.evaluation, "synthetic": outputs.synthetic}
    metadata = {
        "evaluation_pixels_sha256": outputs.evaluation_pixels_sha256,
        "synthetic_pixels_sha256": outputs.synthetic_pixels_sha256,
    }
    with atomic_file(path) as part:
        part.write_bytes(save(tensors, metadata))  # `save_file` reports a full disk as an error of its own
    return sha256_of_file(path)


def reference_outputs_from_folder(folder: Path, manifest: Manifest) -> ReferenceOutputs:
    """Read `reference.safetensors` after checking its hash.

    Raises:
        ManifestError: it is missing, altered or broken.
    """
    path = verify_reference(manifest, folder)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            return ReferenceOutputs(
                file.get_tensor("evaluation"),
                metadata["evaluation_pixels_sha256"],
                file.get_tensor("synthetic"),
                metadata["synthetic_pixels_sha256"],
            )
    except (SafetensorError, KeyError, TypeError) as error:
        raise _unusable(path, str(error)) from error


def gate_inputs_from_folder(folder: Path, manifest: Manifest, *, progress: Progress = silent) -> GateInputs:
    """Make the inputs that the gate checked an export's ONNX files with, to check engines built from them.

    They are the evaluation images, if those can be read here and are still the same; otherwise the synthetic
    ones. `GateInputs.evaluated_on` says which.

    Args:
        folder: The folder of the export.
        manifest: Its record.
        progress: Called with the progress of reading images.

    Raises:
        ManifestError: PyTorch's outputs are missing or altered.
    """
    outputs = reference_outputs_from_folder(folder, manifest)
    synthetic = synthetic_evaluation(manifest.contract, len(outputs.synthetic))
    if sha256_of_pixels(synthetic.images) != outputs.synthetic_pixels_sha256:
        raise _unusable(folder / REFERENCE_NAME, "outputs for other synthetic images")
    synthetic_reference = Reference(synthetic.images, None, outputs.synthetic)
    evaluation, why_not = _same_evaluation(manifest, outputs, progress)
    if evaluation is None:
        reference = synthetic_reference
        evaluated_on = f"{len(synthetic.images)} synthetic images{why_not}"
    else:
        reference = Reference(evaluation.images, evaluation.labels, outputs.evaluation)
        evaluated_on = f"{len(evaluation.images)} images of {evaluation.source} ({evaluation.part})"
    return GateInputs.from_references(
        reference,
        synthetic_reference,
        max_batch=manifest.max_batch,
        tolerances=Tolerances(**manifest.tolerances),
        evaluated_on=evaluated_on,
    )


def _same_evaluation(
    manifest: Manifest, outputs: ReferenceOutputs, progress: Progress
) -> tuple[Evaluation | None, str]:
    """Read the evaluation images of the export, or return None and why they are not used."""
    source = manifest.evaluation.source
    if source == "synthetic":
        return None, ""
    try:
        evaluation = evaluation_from(
            source, manifest.model.class_names, manifest.contract, progress, labels_needed=False
        )
    except DatasetError as error:
        return None, f" (not on {source}: {error.got or error})"
    if sha256_of_pixels(evaluation.images) != outputs.evaluation_pixels_sha256:
        return None, f" (not on {source}: it holds other images than at export)"
    return evaluation, ""


def _unusable(path: Path, got: str) -> ManifestError:
    return ManifestError(
        str(path),
        got=got,
        expected="PyTorch's outputs of this export",
        next_step="Export again from the checkpoint.",
    )
