"""Which engines this machine has of an export, and why the others are not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from alexnet_model.errors import CheckpointError, ExportError, UsageError
from alexnet_model.gpus import Gpu, GpuSurvey, gpus_here
from alexnet_model.manifest import Artifact, Manifest, verify_artifact, verify_engine
from alexnet_model.manifest import Engine as BuiltEngine
from alexnet_model.records import PRECISIONS, Precision

from ..schema import LeftOut
from .specs import RUNTIMES, EngineSpec, RuntimeName

CPP_COMPILERS = ("c++", "g++", "clang++")
Found = EngineSpec | LeftOut


@dataclass(frozen=True, kw_only=True)
class EngineFilter:
    """What of an export is to be measured; None is all there is. PyTorch is measured from a checkpoint."""

    precisions: tuple[Precision, ...] | None = None
    runtimes: tuple[RuntimeName, ...] | None = None
    checkpoint: Path | None = None
    device: Literal["cpu", "gpu"] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.runtimes or () if name not in RUNTIMES]
        if unknown:
            raise UsageError("runtime", got=repr(unknown[0]), expected=f"some of {', '.join(RUNTIMES)}")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What decides which engines can be opened; whether a library is installed shows when one is."""

    gpus: GpuSurvey = field(default_factory=gpus_here)
    cpp_compiler: str | None = field(
        default_factory=lambda: next(filter(None, map(shutil.which, CPP_COMPILERS)), None)
    )

    @property
    def gpu(self) -> Gpu | None:
        """The first of several: an engine runs on one."""
        return self.gpus.gpus[0] if self.gpus.gpus else None


@dataclass(frozen=True)
class EngineSelection:
    specs: tuple[EngineSpec, ...]
    left_out: tuple[LeftOut, ...]


def engines_of_export(
    manifest: Manifest, folder: Path, engine_filter: EngineFilter, machine: Machine
) -> EngineSelection:
    """Every engine of an export that this machine may have, in the order of its precisions.

    Raises:
        ManifestError: a file is missing or is not the one that was exported.
        CheckpointError: the checkpoint cannot be read, or is not the one that was exported.
        ExportError: no engine is left; the message says why.
        UsageError: a precision was asked for that the export does not have, or that the gate refused.
    """
    wanted_precisions = engine_filter.precisions or PRECISIONS
    artifacts = [artifact for artifact in manifest.accepted if artifact.precision in wanted_precisions]
    accepted = {artifact.precision for artifact in artifacts}
    for precision in engine_filter.precisions or ():
        if precision not in accepted:
            raise UsageError(
                f"{folder}: {precision}",
                got="no such precision that was accepted",
                expected=f"some of {', '.join(a.precision for a in manifest.accepted) or 'none'}",
            )
    found = list(_pytorch(manifest, engine_filter, machine)) if "fp32" in accepted else []
    for artifact in artifacts:
        found += _onnx(artifact, manifest, folder, machine)
        found += _built(artifact, manifest, folder, machine)
    wanted = [
        one for one in found if engine_filter.runtimes is None or _runtime_of(one) in engine_filter.runtimes
    ]
    left_out = {one: None for one in wanted if isinstance(one, LeftOut)}
    could_use_gpu = engine_filter.runtimes is None or set(engine_filter.runtimes) - {"openvino"}
    if machine.gpu is None and could_use_gpu and engine_filter.device != "cpu":
        left_out[LeftOut(what="everything on a GPU", why=machine.gpus.problem)] = None
    specs = tuple(one for one in wanted if isinstance(one, EngineSpec) and _is_on(one, engine_filter.device))
    if not specs:
        reasons = "; ".join(f"{one.what}: {one.why}" for one in left_out)
        raise ExportError(
            str(folder), got=f"nothing to measure ({reasons})", expected="an engine that this machine can run"
        )
    return EngineSelection(specs, tuple(left_out))


def _is_on(spec: EngineSpec, device: Literal["cpu", "gpu"] | None) -> bool:
    return device is None or (device == "gpu") == (spec.gpu is not None)


