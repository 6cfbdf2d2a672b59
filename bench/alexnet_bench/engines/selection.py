"""Select the engines of an export that this machine can run, with the reason for each one left out.

The candidates follow from the runtime registry (`alexnet_model.runtimes`): each runtime is combined with the
files that it loads and with the devices that it supports.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet_clients import ModelConfig
from alexnet_model.environment import cpu_extensions
from alexnet_model.errors import CheckpointError, EngineError, ExportError, UsageError
from alexnet_model.gpus import Gpu, GpuSurvey, gpus_here
from alexnet_model.manifest import Artifact, Manifest, verify_artifact, verify_engine
from alexnet_model.manifest import Engine as BuiltEngine
from alexnet_model.records import PRECISIONS, Precision
from alexnet_model.runtimes import Device, Runtime, runtime_named, runtime_of_backend, runtimes

from ..schema import LeftOut
from .specs import EngineSpec

IN_HALF = frozenset({"pytorch", "torch.compile"})  # peers.py has their runners in half precision
ONNX_RUNTIME = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class EngineFilter:
    """Restrict what of an export is measured.

    Attributes:
        precisions: Only these; None means all that the gate accepted.
        runtimes: Only these, by their registered names; None means all.
        checkpoint: The checkpoint that the export was made from. Runtimes that load a checkpoint, such as
            PyTorch, are measured only if it is given.
        device: Only this device; None means all.

    Raises:
        UsageError: a runtime is not registered.
    """

    precisions: tuple[Precision, ...] | None = None
    runtimes: tuple[str, ...] | None = None
    checkpoint: Path | None = None
    device: Device | None = None

    def __post_init__(self) -> None:
        for name in self.runtimes or ():
            runtime_named(name)

    @property
    def selected_runtimes(self) -> tuple[Runtime, ...]:
        return tuple(r for r in runtimes() if self.runtimes is None or r.name in self.runtimes)


@dataclass(frozen=True)
class EngineSelection:
    """The engines to measure, and what is not measured with the reason."""

    specs: tuple[EngineSpec, ...]
    left_out: tuple[LeftOut, ...]


def engines_of_export(
    manifest: Manifest, folder: Path, engine_filter: EngineFilter, gpus: GpuSurvey
) -> EngineSelection:
    """Find every engine of an export that this machine can run.

    Args:
        manifest: The export's manifest.
        folder: The export's folder.
        engine_filter: What of it to measure.
        gpus: The GPUs of this machine; engines run on the first.

    Returns:
        Engines from the checkpoint first, then those of each precision in order.

    Raises:
        ManifestError: a file is missing or is not the one that was exported.
        CheckpointError: the checkpoint cannot be read, or is not the one that was exported.
        ExportError: nothing is left to measure; the message holds the reasons.
        UsageError: a selected precision is not in the export, or the gate refused it.
    """
    artifacts = _selected_artifacts(manifest, folder, engine_filter.precisions)
    selected, gpu = engine_filter.selected_runtimes, next(iter(gpus.gpus), None)
    by_source = {
        source: [runtime for runtime in selected if runtime.source == source]
        for source in ("checkpoint", "onnx", "engine")
    }
    found: list[EngineSpec | LeftOut] = []
    precisions = {artifact.precision for artifact in artifacts}
    if precisions & {"fp32", "fp16"}:
        found += _from_checkpoint(
            by_source["checkpoint"], manifest, engine_filter.checkpoint, gpu, precisions
        )
    for artifact in artifacts:
        if by_source["onnx"]:
            found += _from_onnx(by_source["onnx"], artifact, manifest, folder, gpu)
        for runtime in by_source["engine"]:
            found += _built_engines(runtime, artifact, manifest, folder, gpus)
    left_out = {one: None for one in found if isinstance(one, LeftOut)}
    if gpu is None and engine_filter.device != "cpu" and any("gpu" in r.devices for r in selected):
        left_out[LeftOut(what="everything on a GPU", why=gpus.problem)] = None
    specs = tuple(
        one
        for one in found
        if isinstance(one, EngineSpec) and engine_filter.device in (None, "cpu" if one.gpu is None else "gpu")
    )
    if not specs:
        reasons = "; ".join(f"{one.what}: {one.why}" for one in left_out)
        raise ExportError(
            str(folder), got=f"nothing to measure ({reasons})", expected="an engine that this machine can run"
        )
    return EngineSelection(specs, tuple(left_out))


def artifact_of_served_model(config: ModelConfig, manifest: Manifest) -> Artifact:
    """Find the artifact of an export that a served model has the precision of.

    Raises:
        UsageError: there is none.
    """
    precision = config.parameters.get("precision")
    found = next((artifact for artifact in manifest.accepted if artifact.precision == precision), None)
    if found is None:
        raise UsageError(
            f"served model {config.name}",
            got=f"precision {precision or 'unknown'}",
            expected=f"one of this export: {', '.join(artifact.precision for artifact in manifest.accepted)}",
            next_step="Pass the repository that the server serves, or leave out --repository.",
        )
    return found


def gpu_of_served_model(config: ModelConfig) -> Gpu | None:
    """Return the GPU that a served model computes on, the first of several; None for the CPU.

    Raises:
        EngineError: the model computes on a GPU, and this machine has none.
    """
    if config.device != "GPU":
        return None
    survey = gpus_here()
    if not survey.gpus:
        raise EngineError(
            config.name,
            got=f"no GPU here: {survey.problem}",
            expected="the GPU that the server computes on",
            next_step="Measure on the server's own machine.",
        )
    return survey.gpus[0]


def served_engine(config: ModelConfig, manifest: Manifest, folder: Path) -> EngineSpec:
    """Find the engine of an export that a served model runs: its backend's runtime, on its device.

    Raises:
        ManifestError: its file is missing or is not the one that was exported.
        EngineError: the server's GPU is not here, or the export has no engine for it.
        UsageError: the export has no model of that precision.
    """
    artifact, gpu = artifact_of_served_model(config, manifest), gpu_of_served_model(config)
    runtime = runtime_of_backend(config.backend)
    if runtime is None or not runtime.bound_to_machine:
        return onnx_engine(artifact, manifest, folder, gpu)
    survey = GpuSurvey(gpus=() if gpu is None else (gpu,), problem="the server computes on the CPU")
    found = list(_built_engines(runtime, artifact, manifest, folder, survey))
    spec = next((one for one in found if isinstance(one, EngineSpec)), None)
    if spec is None:
        reasons = "; ".join(one.why for one in found if isinstance(one, LeftOut))
        raise EngineError(
            f"{config.name} on {runtime.title}",
            got=reasons or f"no engine of {artifact.precision}",
            expected="the engine that is served",
            next_step="Pass the repository that the server serves.",
        )
    return spec


def onnx_engine(artifact: Artifact, manifest: Manifest, folder: Path, gpu: Gpu | None = None) -> EngineSpec:
    """Describe an artifact's ONNX file in the runtime that serves it, with the options it is served with.

    Args:
        artifact: The artifact.
        manifest: The export's manifest.
        folder: The export's folder.
        gpu: GPU to run on, if the runtime supports GPUs; else it runs on the CPU.

    Raises:
        ManifestError: the file is missing or is not the one that was exported.
    """
    runtime = runtime_named(artifact.served_by.name)
    *_, spec = _from_onnx([runtime], artifact, manifest, folder, None)
    if gpu is None or "gpu" not in runtime.devices:
        return spec
    return spec.model_copy(update={"gpu": gpu, "options": None})


def _selected_artifacts(
    manifest: Manifest, folder: Path, precisions: tuple[Precision, ...] | None
) -> list[Artifact]:
    accepted = {artifact.precision: artifact for artifact in manifest.accepted}
    for precision in precisions or ():
        if precision not in accepted:
            raise UsageError(
                f"{folder}: {precision}",
                got="a precision that the gate did not accept",
                expected=f"some of {', '.join(accepted) or 'none'}",
            )
    return [
        accepted[precision]
        for precision in PRECISIONS
        if precision in (precisions or accepted) and precision in accepted
    ]


def _from_checkpoint(
    selected: list[Runtime],
    manifest: Manifest,
    checkpoint: Path | None,
    gpu: Gpu | None,
    precisions: Collection[Precision],
) -> Iterator[EngineSpec | LeftOut]:
    """In FP32, and on a GPU as a user of PyTorch would run it: in half precision, if the gate accepts FP16.

    There `torch.compile` is measured in half precision only: compiling takes long, and users who compile for
    a GPU also use half precision.
    """
    if not selected:
        return
    if checkpoint is None:
        for runtime in selected:
            yield LeftOut(what=runtime.name, why="no checkpoint was given (--checkpoint FILE)")
        return
    from alexnet_model.checkpoint import load_checkpoint

    if load_checkpoint(checkpoint).weights_sha256 != manifest.model.weights_sha256:
        raise CheckpointError(
            str(checkpoint),
            got="other weights",
            expected="the checkpoint that this export was made from",
            next_step="Pass that checkpoint, or export this one.",
        )
    for runtime in selected:
        fp32 = _spec(runtime, "fp32", checkpoint, manifest)
        half = fp32.model_copy(update={"precision": "fp16", "gpu": gpu, "half": True})
        in_half = runtime.name in IN_HALF and gpu is not None and "fp16" in precisions
        if "fp32" in precisions:
            yield from _on_devices(fp32, runtime, None if in_half and fp32.is_compiled else gpu)
        if in_half:
            yield from _with_copies(half.model_copy(update={"cuda_graphs": not half.is_compiled}))


def _from_onnx(
    selected: list[Runtime], artifact: Artifact, manifest: Manifest, folder: Path, gpu: Gpu | None
) -> Iterator[EngineSpec]:
    path, served_by = verify_artifact(artifact, folder), artifact.served_by
    for runtime in selected:
        spec = _spec(runtime, artifact.precision, path, manifest)
        if served_by.name == runtime.name and served_by.device == "CPU":
            spec = spec.model_copy(update={"options": served_by.options})
        yield from _on_devices(spec, runtime, gpu)


def _on_devices(spec: EngineSpec, runtime: Runtime, gpu: Gpu | None) -> Iterator[EngineSpec]:
    """On the CPU and on the GPU, as far as the runtime supports them and the machine has them."""
    if "cpu" in runtime.devices:
        yield spec
    if "gpu" in runtime.devices and gpu is not None:
        on_gpu = spec.model_copy(update={"gpu": gpu, "options": None})
        if runtime.name != ONNX_RUNTIME:
            yield from _with_copies(on_gpu)
        elif (
            spec.precision == "int8"
        ):  # computed in float there: measured once, to show that it is not faster
            yield on_gpu
        else:
            yield from _with_copies(on_gpu)
            yield from _with_copies(on_gpu.model_copy(update={"cuda_graphs": True}))


def _with_copies(spec: EngineSpec) -> Iterator[EngineSpec]:
    """Without copies and with them; one process runs both."""
    yield spec
    yield spec.model_copy(update={"copies": True})


def _built_engines(
    runtime: Runtime, artifact: Artifact, manifest: Manifest, folder: Path, gpus: GpuSurvey
) -> Iterator[EngineSpec | LeftOut]:
    name, gpu = runtime.name, next(iter(gpus.gpus), None)
    if not any(engine.passport.runtime == name for one in manifest.artifacts for engine in one.engines):
        yield LeftOut(what=name, why="this export has no engine for it (alexnet export --runtime)")
    for engine in artifact.engines:
        if engine.passport.runtime != name:
            continue
        on_gpu = engine.passport.cpu is None
        reason = gpus.problem if on_gpu and gpu is None else _reason_against(engine, gpu)
        if reason:
            yield LeftOut(what=f"{name} {artifact.precision}", why=f"{engine.file}: {reason}")
            continue
        verify_engine(engine, folder / engine.file)
        spec = _spec(runtime, artifact.precision, folder / engine.file, manifest).model_copy(
            update={"max_batch": engine.passport.profile.max, "gpu": gpu if on_gpu else None}
        )
        yield spec
        if on_gpu:
            yield spec.model_copy(update={"copies": True})
            yield from _with_copies(spec.model_copy(update={"cuda_graphs": True}))


def _reason_against(engine: BuiltEngine, gpu: Gpu | None) -> str:
    """Explain why an engine is not measured on a GPU, or on the CPU it is for; empty if it is."""
    passport = engine.passport
    if gpu is not None and passport.cpu is None:
        fits = gpu.compute_capability == passport.compute_capability or gpu.target in passport.targets
    else:
        fits = set(passport.cpu_extensions) <= set(cpu_extensions())
    if not fits:
        return f"built for {passport.built_for}"
    if engine.decision is None:
        return "the gate has not judged it (alexnet export builds and judges it here)"
    return "" if engine.accepted else f"refused by the gate ({engine.decision.reason})"


def _spec(runtime: Runtime, precision: Precision, path: Path, manifest: Manifest) -> EngineSpec:
    return EngineSpec(
        runtime=runtime.name,
        precision=precision,
        file=path.absolute(),
        size_bytes=path.stat().st_size,
        max_batch=manifest.max_batch,
        contract=manifest.contract.to_json(),
        classes=len(manifest.model.class_names),
    )
