"""Which of an export's files a repository packs: an ONNX file a precision, or the engines built from it.

And whether models that take encoded images stand before them. The writer packs by this, lint expects by it,
and unpacking finds by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from alexnet_model.errors import RepositoryError
from alexnet_model.manifest import PRECISIONS, Artifact, Engine, Manifest, RuntimeInfo
from alexnet_model.passport import ENGINE_SUFFIX

from .layout import RepositoryOptions, model_name

# Which of Triton's backends runs what the manifest calls a runtime.
BACKENDS = {"openvino": "openvino_dynamic", "onnxruntime": "onnxruntime"}
TENSORRT: Final = "tensorrt"
DECODER: Final = "image_decoder"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model of a repository: what runs it, and its engines by file name (none for an ONNX model)."""

    artifact: Artifact
    backend: str
    max_batch: int
    engines: Mapping[str, Engine] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return model_name(self.artifact.precision)

    @property
    def runtimes(self) -> tuple[RuntimeInfo, ...]:
        """What its figures were measured on: one, or one an engine."""
        of_engines = tuple(engine.report.runtime for engine in self.engines.values() if engine.report)
        return of_engines or (self.artifact.served_by,)


def entries_of(manifest: Manifest, options: RepositoryOptions) -> tuple[ModelEntry, ...]:
    """What a repository with these options holds; empty where nothing was accepted.

    Raises:
        RepositoryError: no backend serves an artifact's runtime, an engine does not take the batches that the
            manifest promises, or two engines are for one kind of GPU.
    """
    if options.backend == TENSORRT:
        packable = (artifact for artifact in manifest.accepted if packable_engines(artifact))
        return tuple(_engine_entry(artifact, manifest) for artifact in packable)
    return tuple(_onnx_entry(artifact, manifest) for artifact in manifest.accepted)


def takes_encoded(entries: Collection[ModelEntry], encoded: bool | None) -> bool:
    """Whether encoded images are decoded for these models, where the options say `encoded`."""
    if encoded is None:
        return any(entry.backend == BACKENDS["openvino"] for entry in entries)
    return encoded and bool(entries)


def entry_inside(entries: Collection[ModelEntry]) -> ModelEntry:
    """The model that decoded images go to: the smallest file of those that all passed the same gate."""
    return max(entries, key=lambda entry: PRECISIONS.index(entry.artifact.precision))


def packable_engines(artifact: Artifact) -> tuple[Engine, ...]:
    """The engines that ran, passed the gate, and that Triton has a backend for."""
    return tuple(engine for engine in artifact.engines if not _reason_against(engine))


def reasons_against(manifest: Manifest, options: RepositoryOptions) -> str:
    """Why each precision that is not packed is not, in one line."""
    packed = {entry.artifact.precision for entry in entries_of(manifest, options)}
    reasons = []
    for artifact in manifest.artifacts:
        if artifact.precision in packed:
            continue
        if not artifact.decision.accepted:
            reasons.append(f"{artifact.precision}: {artifact.decision.reason}")
        elif not artifact.engines:
            reasons.append(f"{artifact.precision}: no engine was built")
        else:
            reasons += [f"{artifact.precision}: {_reason_against(engine)}" for engine in artifact.engines]
    return "; ".join(reasons) or "nothing was exported"


def plan_names(engines: tuple[Engine, ...]) -> dict[str, Engine]:
    """`model.plan`, or for several GPUs `model_sm89.plan`, `model_sm90.plan`.

    Raises:
        RepositoryError: two engines are for the same compute capability, by which Triton chooses.
    """
    if len(engines) == 1:
        return {f"model{ENGINE_SUFFIX}": engines[0]}
    names: dict[str, Engine] = {}
    for engine in engines:
        name = f"model_{_target(engine)}{ENGINE_SUFFIX}"
        if name in names:
            raise RepositoryError(
                f"{names[name].file} and {engine.file}",
                got=f"two engines for compute capability {engine.passport.compute_capability}",
                expected="one for each, by which Triton chooses",
                next_step="Build for one GPU of each kind.",
            )
        names[name] = engine
    return names


def _reason_against(engine: Engine) -> str:
    if engine.passport.runtime != TENSORRT:
        return f"{engine.file} is a TensorRT-RTX engine, which Triton has no backend for"
    if engine.report is None or engine.decision is None:
        return f"{engine.file} was never run, so it was not judged"
    return "" if engine.accepted else f"{engine.file}: {engine.decision.reason}"


def _onnx_entry(artifact: Artifact, manifest: Manifest) -> ModelEntry:
    runtime = artifact.served_by.name if artifact.reports else "none"
    if runtime not in BACKENDS:
        raise RepositoryError(
            f"runtime of {artifact.file}", got=runtime, expected=f"one of {', '.join(BACKENDS)}"
        )
    return ModelEntry(artifact=artifact, backend=BACKENDS[runtime], max_batch=manifest.max_batch)


def _engine_entry(artifact: Artifact, manifest: Manifest) -> ModelEntry:
    engines = packable_engines(artifact)
    for engine in engines:
        _check_engine(engine, artifact, manifest.max_batch)
    return ModelEntry(
        artifact=artifact,
        backend=TENSORRT,
        max_batch=min(manifest.max_batch, *(engine.passport.profile.max for engine in engines)),
        engines=plan_names(engines),
    )


def _check_engine(engine: Engine, artifact: Artifact, max_batch: int) -> None:
    passport = engine.passport
    if passport.profile.min > 1 or passport.profile.max > max_batch:
        raise RepositoryError(
            f"profile of {engine.file}",
            got=str(passport.profile),
            expected=f"from 1 to at most {max_batch} images, the largest batch that was proved",
            next_step="Build the engine again.",
        )
    if passport.precision != artifact.precision:
        raise RepositoryError(
            f"precision of {engine.file}",
            got=passport.precision,
            expected=f"{artifact.precision}, as the file it was built from",
            next_step="Build the engine again.",
        )
    if not passport.compute_capability:
        raise RepositoryError(
            f"passport of {engine.file}",
            got="no compute capability",
            expected="that of the GPU it was built on",
            next_step="Build the engine again.",
        )


def _target(engine: Engine) -> str:
    return f"sm{str(engine.passport.compute_capability).replace('.', '')}"
