"""`export.json`, the manifest: what was exported, from what, what the gate measured, and how it is served.

It holds a hash chain: weights -> contract -> each ONNX file -> each engine. Export writes it and serving
reads it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator

from .contract import Contract, canonical_json
from .differences import differences
from .errors import ManifestError, UsageError, os_errors_as
from .files import sha256_of_file, write_text_atomically
from .model_names import check_name
from .passport import Passport, passport_of
from .records import PRECISIONS as PRECISIONS
from .records import Precision as Precision
from .records import Record as Record
from .records import record_from_file
from .runtimes import RuntimeName

MANIFEST_NAME = "export.json"
REFERENCE_NAME = "reference.safetensors"  # PyTorch's outputs, for checking engines that are built later


def _checked_name(name: str) -> str:
    """Validate the `name` field of a record; pydantic turns the ValueError into a named field."""
    try:
        check_name(name)
    except UsageError as error:
        raise ValueError(f"{error.got}, expected {error.expected}") from error
    return name


class ModelRecord(Record):
    """The network and the hash of its weights."""

    name: Annotated[str, AfterValidator(_checked_name)] = Field(description="of the export")
    architecture: str
    options: dict[str, bool | int | float | str]
    class_names: tuple[str, ...]
    parameters: int
    weights_sha256: str
    training: dict[str, Any]


class CalibrationLedger(Record):
    """The images that the INT8 scales were computed from; none of them is an evaluation image."""

    source: str
    part: str
    images: int
    images_sha256: str = Field(description="of the sorted digests of the prepared images")
    classes_covered: int
    in_evaluation_too: tuple[str, ...] = Field(
        default=(), description="images that were left out because of this"
    )
    method: str
    unreadable: tuple[str, ...] = ()


class EvaluationRecord(Record):
    """The test images that accuracy and agreement are measured on.

    Without an image dataset they are synthetic, and accuracy is not measured.
    """

    source: str
    part: str
    images: int
    images_sha256: str
    pytorch_top1: float | None = Field(description="as a share 0..1")
    pytorch_top1_interval: tuple[float, float] | None = Field(description="95%, Wilson")
    unreadable: tuple[str, ...] = ()
    missing_classes: tuple[str, ...] = Field(default=(), description="the model's classes without an image")


class RuntimeInfo(Record):
    """A runtime, its device, and the options that it was measured with and must be served with."""

    name: RuntimeName
    device: str
    computes_in: str = Field(description="the type that its Conv and Gemm layers ran in, such as 'i8'")
    options: dict[str, str] = Field(default={})


class BatchParity(Record):
    """One row of the parity matrix; ratios are of the worst image's logits, in decibels, 200 if equal."""

    batch: int
    against_pytorch_db: float
    against_alone_db: float = Field(description="the same image in every slot and with other neighbours")
    same_top1: bool = Field(description="top-1 of the same image alone, in every slot")
    worst_slot: int
    finite: bool = Field(description="logits and probabilities")
    probabilities_off: float = Field(description="largest difference from the softmax of the logits")


class RunnerReport(Record):
    """What the gate measured of one runtime on one file. Accuracy only if the images have labels."""

    runtime: RuntimeInfo
    parity: tuple[BatchParity, ...]
    images: int = Field(description="the first evaluation images, from which the figures below are")
    signal_to_noise_db: float = Field(description="of logits against PyTorch")
    agreement: float = Field(description="share of images with PyTorch's top-1")
    top1: float | None = None
    top1_interval: tuple[float, float] | None = Field(default=None, description="95%, Wilson")
    top1_drop: float | None = Field(default=None, description="PyTorch's top-1 less this one's")
    top1_drop_interval: tuple[float, float] | None = Field(default=None, description="95%, paired")
    flips_to_wrong: int | None = None
    flips_to_right: int | None = None


class GateDecision(Record):
    """Whether the gate accepted a file, and why."""

    accepted: bool
    reason: str


class Engine(Record):
    """One engine built from an ONNX file. If no GPU could run it, it has no report and no decision."""

    file: str
    passport: Passport
    passport_digest: str
    report: RunnerReport | None = None
    decision: GateDecision | None = None
    evaluated_on: str = Field(default="", description="which images, such as '360 images of digits (test)'")

    @property
    def accepted(self) -> bool:
        """Whether the gate accepted it."""
        return self.decision is not None and self.decision.accepted


class Artifact(Record):
    """One ONNX file. `reports[0]` is of the runtime that serves it, which the gate decided by.

    The other reports show that it is the same model elsewhere: on fewer images and smaller batches.
    """

    precision: Precision
    file: str
    size_bytes: int
    sha256: str
    weights_sha256: str
    contract_digest: str
    operators: dict[str, int]
    reports: tuple[RunnerReport, ...]
    decision: GateDecision
    engines: tuple[Engine, ...] = ()

    @property
    def served_by(self) -> RuntimeInfo:
        """The runtime that serves it."""
        return self.reports[0].runtime


class RuntimeTiming(Record):
    """How long a runtime took for a batch, with copies to the GPU and back."""

    runtime: RuntimeName
    device: str
    precision: Precision
    batch: int
    median_ms: float
    runs: int


class RuntimeChoice(Record):
    """The runtime that `export` chose by measuring, because the user named none."""

    runtime: RuntimeName
    timings: tuple[RuntimeTiming, ...]


def _contract_from_record(value: object) -> Contract:
    """Validate the `contract` field of a record; pydantic turns the ValueError into a named field."""
    return value if isinstance(value, Contract) else Contract.from_json(canonical_json(value))


