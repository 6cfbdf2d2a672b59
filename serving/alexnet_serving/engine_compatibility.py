"""Will this engine load there? Answered from its passport, before anything starts.

An engine loads with the version of TensorRT that built it, on the model of GPU that it was built on, unless
it was built to be compatible with more
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-compatibility.html and
https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/support-matrix.html).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_model.errors import EngineRefused, ManifestError, ServerError
from alexnet_model.gpus import Gpu, version_tuple
from alexnet_model.manifest import Engine, Manifest, manifest_from_folder
from alexnet_model.passport import ENGINE_SUFFIX, Passport
from alexnet_model.triton_image import MINIMUM_DRIVER, driver_is_too_old

from .repositories.layout import VERSION, RepositoryOptions, holds_encoded, holds_engines, is_repository
from .repositories.model_entries import TENSORRT, ModelEntry, entries_of

# Beyond one major version, a version-compatible engine loads in these later ones and in no other.
NEXT_MAJOR = {8: 10, 10: 11}


@dataclass(frozen=True, kw_only=True)
class EngineTarget:
    """Where engines would load: a TensorRT version, and one of its GPUs."""

    tensorrt_version: str
    gpu: Gpu

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt_version} on {self.gpu}"


def reason_to_refuse(passport: Passport, target: EngineTarget) -> str:
    """Why the engine does not load there, in words; empty if it loads."""
    if passport.runtime != TENSORRT:
        return "Triton has no backend for TensorRT-RTX engines"
    if driver_is_too_old(target.gpu):
        return f"driver {target.gpu.driver} is too old, at least {MINIMUM_DRIVER} is needed"
    return _other_version(passport, target) or _other_gpu(passport, target.gpu)


def engine_for(engines: Mapping[str, Engine], target: EngineTarget) -> Engine | None:
    """The engine that Triton takes there: the only one, or of several the one for that compute capability."""
    if len(engines) == 1:
        return next(iter(engines.values()))
    capability = target.gpu.compute_capability
    return next((e for e in engines.values() if e.passport.compute_capability == capability), None)


def check_engines(manifest: Manifest, repository: Path, targets: Sequence[EngineTarget]) -> None:
    """Every engine that a repository packs must load in every target, or its server would not start.

    A repository without engines passes: it asks nothing of TensorRT.

    Raises:
        EngineRefused: one does not load; the message says what it was built for, what is here, and the
            command that builds one for here.
        RepositoryError: its engines are not what a repository packs.
        ServerError: the driver is too old for Triton's image, whatever the engine.
    """
    entries = [
        entry
        for entry in entries_of(manifest, RepositoryOptions(backend=TENSORRT))
        if any((repository / entry.name / VERSION).glob(f"*{ENGINE_SUFFIX}"))
    ]
    check_entries(entries, repository, targets)


def check_entries(entries: Sequence[ModelEntry], repository: Path, targets: Sequence[EngineTarget]) -> None:
    """The same for what is about to be packed into a repository.

    Raises:
        EngineRefused: an engine does not load in one of the targets.
        ServerError: the driver is too old for Triton's image, whatever the engine.
    """
    for entry in entries:
        for target in targets if entry.engines else ():
            _check_driver(target.gpu)
            engine = engine_for(entry.engines, target)
            if engine is None:
                reason = f"none of them is for compute capability {target.gpu.compute_capability}"
            else:
                reason = reason_to_refuse(engine.passport, target)
            if reason:
                shown = [engine] if engine else list(entry.engines.values())
                raise EngineRefused(
                    f"{repository}: {entry.artifact.precision} engine",
                    got=f"one built for {' and one for '.join(e.passport.built_for for e in shown)}",
                    expected=f"one for {target} ({reason})",
                    next_step=f"Build it: {rebuild_command(repository, shown[0].passport)}",
                )


def rebuild_command(repository: Path, passport: Passport | None = None, *, source: Path | None = None) -> str:
    """What builds a repository's engines for this machine, from the ONNX files inside it or in `source`.

    As the engine of that passport was built, or the first that the repository records: for the same batches
    and with the same compatibility.
    """
    if source is None and is_repository(repository):
        source = repository
    passport = passport or _recorded_passport(repository)
    words = ["alexnet", "export", str(source or "CHECKPOINT"), "--engine", "docker"]
    words += ["--repository", str(repository)]
    if holds_engines(repository) and holds_encoded(repository):  # not by default, with engines
        words.append("--encoded")
    if passport:
        words += ["--profile", str(passport.profile)]
        if passport.hardware_compatibility != "none":
            words += ["--hardware-compatibility", passport.hardware_compatibility]
        if passport.version_compatible:
            words.append("--version-compatible")
    return shlex.join(words)


def _recorded_passport(repository: Path) -> Passport | None:
    try:
        manifest = manifest_from_folder(repository)
    except ManifestError:
        return None
    passports = (engine.passport for artifact in manifest.artifacts for engine in artifact.engines)
    return next((passport for passport in passports if passport.runtime == TENSORRT), None)


def _check_driver(gpu: Gpu) -> None:
    if driver_is_too_old(gpu):
        raise ServerError(
            f"driver of {gpu.name}",
            got=gpu.driver,
            expected=f"{MINIMUM_DRIVER} or newer, which Triton's image needs",
            next_step="Update it: https://www.nvidia.com/drivers",
        )


def _other_version(passport: Passport, target: EngineTarget) -> str:
    built, here = version_tuple(passport.runtime_version), version_tuple(target.tensorrt_version)
    if built == here:
        return ""
    if not passport.version_compatible:
        return f"TensorRT {target.tensorrt_version} loads only its own engines"
    if built > here:
        return f"a version-compatible engine needs TensorRT {passport.runtime_version} or newer"
    if here[0] not in (built[0], NEXT_MAJOR.get(built[0])):
        return f"version compatibility does not reach from TensorRT {built[0]} to {here[0]}"
    return ""


def _other_gpu(passport: Passport, gpu: Gpu) -> str:
    same_capability = passport.compute_capability == gpu.compute_capability
    if passport.hardware_compatibility == "ampere-plus":
        return "" if version_tuple(gpu.compute_capability) >= (8, 0) else "it needs an Ampere GPU or newer"
    if passport.hardware_compatibility == "same-compute-capability":
        return "" if same_capability else f"it needs compute capability {passport.compute_capability}"
    if same_capability and passport.gpu_name == gpu.name:
        return ""
    return f"it runs on {passport.gpu_name} alone"
