"""The engines in a repository and in an export's folder, and whether each loads on the GPUs here."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_model.errors import AlexnetError, EngineRefused, ManifestError, os_error_reason
from alexnet_model.gpus import GpuSurvey
from alexnet_model.manifest import MANIFEST_NAME, Engine, Manifest, manifest_from_folder
from alexnet_model.passport import Passport
from alexnet_model.records import Precision, Record
from alexnet_model.runtimes import runtime_named, runtime_of_backend
from alexnet_model.triton_image import CPU_IMAGE, TRITON_IMAGE

from ..engine_compatibility import (
    EngineTarget,
    Target,
    check_engines,
    reason_to_refuse,
    rebuild_command,
    targets_for,
)
from ..repositories.backends import (
    backends_of_repository,
    can_use_gpu,
    image_for,
    loads_engines,
    needs_gpu,
    onnx_command,
)
from ..repositories.records import INDEX_NAME, packed_exports
from .checks import SERVE_EMBEDDED, SERVE_IN_DOCKER, Check, fix_from, judged


@dataclass(frozen=True, kw_only=True)
class DockerNeeds:
    """What `serve --with docker` needs for a repository.

    Attributes:
        image: The image it runs.
        needs_gpu: Whether it uses a GPU.
        engines: Whether a model is an engine.
    """

    image: str
    needs_gpu: bool
    engines: bool


class LoadResult(Record):
    """Whether an engine loads on one GPU here with the TensorRT of Triton's image, and why not."""

    target: str
    loads: bool
    reason: str


class EngineFound(Record):
    """An engine of an export's record.

    Attributes:
        folder: The folder of the record.
        file: The engine's file.
        precision: Its precision.
        accepted: Whether it passed the gate.
        built_for: The runtime, version and GPU it was built for, in words.
        needs: What it needs to load, in words.
        results: Whether it loads, for each GPU model here.
        fix: The command that builds it for this machine; empty if it loads on every GPU here.
    """

    folder: str
    file: str
    precision: Precision
    accepted: bool
    built_for: str
    needs: str
    results: tuple[LoadResult, ...]
    fix: str


def engines_found(
    repository: Path, out: Path, targets: Sequence[EngineTarget]
) -> tuple[tuple[EngineFound, ...], tuple[Check, ...]]:
    """Return the engines that two folders record, each engine once, and a check of each folder's record.

    Args:
        repository: The model repository.
        out: The folder of an export.
        targets: Where the engines should load.
    """
    found: dict[str, EngineFound] = {}
    checks = []
    for option, folder in (("--repository", repository), ("--out", out)):
        name = f"record of {option}"
        try:
            exported = any((folder / file).is_file() for file in (INDEX_NAME, MANIFEST_NAME))
        except OSError as error:
            reason = os_error_reason(error)
            checks.append(_of_record(name, f"{folder}: {reason}", f"Choose another folder: {option} DIR"))
            continue
        if not exported:
            fix = shlex.join(
                ["alexnet", "export", "CHECKPOINT", "--out", str(out), "--repository", str(repository)]
            )
            checks.append(_of_record(name, f"nothing exported to {folder} yet", fix))
            continue
        try:
            manifests = _manifests_of(folder, is_repository=folder == repository)
        except ManifestError as error:
            checks.append(_of_record(name, f"{error.subject}: {error.got}", fix_from(error.next_step)))
            continue
        engines = [(m, a.precision, engine) for m in manifests for a in m.artifacts for engine in a.engines]
        exports = "; ".join(map(_precisions_in_words, manifests))
        checks.append(_of_record(name, f"{exports} in {folder}, engines: {len(engines) or 'none'}"))
        for manifest, precision, engine in engines:
            found.setdefault(
                engine.passport_digest,
                _found(folder, manifest.model.name, precision, engine, targets, repository),
            )
    return tuple(found.values()), tuple(checks)


def docker_needs_of(repository: Path, survey: GpuSurvey) -> DockerNeeds:
    """Return the needs of a repository by the backends of its models.

    Before the first export they depend on whether this machine has a GPU, for which engines would be built.
    """
    backends = set(_backends(repository))
    gpu = bool(survey.gpus)
    if not backends:
        return DockerNeeds(image=TRITON_IMAGE if gpu else CPU_IMAGE, needs_gpu=gpu, engines=False)
    return DockerNeeds(
        image=image_for(backends),
        needs_gpu=needs_gpu(backends) or (gpu and can_use_gpu(backends)),
        engines=loads_engines(backends),
    )