def _record_from_contract(contract: Contract) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(contract.to_json())
    return fields


ContractField = Annotated[
    Contract, PlainValidator(_contract_from_record), PlainSerializer(_record_from_contract)
]


class Manifest(Record):
    """The record of an export."""

    schema_version: Literal[6] = 6
    created_at: str
    versions: dict[str, str]
    machine: str
    model: ModelRecord
    model_version: int = Field(default=1, ge=1, description="of the models in a repository")
    contract: ContractField
    contract_digest: str
    max_batch: int
    calibration: CalibrationLedger | None
    evaluation: EvaluationRecord
    tolerances: dict[str, float] = Field(default={}, description="the gate's")
    reference_sha256: str | None = Field(default=None, description=f"of {REFERENCE_NAME}")
    runtime_choice: RuntimeChoice | None = Field(default=None, description="None: it was not measured")
    artifacts: tuple[Artifact, ...]

    @property
    def accepted(self) -> tuple[Artifact, ...]:
        """The ONNX files that the gate accepted."""
        return tuple(artifact for artifact in self.artifacts if artifact.decision.accepted)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON, which shows whether the record was edited."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()


def write_manifest(manifest: Manifest, folder: Path, file: str = MANIFEST_NAME) -> Path:
    """Write a record into a folder and return its path.

    Args:
        manifest: The record.
        folder: The folder of an export or of a repository.
        file: The file's name; `export.json` by default.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / file
    write_text_atomically(path, manifest.model_dump_json(indent=2) + "\n")
    return path


def manifest_from_folder(folder: Path, file: str = MANIFEST_NAME) -> Manifest:
    """Read a record and check its hash chain, but not the files' own hashes (see `verify_artifact`).

    Args:
        folder: The folder of an export or of a repository.
        file: The file's name; `export.json` by default.

    Raises:
        ManifestError: it is missing, broken, of another schema, or its hash chain does not hold.
    """
    path = folder / file
    manifest = record_from_file(
        Manifest, path, what="an export record", make="Make one: alexnet export CHECKPOINT"
    )
    for artifact in manifest.artifacts:
        if artifact.weights_sha256 != manifest.model.weights_sha256:
            raise _broken_chain(path, artifact.file, "weights")
        if not artifact.contract_digest == manifest.contract_digest == manifest.contract.digest:
            raise _broken_chain(path, artifact.file, "contract")
        for engine in artifact.engines:
            if engine.passport.onnx_sha256 != artifact.sha256:
                raise _broken_chain(path, engine.file, "ONNX")
            if engine.passport.digest != engine.passport_digest:
                raise _broken_chain(path, engine.file, "passport")
    return manifest


def verify_artifact(artifact: Artifact, folder: Path, file: str | None = None) -> Path:
    """Return the path of an artifact's file after checking its hash.

    Args:
        artifact: The record.
        folder: The folder of the file.
        file: The file's path in that folder; by default as recorded.

    Raises:
        ManifestError: the file is missing or has another SHA-256.
    """
    return _verified(folder / (file or artifact.file), artifact.sha256, f"the {artifact.precision} file")


def verify_reference(manifest: Manifest, folder: Path, file: str = REFERENCE_NAME) -> Path:
    """Return the path of the file with PyTorch's outputs after checking its hash.

    Args:
        manifest: The record.
        folder: The folder of the file.
        file: The file's name.

    Raises:
        ManifestError: it is missing or has another SHA-256.
    """
    return _verified(folder / file, str(manifest.reference_sha256), "the reference")


def verify_engine(engine: Engine, path: Path) -> None:
    """Check that a file is the recorded engine and has the recorded passport beside it.

    Args:
        engine: The record.
        path: The file, in any folder.

    Raises:
        ManifestError: the file is missing or another, or its passport is missing or not the recorded one.
    """
    beside = passport_of(path)
    if beside != engine.passport:
        raise ManifestError(
            f"passport of {path}",
            got=_first_difference(beside, engine.passport),
            expected=f"the one in {MANIFEST_NAME}",
            next_step="It was edited or belongs to another engine: build the engine again.",
        )
    with os_errors_as(ManifestError, path, expected="an engine", next_step="Build it again."):
        sha256, size = sha256_of_file(path), path.stat().st_size
    if sha256 != engine.passport.engine_sha256:
        raise ManifestError(
            str(path),
            got=f"{size:,} bytes with SHA-256 {sha256[:12]}...",
            expected=f"{engine.passport.engine_size_bytes:,} bytes with "
            f"{engine.passport.engine_sha256[:12]}..., as its passport says",
            next_step="It is truncated or another engine: build it again.",
        )


def _verified(path: Path, sha256: str, what: str) -> Path:
    with os_errors_as(ManifestError, path, expected=f"{what} of {MANIFEST_NAME}", next_step="Export again."):
        found = sha256_of_file(path)
    if found != sha256:
        raise ManifestError(
            str(path),
            got=f"SHA-256 {found[:12]}...",
            expected=f"{sha256[:12]}..., as {MANIFEST_NAME} says",
            next_step="Export again.",
        )
    return path


def _first_difference(beside: Passport, recorded: Passport) -> str:
    first = next(differences(beside.model_dump(), recorded.model_dump()))
    return f"{first.path} {first.got}, not {first.expected}"


def _broken_chain(path: Path, file: str, what: str) -> ManifestError:
    return ManifestError(
        f"{path}: {file}",
        got=f"another {what} hash than the record's",
        expected="one unbroken chain",
        next_step="Export again.",
    )
