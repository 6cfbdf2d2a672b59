"""PyTorch's answers, kept beside the exported files, so that what is built from them later is judged by them.

An engine may be built on another machine and day than the ONNX file, without the checkpoint. Images are
not kept: the evaluation set is read again where it can be, and the synthetic images are made anew; both
are recognised by the hash of their pixels.
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
    from safetensors.numpy import save_file


@dataclass(frozen=True)
class KeptAnswers:
    """Logits to each set's images, in order, with the SHA-256 of their pixels."""

    evaluation: FloatArray  # (N, classes)
    evaluation_pixels_sha256: str
    synthetic: FloatArray  # (S, classes)
    synthetic_pixels_sha256: str


def sha256_of_pixels(images: Uint8Array) -> str:
    """Hex SHA-256 of all pixels in order."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def write_answers(answers: KeptAnswers, folder: Path) -> str:
    """Write `reference.safetensors` and return its SHA-256.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / REFERENCE_NAME
    tensors = {"evaluation": answers.evaluation, "synthetic": answers.synthetic}
    metadata = {
        "evaluation_pixels_sha256": answers.evaluation_pixels_sha256,
        "synthetic_pixels_sha256": answers.synthetic_pixels_sha256,
    }
    with atomic_file(path) as part:
        save_file(tensors, part, metadata)
    return sha256_of_file(path)


def answers_from_folder(folder: Path, manifest: Manifest) -> KeptAnswers:
    """Read `reference.safetensors`, once its hash is the manifest's.

    Raises:
        ManifestError: it is missing, altered or broken.
    """
    path = verify_reference(manifest, folder)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            return KeptAnswers(
                file.get_tensor("evaluation"),
                metadata["evaluation_pixels_sha256"],
                file.get_tensor("synthetic"),
                metadata["synthetic_pixels_sha256"],
            )
    except (SafetensorError, KeyError, TypeError) as error:
        raise _unusable(path, str(error)) from error


def gate_inputs_from_folder(folder: Path, manifest: Manifest, *, progress: Progress = silent) -> GateInputs:
    """The gate as it judged the ONNX files of an export, for engines that are built from them.

    On the evaluation images where they can be read here and are still the same; on the synthetic ones
    otherwise, which `GateInputs.evaluated_on` says.

    Raises:
        ManifestError: PyTorch's answers are missing or altered.
    """
    answers = answers_from_folder(folder, manifest)
    contract = manifest.contract
    synthetic = synthetic_evaluation(contract, len(answers.synthetic))
    if sha256_of_pixels(synthetic.images) != answers.synthetic_pixels_sha256:
        raise _unusable(folder / REFERENCE_NAME, "answers to other synthetic images")
    tolerances = Tolerances(**manifest.tolerances)
    evaluation, why_not = _evaluation_again(manifest, answers, progress)
    if evaluation is None:
        reference = Reference(synthetic.images, None, answers.synthetic)
        evaluated_on = f"{len(synthetic.images)} synthetic images{why_not}"
    else:
        reference = Reference(evaluation.images, evaluation.labels, answers.evaluation)
        evaluated_on = f"{len(evaluation.images)} images of {evaluation.source} ({evaluation.part})"
    return GateInputs.of(
        reference,
        Reference(synthetic.images, None, answers.synthetic),
        max_batch=manifest.max_batch,
        tolerances=tolerances,
        evaluated_on=evaluated_on,
    )


def _evaluation_again(
    manifest: Manifest, answers: KeptAnswers, progress: Progress
) -> tuple[Evaluation | None, str]:
    source = manifest.evaluation.source
    if source == "synthetic":
        return None, ""
    try:
        evaluation = evaluation_from(
            source, manifest.model.class_names, manifest.contract, progress, labels_needed=False
        )
    except DatasetError as error:
        return None, f" (not on {source}: {error.got or error})"
    if sha256_of_pixels(evaluation.images) != answers.evaluation_pixels_sha256:
        return None, f" (not on {source}: it holds other images than at export)"
    return evaluation, ""


def _unusable(path: Path, got: str) -> ManifestError:
    return ManifestError(
        str(path),
        got=got,
        expected="PyTorch's answers of this export",
        next_step="Export again from the checkpoint.",
    )