def _runtime_of(found: Found) -> str:
    return found.what.partition(" ")[0] if isinstance(found, LeftOut) else found.runtime


def _pytorch(manifest: Manifest, engine_filter: EngineFilter, machine: Machine) -> Iterator[Found]:
    if engine_filter.checkpoint is None:
        for name in ("pytorch", "torch.compile"):
            yield LeftOut(what=name, why="no checkpoint was named (--checkpoint FILE)")
        return
    from alexnet_model.checkpoint import load_checkpoint

    if load_checkpoint(engine_filter.checkpoint).weights_sha256 != manifest.model.weights_sha256:
        raise CheckpointError(
            str(engine_filter.checkpoint),
            got="other weights",
            expected="the checkpoint that this export was made from",
            next_step="Name that one, or export this one.",
        )
    spec = _spec("pytorch", "fp32", engine_filter.checkpoint, manifest)
    compiled = spec.model_copy(update={"runtime": "torch.compile"})
    yield spec
    if machine.cpp_compiler is None:
        yield LeftOut(what="torch.compile", why=f"no C++ compiler ({', '.join(CPP_COMPILERS)})")
    else:
        yield compiled
    yield from _on_gpu(spec, machine.gpu)
    yield from _on_gpu(compiled, machine.gpu)


def _onnx(artifact: Artifact, manifest: Manifest, folder: Path, machine: Machine) -> Iterator[Found]:
    path = verify_artifact(artifact, folder)
    spec = _spec("onnxruntime", artifact.precision, path, manifest)
    yield spec
    served_by = artifact.served_by
    options = served_by.options if served_by.name == "openvino" else {}
    yield spec.model_copy(update={"runtime": "openvino", "options": options})
    yield from _on_gpu(spec, machine.gpu)


def _built(artifact: Artifact, manifest: Manifest, folder: Path, machine: Machine) -> Iterator[Found]:
    for flavour in ("tensorrt", "tensorrt-rtx"):
        if not any(
            engine.passport.runtime == flavour
            for artifact in manifest.artifacts
            for engine in artifact.engines
        ):
            yield LeftOut(what=flavour, why="this export has no engine of it (alexnet export --runtime)")
    for engine in artifact.engines:
        built_by = cast("RuntimeName", engine.passport.runtime)
        reason = _reason_against(engine, machine)
        if reason or machine.gpu is None:
            yield LeftOut(what=f"{built_by} {artifact.precision}", why=f"{engine.file}: {reason}")
            continue
        verify_engine(engine, folder / engine.file)
        spec = _spec(built_by, artifact.precision, folder / engine.file, manifest).model_copy(
            update={"max_batch": engine.passport.profile.max, "gpu": machine.gpu}
        )
        yield spec
        yield spec.model_copy(update={"cuda_graphs": True})
        yield spec.model_copy(update={"cuda_graphs": True, "copies": True})


def _reason_against(engine: BuiltEngine, machine: Machine) -> str:
    """Why an engine is not measured here; empty if it is."""
    passport, gpu = engine.passport, machine.gpu
    if gpu is None:
        return machine.gpus.problem
    if not (gpu.compute_capability == passport.compute_capability or gpu.target in passport.targets):
        return f"built for {passport.built_for}"
    if engine.decision is None:
        return "never proved to be the same model (alexnet export builds and proves it here)"
    return "" if engine.accepted else f"refused by the gate ({engine.decision.reason})"


def _on_gpu(spec: EngineSpec, gpu: Gpu | None) -> Iterator[EngineSpec]:
    if gpu is not None:
        there = spec.model_copy(update={"gpu": gpu, "options": {}})
        yield there
        yield there.model_copy(update={"copies": True})


def _spec(runtime: RuntimeName, precision: Precision, path: Path, manifest: Manifest) -> EngineSpec:
    return EngineSpec(
        runtime=runtime,
        precision=precision,
        file=path.absolute(),
        size_bytes=path.stat().st_size,
        max_batch=manifest.max_batch,
        contract=manifest.contract.to_json(),
        classes=len(manifest.model.class_names),
    )