def served_checks(repository: Path, serving: DockerNeeds, targets: Sequence[EngineTarget]) -> Iterator[Check]:
    """Yield what prevents a repository's engines from being served here, with another way to serve it."""
    python_runtimes = [
        runtime
        for runtime in map(runtime_of_backend, sorted(set(_backends(repository))))
        if runtime is not None and runtime.loads_in_python
    ]
    if python_runtimes:
        yield judged(
            "models of --repository",
            (SERVE_IN_DOCKER,),
            problem=f"{python_runtimes[0].title} engines, which no image of Triton can load",
            fix=shlex.join(["alexnet", "serve", "--with", "embedded", "--repository", str(repository)]),
        )
        yield from _engine_check(repository, targets_for(python_runtimes[0]), SERVE_EMBEDDED)
        return
    if not serving.engines:
        return
    titles = " and ".join(
        runtime.title
        for runtime in map(runtime_of_backend, sorted(set(backends_of_repository(repository).values())))
        if runtime is not None and runtime.bound_to_machine
    )
    problem = f"{titles} engines, which embedded Triton cannot run"
    yield judged("models of --repository", (SERVE_EMBEDDED,), problem=problem, fix=onnx_command(repository))
    yield from _engine_check(repository, targets, SERVE_IN_DOCKER)


def _engine_check(repository: Path, targets: Sequence[Target], needed_by: str) -> Iterator[Check]:
    try:
        check_engines(repository, targets)
    except EngineRefused as error:
        problem, fix = f"{error.got}, not {error.expected}", fix_from(error.next_step)
        yield judged("engines of --repository", (needed_by,), problem=problem, fix=fix)
    except AlexnetError:
        return  # the check of the record or of the driver reports it


def _backends(repository: Path) -> tuple[str, ...]:
    # An unreadable repository and a missing client are found by other checks.
    with contextlib.suppress(OSError, ImportError):
        return tuple(backends_of_repository(repository).values())
    return ()


def _manifests_of(folder: Path, *, is_repository: bool) -> list[Manifest]:
    """Return the records of a folder: of every export that a repository serves, or of one export.

    Raises:
        ManifestError: a record is missing or broken.
    """
    if is_repository:
        return [packed.manifest for packed in packed_exports(folder)]
    return [manifest_from_folder(folder)]


def _precisions_in_words(manifest: Manifest) -> str:
    precisions = ", ".join(artifact.precision for artifact in manifest.accepted) or "nothing accepted"
    version = f" version {manifest.model_version}" if manifest.model_version > 1 else ""
    return f"{manifest.model.name}{version}: {precisions}"


def _found(
    folder: Path,
    name: str,
    precision: Precision,
    engine: Engine,
    targets: Sequence[Target],
    repository: Path,
) -> EngineFound:
    if runtime_named(engine.passport.runtime).loads_in_python:
        targets = targets_for(runtime_named(engine.passport.runtime))
    reasons = [(str(target), reason_to_refuse(engine.passport, target)) for target in targets]
    results = tuple(LoadResult(target=target, loads=not reason, reason=reason) for target, reason in reasons)
    source = None if folder == repository else folder
    fix = rebuild_command(repository, name, engine.passport, source=source)
    # An engine that Triton has no backend for is not broken, and building it again would not help.
    is_broken = runtime_named(engine.passport.runtime).served and not all(result.loads for result in results)
    return EngineFound(
        folder=str(folder),
        file=engine.file,
        precision=precision,
        accepted=engine.accepted,
        built_for=engine.passport.built_for,
        needs=_needs(engine.passport),
        results=results,
        fix=fix if is_broken else "",
    )


def _needs(passport: Passport) -> str:
    runtime = runtime_named(passport.runtime)
    if runtime.loads_in_python:
        where = passport.cpu or f"a GPU of compute capability {passport.compute_capability}"
        return f"PyTorch {passport.runtime_version} on {where}"
    version = f"{runtime.title} {passport.runtime_version}"
    if not runtime.served:
        gpus = ", ".join(passport.targets) or f"compute capability {passport.compute_capability}"
        return f"{version} on a GPU of {gpus}"
    gpu = {
        "none": f"{passport.gpu_name} ({passport.compute_capability})",
        "same-compute-capability": f"a GPU of compute capability {passport.compute_capability}",
        "ampere-plus": "an Ampere GPU or newer",
    }[passport.hardware_compatibility]
    newer = " or newer" if passport.version_compatible else ""
    return f"{version}{newer} on {gpu}"


def _of_record(name: str, found: str, fix: str = "") -> Check:
    """Return the check of a record. It is never `missing`: `export` writes a new one."""
    return judged(name, (), found=found, problem=found if fix else "", fix=fix, status="warning")
