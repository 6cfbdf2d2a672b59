"""A checkpoint to ONNX files that the gate has checked to be the same model, and their record."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from alexnet_model.architectures import parameter_count
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Uint8Array
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.errors import CalibrationError, ExportError, UsageError
from alexnet_model.files import atomic_directory, sha256_of_file
from alexnet_model.folders import refuse_foreign_files
from alexnet_model.manifest import (
    MANIFEST_NAME,
    PRECISIONS,
    REFERENCE_NAME,
    Artifact,
    CalibrationLedger,
    EvaluationRecord,
    Manifest,
    ModelRecord,
    Precision,
    write_manifest,
)
from alexnet_model.model_names import NAME_PATTERN, check_name, default_name, network_name
from alexnet_model.network_check import count_outputs
from alexnet_model.passport import PASSPORT_SUFFIX
from alexnet_model.progress import Progress, silent
from alexnet_model.runtimes import BUILT_IN, engine_suffixes, runtimes

from .convert import fp16_from_onnx, int8_from_onnx, onnx_from_checkpoint, operator_counts
from .cuda import CudaDevice
from .datasets import (
    SYNTHETIC_IMAGES,
    Evaluation,
    calibration_from,
    evaluation_from,
    sha256_of_digests,
    synthetic_evaluation,
)
from .gate import EVALUATION_BATCH, GateInputs, Reference, Tolerances
from .reference import ReferenceOutputs, sha256_of_pixels, write_reference_outputs
from .runners import RunnerSource, infer_in_batches, open_runner
from .statistics import wilson_interval
from .torch_runner import TorchRunner

_PRECISION = "|".join(PRECISIONS)
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "pillow", "alexnet-serving")


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """How to export ONNX files.

    Attributes:
        precisions: The precisions to export. None: all; INT8 only with calibration images.
        calibration: `digits` or a folder, from whose training part the INT8 scales are computed.
        evaluation: `digits` or a folder, on whose test split the gate measures. None: that of
            `calibration`; without it, synthetic images.
        max_batch: Largest batch to check and to serve, 1 to 1024.
        runtime: The runtime that will serve the ONNX files, and that the gate checks.
        tolerances: What a precision may lose.
        name: Name of the export, which its files and models start with. None: `default_name` of the
            checkpoint's architecture.
        model_version: Version of its models in a repository, 1 or more.
    """

    precisions: tuple[Precision, ...] | None = None
    calibration: str | None = None
    evaluation: str | None = None
    max_batch: int = 64
    runtime: str = "openvino"
    tolerances: Tolerances = field(default_factory=Tolerances)
    name: str | None = None
    model_version: int = 1

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name(self.name)
        if self.model_version < 1:
            raise UsageError("model version", got=str(self.model_version), expected="1 or more")
        onnx_runtimes = [runtime.name for runtime in runtimes() if runtime.source == "onnx"]
        if self.runtime not in onnx_runtimes:
            raise UsageError("runtime", got=repr(self.runtime), expected=f"one of {', '.join(onnx_runtimes)}")
        if not 1 <= self.max_batch <= 1024:
            raise UsageError("max batch", got=str(self.max_batch), expected="1 to 1024")
        if self.precisions is not None and not self.precisions:
            raise UsageError("precision", got="none", expected=f"some of {', '.join(PRECISIONS)}")

    @property
    def to_make(self) -> tuple[Precision, ...]:
        """In the order fp32, fp16, int8; without images INT8 is left out unless it is requested by name."""
        wanted = self.precisions or (PRECISIONS if self.calibration else ("fp32", "fp16"))
        return tuple(precision for precision in PRECISIONS if precision in wanted)


def export_onnx(
    checkpoint: Checkpoint,
    out: Path,
    options: OnnxOptions,
    *,
    device: CudaDevice | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Convert a checkpoint, check the files by the gate, and write them with their record.

    It writes `out/<name>_<precision>.onnx`, `out/export.json`, and PyTorch's outputs. `out` is replaced as a
    whole at the end: after an interrupt it is unchanged. Refused precisions are written and recorded, but
    not served.

    Args:
        checkpoint: The network, its contract and classes.
        out: The folder to write: new, empty, or an earlier export.
        options: How to export.
        device: The GPU that will serve, on which the gate then judges. Only for a runtime that computes on
            GPUs. None: the CPU.
        progress: Called with the progress of each stage.

    Returns:
        The record.

    Raises:
        CalibrationError: INT8 was requested without images, with too few, or with evaluation images.
        DatasetError: an image dataset cannot be read, or its classes are not the model's.
        ExportError: the network does not map images to logits, a conversion failed, or `out` holds other
            files.
        OSError: `out` cannot be written.
    """
    refuse_foreign_export(out)
    name = options.name or default_name(checkpoint.architecture)
    if "int8" in options.to_make and options.calibration is None:
        raise CalibrationError(
            "int8",
            got="no calibration images",
            expected="images like those that will be classified",
            next_step="Add --calibration DIR, or choose --precision fp32,fp16.",
        )
    contract = checkpoint.contract
    count_outputs(checkpoint.network(), contract, expected=len(checkpoint.class_names))
    evaluation_source = options.evaluation or options.calibration
    evaluation = evaluation_from(
        evaluation_source,
        checkpoint.class_names,
        contract,
        progress,
        labels_needed=options.evaluation is not None,
    )
    calibration, ledger = None, None
    if "int8" in options.to_make and options.calibration:
        calibration, ledger = calibration_from(options.calibration, evaluation, contract, progress)

    synthetic = synthetic_evaluation(contract, max(options.max_batch, SYNTHETIC_IMAGES))
    progress("running PyTorch", 0, 1)
    with TorchRunner(checkpoint) as torch_runner:
        synthetic_logits = infer_in_batches(torch_runner, synthetic.images, EVALUATION_BATCH).logits
        if evaluation_source is None:  # then the evaluation images are the first of the synthetic ones
            logits = synthetic_logits[: len(evaluation.images)]
        else:
            logits = infer_in_batches(torch_runner, evaluation.images, EVALUATION_BATCH).logits
    progress("running PyTorch", 1, 1)
    gate_inputs = GateInputs.from_references(
        Reference(evaluation.images, evaluation.labels, logits),
        Reference(synthetic.images, None, synthetic_logits),
        max_batch=options.max_batch,
        tolerances=options.tolerances,
        evaluated_on=f"{len(evaluation.images)} images of {evaluation.source} ({evaluation.part})",
    )
    outputs = ReferenceOutputs(
        logits, sha256_of_pixels(evaluation.images), synthetic_logits, sha256_of_pixels(synthetic.images)
    )

    with atomic_directory(out, record=MANIFEST_NAME) as staged:
        _convert(checkpoint, name, staged, options, calibration.images if calibration else None, progress)
        artifacts = []
        for done, precision in enumerate(options.to_make):
            progress("checking", done, len(options.to_make), precision)
            path = staged / file_name(name, precision)
            artifacts.append(_artifact(checkpoint, path, precision, gate_inputs, options.runtime, device))
        progress("checking", len(options.to_make), len(options.to_make))
        if "fp32" not in options.to_make:
            (staged / file_name(name, "fp32")).unlink()
        manifest = _manifest(
            checkpoint, name, options, evaluation, gate_inputs.reference, ledger, tuple(artifacts)
        )
        manifest = manifest.model_copy(update={"reference_sha256": write_reference_outputs(outputs, staged)})
        write_manifest(manifest, staged)
    return manifest


