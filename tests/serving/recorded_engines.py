"""TensorRT engines as two GPUs would have left them, for machines that have none.

The passports are real records over made-up plans: any bytes, whose size and SHA-256 the passports carry. What
is packed, checked and refused depends on nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet_model.files import link_or_copy, sha256_of_file
from alexnet_model.gpus import Gpu
from alexnet_model.manifest import (
    REFERENCE_NAME,
    Artifact,
    Engine,
    GateDecision,
    Manifest,
    RunnerReport,
    RuntimeInfo,
    write_manifest,
)
from alexnet_model.passport import Passport, Profile, write_passport
from alexnet_serving import RepositoryOptions, write_repository

from .conftest import Artifacts

TENSORRT = "11.1.0.106"
DRIVER = "580.95.05"
H200 = Gpu(index=0, name="NVIDIA H200", compute_capability="9.0", driver=DRIVER, memory_mib=143_771)
L4 = Gpu(index=1, name="NVIDIA L4", compute_capability="8.9", driver=DRIVER, memory_mib=23_034)


def with_engines(
    artifacts: Artifacts,
    folder: Path,
    *gpus: Gpu,
    max_batch: int = 8,
    accepted: bool | None = True,
    **passport: Any,
) -> Artifacts:
    """An export in `folder` whose accepted precisions each have an engine a GPU; by default an H200's."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for artifact in artifacts.manifest.artifacts:
        target = folder / artifact.file
        if not target.exists():
            link_or_copy(artifacts.folder / artifact.file, target)
        if artifact.decision.accepted:
            engines = tuple(
                engine_of(artifact, folder, gpu, max_batch=max_batch, accepted=accepted, **passport)
                for gpu in gpus or (H200,)
            )
            artifact = artifact.model_copy(update={"engines": engines})
        changed.append(artifact)
    (folder / REFERENCE_NAME).write_bytes(b"PyTorch's answers")
    manifest = artifacts.manifest.model_copy(
        update={
            "artifacts": tuple(changed),
            "max_batch": max_batch,
            "reference_sha256": sha256_of_file(folder / REFERENCE_NAME),
        }
    )
    write_manifest(manifest, folder)
    return replace(artifacts, manifest=manifest, folder=folder)


def engine_of(
    artifact: Artifact,
    folder: Path,
    gpu: Gpu = H200,
    *,
    max_batch: int = 8,
    accepted: bool | None = True,
    **passport: Any,
) -> Engine:
    """Write a plan with its passport; `accepted` None is an engine that nothing ran."""
    plan = folder / f"alexnet_{artifact.precision}.{gpu.target}.plan"
    plan.write_bytes(f"{artifact.precision} for {gpu.name}, up to {max_batch}".encode() * 100)
    values: dict[str, Any] = {
        "runtime": "tensorrt",
        "runtime_version": TENSORRT,
        "precision": artifact.precision,
        "profile": Profile(min=1, opt=min(8, max_batch), max=max_batch),
        "onnx_sha256": artifact.sha256,
        "engine_sha256": sha256_of_file(plan),
        "engine_size_bytes": plan.stat().st_size,
        "gpu_name": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": gpu.driver,
        "cuda": "13.0",
        "image": "nvcr.io/nvidia/tritonserver:26.07-py3",
        "image_digest": f"nvcr.io/nvidia/tritonserver@sha256:{'0' * 64}",
        "layer_precisions": {"Half": 8},
        "build_seconds": 20.5,
        "built_at": "2026-01-01T00:00:00+00:00",
    }
    written = Passport.model_validate({**values, **passport})
    write_passport(written, plan)
    runtime = RuntimeInfo(name="tensorrt", device=gpu.name, computes_in="f16")
    judged = accepted is not None
    reason = "as good as FP32" if accepted else "another model"
    return Engine(
        file=plan.name,
        passport=written,
        passport_digest=written.digest,
        report=RunnerReport(runtime=runtime, parity=(), images=8, signal_to_noise_db=50.0, agreement=1.0)
        if judged
        else None,
        decision=GateDecision(accepted=bool(accepted), reason=reason) if judged else None,
    )


def with_engines_of(manifest: Manifest, precision: str, *engines: Engine) -> Manifest:
    """The same record with other engines of one precision."""
    return manifest.model_copy(
        update={
            "artifacts": tuple(
                artifact.model_copy(update={"engines": engines})
                if artifact.precision == precision
                else artifact
                for artifact in manifest.artifacts
            )
        }
    )


def repository_of_engines(artifacts: Artifacts, folder: Path) -> Path:
    """A fresh repository of engines for two kinds of GPU, which a test may break."""
    export = with_engines(artifacts, folder / "export", H200, L4)
    write_repository(export.manifest, export.folder, folder / "models", RepositoryOptions(runtime="tensorrt"))
    return folder / "models"
