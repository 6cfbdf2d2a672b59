"""Whether an engine loads on a target, decided from its passport before a server starts.

A TensorRT engine loads with the version of TensorRT that built it, on the GPU model that it was built on,
unless it was built to be compatible with more
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-compatibility.html and
https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/support-matrix.html).
Its target is a server's image on a GPU. An AOTInductor engine loads with the version of PyTorch that compiled
it, on GPUs of one compute capability, or on CPUs with the same instruction sets. Its target is this machine.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from alexnet_model import docker
from alexnet_model.environment import cpu_extensions, machine_name, versions_of
from alexnet_model.errors import EngineRefused, ManifestError, ServerError, UsageError
from alexnet_model.gpus import Gpu, GpuSurvey, gpus_here, version_from_text
from alexnet_model.manifest import Engine
from alexnet_model.passport import Passport
from alexnet_model.runtimes import Runtime, runtime_named
from alexnet_model.triton_image import CPU_IMAGE, MINIMUM_DRIVER, TRITON_IMAGE, driver_is_too_old

from .repositories.layout import ModelEntry, engine_runtimes
from .repositories.records import PackedExport, index_of, is_repository, packed_export, packed_exports

# A version-compatible engine also loads in the next major version named here, and in no later one.
NEXT_MAJOR = {8: 10, 10: 11}


@dataclass(frozen=True, kw_only=True)
class EngineTarget:
    """Where engines would load.

    Attributes:
        tensorrt_version: The TensorRT version of the server, such as `11.1.0.106`. None: unknown, so that
            engines are compared with the GPU only.
        gpu: One of the GPUs it would use.
        image: The image of the server.
    """

    tensorrt_version: str | None
    gpu: Gpu
    image: str = TRITON_IMAGE

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt_version or '(version unknown)'} on {self.gpu}"


@dataclass(frozen=True, kw_only=True)
class MachineTarget:
    """This machine, whose own Python loads engines.

    Attributes:
        torch_version: The installed version of PyTorch, such as `2.13.0+cpu`; empty if there is none.
        cpu: The processor's name.
        cpu_extensions: Its instruction sets.
        gpu: One of the GPUs; None if there are none.
    """

    torch_version: str
    cpu: str
    cpu_extensions: frozenset[str]
    gpu: Gpu | None

    def __str__(self) -> str:
        pytorch = f"PyTorch {self.torch_version}" if self.torch_version else "no PyTorch"
        return f"{pytorch} on {self.gpu or self.cpu}"


Target: TypeAlias = EngineTarget | MachineTarget


def targets_for(runtime: Runtime | None, image: str = TRITON_IMAGE) -> tuple[Target, ...]:
    """Return where a server on this machine loads the engines of a runtime.

    Args:
        runtime: The runtime.
        image: The image, for engines that it loads itself.

    Raises:
        DockerError: as `targets_of_image`.
    """
    if runtime is not None and runtime.loads_in_python:
        return targets_of_machine(gpus_here())
    return targets_of_image(image)


def targets_of_machine(survey: GpuSurvey) -> tuple[MachineTarget, ...]:
    """Return this machine as the target of engines that its Python loads: once for each GPU model, or once.

    The embedded server starts an instance of an engine for a GPU on each GPU.
    """
    machine = MachineTarget(
        torch_version=versions_of("torch").get("torch", ""),
        cpu=machine_name(),
        cpu_extensions=frozenset(cpu_extensions()),
        gpu=None,
    )
    visible = () if gpus_are_hidden() else survey.kinds
    return tuple(replace(machine, gpu=gpu) for gpu in visible) or (machine,)


def targets_of_image(image: str = TRITON_IMAGE) -> tuple[EngineTarget, ...]:
    """Return the targets of a server that runs an image on this machine: one for each GPU model, or none.

    Args:
        image: The image. If it is not on this machine, its TensorRT version is unknown.
    """
    survey = gpus_here()
    return targets_of(survey, docker.tensorrt_of_image_here(image), image) if survey.gpus else ()


def targets_of(
    survey: GpuSurvey, tensorrt_version: str | None, image: str = TRITON_IMAGE
) -> tuple[EngineTarget, ...]:
    """Return one target for each GPU model.

    Two models of one compute capability are two targets: they may not load each other's engines.
    """
    models = {(gpu.name, gpu.compute_capability): gpu for gpu in reversed(survey.gpus)}
    return tuple(
        EngineTarget(tensorrt_version=tensorrt_version, gpu=gpu, image=image)
        for gpu in reversed(models.values())
    )


def reason_to_refuse(passport: Passport, target: Target) -> str:
    """Return why an engine does not load on a target; empty if it loads."""
    runtime = runtime_named(passport.runtime)
    if not runtime.served:
        return f"Triton has no backend for {runtime.title} engines"
    if isinstance(target, MachineTarget):
        return _machine_mismatch(passport, target)
    if runtime.loads_in_python:
        return f"Triton's image has no backend for {runtime.title} engines"
    if driver_is_too_old(target.gpu):
        return f"driver {target.gpu.driver} is too old, at least {MINIMUM_DRIVER} is needed"
    return _version_mismatch(passport, target) or _gpu_mismatch(passport, target.gpu)


def engine_for(engines: Mapping[str, Engine], target: Target) -> Engine | None:
    """Return the engine that Triton loads on a target: the only one, or that of its compute capability."""
    if len(engines) == 1:
        return next(iter(engines.values()))
    capability = _capability(target)
    return next((e for e in engines.values() if e.passport.compute_capability == capability), None)


def check_engines(repository: Path, targets: Sequence[Target]) -> None:
    """Check that every engine of a repository loads on every target; otherwise its server would not start.

    A repository without engines passes.

    Args:
        repository: The repository.
        targets: The targets.

    Raises:
        EngineRefused: an engine does not load. The message has what it was built for, the target, and the
            command that builds one for this machine.
        ManifestError: the index of the repository or a record is missing or broken.
        RepositoryError: a repository cannot pack the recorded engines.
        ServerError: the driver is too old for Triton's image.
    """
    for packed in packed_exports(repository):
        check_entries(packed.entries, repository, targets)


def check_entries(entries: Sequence[ModelEntry], repository: Path, targets: Sequence[Target]) -> None:
    """Check, as `check_engines`, entries that are about to be packed into a repository.

    Raises:
        EngineRefused: an engine does not load on one of the targets.
        ServerError: the driver is too old for Triton's image.
    """
    for entry in entries:
        for target in targets if entry.engines else ():
            if isinstance(target, EngineTarget):
                _check_driver(target.gpu)
            engine = engine_for(entry.engines, target)
            if engine is None:
                reason = f"none of them is for compute capability {_capability(target)}"
            else:
                reason = reason_to_refuse(engine.passport, target)
            if reason:
                shown = [engine] if engine else list(entry.engines.values())
                passport = shown[0].passport
                image = target.image if isinstance(target, EngineTarget) else TRITON_IMAGE
                command = rebuild_command(repository, entry.export, passport, image=image)
                raise EngineRefused(
                    f"{repository}: {entry.artifact.precision} engine",
                    got=f"one built for {' and one for '.join(e.passport.built_for for e in shown)}",
                    expected=f"one for {target} ({reason})",
                    next_step=f"Build it: {command}",
                )


def rebuild_command(
    repository: Path,
    name: str | None = None,
    passport: Passport | None = None,
    *,
    source: Path | None = None,
    image: str = TRITON_IMAGE,
) -> str:
    """Return the command that builds the engines of an export in a repository for this machine.

    Args:
        repository: The repository to write.
        name: The name of the export; by default that of the first one with an engine.
        passport: The engine to build again, with its batches and compatibility; by default the first recorded
            one.
        source: The export with the ONNX files; by default the repository itself, or CHECKPOINT if it is none.
        image: The image that will serve the engines.
    """
    if source is None and is_repository(repository):
        source = repository
    packed = packed_with_engines(repository, name)
    passport = passport or (first_passport(packed) if packed else None)
    words = ["alexnet", "export", str(source or "CHECKPOINT"), *runtime_words(passport), *image_words(image)]
    words += ["--repository", str(repository), *(packing_words(repository, packed) if packed else [])]
    if passport:
        words += ["--profile", str(passport.profile)]
        if passport.hardware_compatibility != "none":
            words += ["--hardware-compatibility", passport.hardware_compatibility]
        if passport.version_compatible:
            words.append("--version-compatible")
    return shlex.join(words)


def packing_words(repository: Path, packed: PackedExport) -> list[str]:
    """Return the options that name an export of a repository, and pack its engines as they are packed now."""
    words = ["--name", packed.manifest.model.name] if len(index_of(repository).exports) > 1 else []
    if packed.options.encoded and packed.options.serves_engines:
        words.append("--encoded")  # not the default beside engines
    return words


def runtime_words(passport: Passport | None) -> list[str]:
    """Return the options that build engines like that of `passport`, by default those that Triton serves."""
    runtime = runtime_named(passport.runtime) if passport else engine_runtimes()[0]
    return ["--runtime", runtime.name, *(["--build", "docker"] if runtime.in_stock_image else [])]


def image_words(image: str) -> list[str]:
    """Return the option of `alexnet export` that names an image; none for the image that is its default."""
    return [] if image in (TRITON_IMAGE, CPU_IMAGE) else ["--image", image]


def packed_with_engines(repository: Path, name: str | None) -> PackedExport | None:
    """Return an export of a repository, by default the first one with an engine; None if none can be read."""
    with contextlib.suppress(ManifestError, UsageError):
        if name is not None:
            return packed_export(repository, name)
        found = packed_exports(repository)
        return next((packed for packed in found if first_passport(packed)), next(iter(found), None))
    return None


def first_passport(packed: PackedExport) -> Passport | None:
    """Return the first recorded passport of an engine that Triton serves; None if there is none."""
    artifacts = packed.manifest.artifacts
    passports = (engine.passport for artifact in artifacts for engine in artifact.engines)
    return next((passport for passport in passports if runtime_named(passport.runtime).served), None)


def _check_driver(gpu: Gpu) -> None:
    if driver_is_too_old(gpu):
        raise ServerError(
            f"driver of {gpu.name}",
            got=gpu.driver,
            expected=f"{MINIMUM_DRIVER} or newer, which Triton's image needs",
            next_step="Update it: https://www.nvidia.com/drivers",
        )


def _version_mismatch(passport: Passport, target: EngineTarget) -> str:
    if target.tensorrt_version is None:
        return ""
    built = version_from_text(passport.runtime_version)
    here = version_from_text(target.tensorrt_version)
    if built == here:
        return ""
    if not passport.version_compatible:
        return f"TensorRT {here} loads only its own engines"
    if built > here:
        return f"a version-compatible engine needs TensorRT {built} or newer"
    if here.major not in (built.major, NEXT_MAJOR.get(built.major)):
        return f"version compatibility does not cover the step from TensorRT {built.major} to {here.major}"
    return ""


def _machine_mismatch(passport: Passport, target: MachineTarget) -> str:
    if passport.runtime_version != target.torch_version:
        return f"PyTorch {target.torch_version or '(not installed)'} loads only its own engines"
    missing = sorted(set(passport.cpu_extensions) - target.cpu_extensions)
    if missing:
        return f"this CPU has no {', '.join(missing)}"
    if passport.compute_capability in (None, _capability(target)):
        return ""
    hidden = ", and CUDA_VISIBLE_DEVICES hides every GPU" if gpus_are_hidden() else ""
    return f"it needs a GPU of compute capability {passport.compute_capability}{hidden}"


def gpus_are_hidden() -> bool:
    """Return whether `CUDA_VISIBLE_DEVICES` hides every GPU from programs of this machine."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def _capability(target: Target) -> str | None:
    return target.gpu.compute_capability if target.gpu is not None else None


def _gpu_mismatch(passport: Passport, gpu: Gpu) -> str:
    same_capability = passport.compute_capability == gpu.compute_capability
    if passport.hardware_compatibility == "ampere-plus":
        capability = version_from_text(gpu.compute_capability)
        return "" if capability.major >= 8 else "it needs an Ampere GPU or newer"
    if passport.hardware_compatibility == "same-compute-capability":
        return "" if same_capability else f"it needs compute capability {passport.compute_capability}"
    if same_capability and passport.gpu_name == gpu.name:
        return ""
    return f"it runs on {passport.gpu_name} only"