def refuse_foreign_export(folder: Path) -> None:
    """Refuse a folder that an export would replace, if it holds anything but an earlier export.

    Raises:
        ExportError: `folder` is a file, or holds another file or folder.
    """
    engine = "|".join(map(re.escape, (*engine_suffixes(), PASSPORT_SUFFIX)))
    ours = re.compile(
        rf"{MANIFEST_NAME}|{REFERENCE_NAME}|{NAME_PATTERN}_({_PRECISION})(\.onnx|\.[a-z0-9-]+({engine}))"
    )
    refuse_foreign_files(
        folder,
        lambda name: bool(ours.fullmatch(name)),
        what="an earlier export",
        error=ExportError,
        record=MANIFEST_NAME,
    )


def file_name(name: str, precision: Precision) -> str:
    """Return the name of an export's ONNX file of one precision."""
    return f"{network_name(name, precision)}.onnx"


def _convert(
    checkpoint: Checkpoint,
    name: str,
    folder: Path,
    options: OnnxOptions,
    calibration: Uint8Array | None,
    progress: Progress,
) -> None:
    """Write the ONNX files to `folder`; FP32 always, since the others are converted from it."""
    steps = options.to_make if "fp32" in options.to_make else ("fp32", *options.to_make)
    fp32 = folder / file_name(name, "fp32")
    for done, precision in enumerate(steps):
        progress("converting", done, len(steps), precision)
        path = folder / file_name(name, precision)
        if precision == "fp32":
            onnx_from_checkpoint(checkpoint, path, max_batch=options.max_batch)
        elif precision == "fp16":
            fp16_from_onnx(fp32, path)
        else:
            assert calibration is not None
            int8_from_onnx(fp32, path, calibration)
    progress("converting", len(steps), len(steps))


