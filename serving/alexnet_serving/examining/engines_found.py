"""The engines of a repository and of an export's folder, and where each of them would load."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_model.errors import AlexnetError, EngineRefused, ManifestError, os_error_reason
from alexnet_model.gpus import GpuSurvey
from alexnet_model.manifest import MANIFEST_NAME, Engine, manifest_from_folder
from alexnet_model.passport import Passport
from alexnet_model.records import Precision, Record
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE

from ..engine_compatibility import EngineTarget, check_engines, reason_to_refuse, rebuild_command
from ..repositories.backends_in import backends_of_repository, can_use_gpu, image_for, onnx_command
from ..repositories.model_entries import TENSORRT
from .checks import SERVE_EMBEDDED, SERVE_IN_DOCKER, Check, mend_from


@dataclass(frozen=True, kw_only=True)
class DockerNeeds:
    """What `serve --with docker` runs for a repository."""

    image: str
    needs_gpu: bool
    engines: bool  # whether any of its models is one


class Loading(Record):
    """Whether an engine loads on one GPU here, with the TensorRT of Triton's image, and why not."""

    target: str
    loads: bool
    reason: str


class EngineFound(Record):
    """An engine of an export's record. `here` has an entry for each kind of GPU; `mend` if one fails."""

    folder: str
    file: str
    precision: Precision
    accepted: bool
    built_for: str
    needs: str
    here: tuple[Loading, ...]
    mend: str


def engines_found(
    repository: Path, out: Path, targets: Sequence[EngineTarget]
) -> tuple[tuple[EngineFound, ...], tuple[Check, ...]]:
    """Every engine once, though a repository and the export it was packed from both record it.

    With them come the folders' checks: what each holds, or why its record cannot be read.
    """
    found: dict[str, EngineFound] = {}
    checks = []
    for option, folder in (("--repository", repository), ("--out", out)):
        name = f"record of {option}"
        try:
            exported = (folder / MANIFEST_NAME).is_file()
        except OSError as error:
            reason = os_error_reason(error)
            checks.append(_of_record(name, f"{folder}: {reason}", f"{option} with another folder"))
            continue
        if not exported:
            mend = shlex.join(
                ["alexnet", "export", "CHECKPOINT", "--out", str(out), "--repository", str(repository)]
            )
            checks.append(_of_record(name, f"nothing exported to {folder} yet", mend))
            continue
        try:
            manifest = manifest_from_folder(folder)
        except ManifestError as error:
            checks.append(_of_record(name, f"{error.subject}: {error.got}", mend_from(error.next_step)))
            continue
        precisions = ", ".join(artifact.precision for artifact in manifest.accepted) or "nothing accepted"
        engines = [(artifact, engine) for artifact in manifest.artifacts for engine in artifact.engines]
        checks.append(_of_record(name, f"{precisions} in {folder}, engines: {len(engines) or 'none'}"))
        for artifact, engine in engines:
            found.setdefault(
                engine.passport_digest, _found(folder, artifact.precision, engine, targets, repository)
            )
    return tuple(found.values()), tuple(checks)


def docker_needs_of(repository: Path, survey: GpuSurvey) -> DockerNeeds:
    """By the backends of its models; before the first export, by whether engines could be built here."""
    backends: set[str] = set()
    # What cannot be read is told by the repository's own check, and a missing client by the base install's.
    with contextlib.suppress(OSError, ImportError):
        backends = set(backends_of_repository(repository).values())
    gpu = bool(survey.gpus)
    if not backends:
        return DockerNeeds(image=TRITON_IMAGE if gpu else CPU_IMAGE, needs_gpu=gpu, engines=False)
    return DockerNeeds(
        image=image_for(backends),
        needs_gpu=TENSORRT in backends or (gpu and can_use_gpu(backends)),
        engines=TENSORRT in backends,
    )


def served_checks(repository: Path, serving: DockerNeeds, targets: Sequence[EngineTarget]) -> Iterator[Check]:
    """What keeps the engines of a repository from being served here, and how else it could be."""
    if not serving.engines:
        return
    yield Check(
        name="models of --repository",
        status="missing",
        found="TensorRT engines, which embedded Triton cannot run",
        needed_by=(SERVE_EMBEDDED,),
        mend=onnx_command(repository),
    )
    try:
        check_engines(manifest_from_folder(repository), repository, targets)
    except EngineRefused as error:
        yield Check(
            name="engines of --repository",
            status="missing",
            found=f"{error.got}, not {error.expected}",
            needed_by=(SERVE_IN_DOCKER,),
            mend=mend_from(error.next_step),
        )
    except AlexnetError:
        return  # the record's own check, or the driver's, says it


def _found(
    folder: Path, precision: Precision, engine: Engine, targets: Sequence[EngineTarget], repository: Path
) -> EngineFound:
    reasons = [(str(target), reason_to_refuse(engine.passport, target)) for target in targets]
    here = tuple(Loading(target=target, loads=not reason, reason=reason) for target, reason in reasons)
    if folder == repository:
        mend = rebuild_command(repository, engine.passport)
    else:
        mend = rebuild_command(repository, engine.passport, source=folder)
    # An engine that Triton has no backend for is not broken: another one beside it may be served.
    to_mend = engine.passport.runtime == TENSORRT and not all(loading.loads for loading in here)
    return EngineFound(
        folder=str(folder),
        file=engine.file,
        precision=precision,
        accepted=engine.accepted,
        built_for=engine.passport.built_for,
        needs=_needs(engine.passport),
        here=here,
        mend=mend if to_mend else "",
    )


def _needs(passport: Passport) -> str:
    if passport.runtime != TENSORRT:
        gpus = ", ".join(passport.targets) or f"compute capability {passport.compute_capability}"
        return f"TensorRT-RTX {passport.runtime_version} on a GPU of {gpus}"
    gpu = {
        "none": f"{passport.gpu_name} ({passport.compute_capability})",
        "same-compute-capability": f"a GPU of compute capability {passport.compute_capability}",
        "ampere-plus": "an Ampere GPU or newer",
    }[passport.hardware_compatibility]
    newer = " or newer" if passport.version_compatible else ""
    return f"TensorRT {passport.runtime_version}{newer} on {gpu}"


def _of_record(name: str, found: str, mend: str = "") -> Check:
    """Never missing: `export` writes it, and what is served is the server's to judge."""
    return Check(name=name, status="warning" if mend else "ok", found=found, needed_by=(), mend=mend)