def _artifact(
    checkpoint: Checkpoint,
    path: Path,
    precision: Precision,
    gate_inputs: GateInputs,
    runtime: str,
    device: CudaDevice | None,
) -> Artifact:
    """Measure one ONNX file with the runtime and device that will serve it, then briefly with the others.

    The others are the built-in runtimes on the CPU.
    """
    source = RunnerSource(
        file=path,
        precision=precision,
        contract=checkpoint.contract,
        classes=len(checkpoint.class_names),
        max_batch=gate_inputs.max_batch,
    )
    others = [
        other.name
        for other in BUILT_IN
        if other.source == "onnx" and (other.name != runtime or device is not None)
    ]
    brief = gate_inputs.brief()
    reports = (
        gate_inputs.report(open_runner(runtime, source.on_gpu(device) if device else source)),
        *(brief.report(open_runner(other, source)) for other in others),
    )
    return Artifact(
        precision=precision,
        file=path.name,
        size_bytes=path.stat().st_size,
        sha256=sha256_of_file(path),
        weights_sha256=checkpoint.weights_sha256,
        contract_digest=checkpoint.contract.digest,
        operators=operator_counts(path),
        reports=reports,
        decision=gate_inputs.decision(reports[0]),
    )


def _manifest(
    checkpoint: Checkpoint,
    name: str,
    options: OnnxOptions,
    evaluation: Evaluation,
    reference: Reference,
    ledger: CalibrationLedger | None,
    artifacts: tuple[Artifact, ...],
) -> Manifest:
    top1, interval = None, None
    if reference.labels is not None:
        right = int((reference.predictions == reference.labels).sum())
        top1, interval = right / len(reference.labels), wilson_interval(right, len(reference.labels))
    return Manifest(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions_of(*TOOLS),
        machine=machine_name(),
        model=ModelRecord(
            name=name,
            architecture=checkpoint.architecture,
            options=dict(checkpoint.options),
            class_names=checkpoint.class_names,
            parameters=parameter_count(checkpoint.network()),
            weights_sha256=checkpoint.weights_sha256,
            training=dict(checkpoint.training),
        ),
        model_version=options.model_version,
        contract=checkpoint.contract,
        contract_digest=checkpoint.contract.digest,
        max_batch=options.max_batch,
        tolerances=asdict(options.tolerances),
        calibration=ledger,
        evaluation=EvaluationRecord(
            source=evaluation.source,
            part=evaluation.part,
            images=len(evaluation.images),
            images_sha256=sha256_of_digests(evaluation.digests),
            pytorch_top1=top1,
            pytorch_top1_interval=interval,
            unreadable=evaluation.unreadable,
            missing_classes=evaluation.missing_classes,
        ),
        artifacts=artifacts,
    )
