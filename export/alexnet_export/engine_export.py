"""Engines for an export: build them from its ONNX files, check them by the gate, add them to its record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_model.errors import ExportError
from alexnet_model.files import atomic_directory, link_or_copy
from alexnet_model.manifest import (
    MANIFEST_NAME,
    REFERENCE_NAME,
    Artifact,
    Engine,
    Manifest,
    manifest_from_folder,
    verify_artifact,
    verify_engine,
    write_manifest,
)
from alexnet_model.passport import Profile, passport_path
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision
from alexnet_model.runtimes import runtime_named

from .engines.builders import EngineBuilder
from .engines.options import EngineOptions
from .gate import GateInputs
from .reference import gate_inputs_from_folder


def build_engines(
    folder: Path,
    options: EngineOptions,
    *,
    precisions: tuple[Precision, ...] | None = None,
    builders: Sequence[EngineBuilder] | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Build engines for the accepted files of an export, check them, and add them to its folder and record.

    Engines for other GPUs stay, so that one folder can collect engines on several machines. The folder is
    replaced as a whole at the end: after an interrupt it is unchanged.

    Args:
        folder: The folder of the export.
        options: How to build.
        precisions: The precisions to build. None: all that the gate accepted.
        builders: The builders. None: those that `builders_from(options)` makes. A precision that a builder
            does not build is left out.
        progress: Called with the progress of each stage.

    Returns:
        The new record.

    Raises:
        EngineError: there is no GPU to build on, or a file cannot be parsed or built (node named).
        ExportError: the gate accepted none of `precisions`, or a builder builds none of them.
        UsageError: a target or profile is invalid.
        ManifestError: the export's files are missing or altered.
        DockerError, MissingExtra: the library or image that builds is missing.
        OSError: the folder cannot be written.
    """
    manifest = manifest_from_folder(folder)
    profile = options.profile_to(manifest.max_batch)
    to_build = [a for a in manifest.accepted if precisions is None or a.precision in precisions]
    if not to_build:
        raise ExportError(
            f"{folder}: {','.join(precisions or ())}".rstrip(": "),
            got="no accepted precision to build",
            expected="an ONNX file that passed the gate",
            next_step="Export again to see the reasons: alexnet export CHECKPOINT",
        )
    if builders is None:
        builders = builders_from(options)
    refuse_unbuildable(builders, tuple(artifact.precision for artifact in to_build))
    gate_inputs = None
    if any(builder.run for builder in builders):
        gate_inputs = gate_inputs_from_folder(folder, manifest, progress=progress)

    with atomic_directory(folder, record=MANIFEST_NAME) as staged:
        pairs = [(a, b) for a in to_build for b in builders if a.precision not in b.not_built]
        new = {engine_file_name(artifact, builder) for artifact, builder in pairs}
        updated = {a.precision: _link_unchanged(a, folder, staged, leave_out=new) for a in manifest.artifacts}
        if manifest.reference_sha256 is not None:
            link_or_copy(folder / REFERENCE_NAME, staged / REFERENCE_NAME)
        for artifact, builder in pairs:
            engine = _engine(artifact, builder, manifest, profile, gate_inputs, staged, progress)
            others = updated[artifact.precision].engines
            update = {"engines": (*others, engine)}
            updated[artifact.precision] = updated[artifact.precision].model_copy(update=update)
        manifest = manifest.model_copy(update={"artifacts": tuple(updated.values())})
        write_manifest(manifest, staged)
    return manifest


def builders_from(options: EngineOptions) -> tuple[EngineBuilder, ...]:
    """Call what the table of runtimes names as the builder of `options.runtime`.

    It makes one builder for each kind of GPU that engines are built for, and checks all that can be known
    before a build, since a build and its check by the gate take minutes.

    Raises:
        EngineError, DockerError, MissingExtra, UsageError: nothing can be built here as `options` say.
    """
    builders: tuple[EngineBuilder, ...] = runtime_named(options.runtime).load_builder()(options)
    return builders


def refuse_unbuildable(builders: Sequence[EngineBuilder], precisions: Sequence[Precision]) -> None:
    """Refuse precisions of which a builder builds none.

    Raises:
        ExportError: there is such a builder; the message has its reasons.
    """
    for builder in builders:
        reasons = [builder.not_built[one] for one in precisions if one in builder.not_built]
        if precisions and len(reasons) == len(precisions):
            raise ExportError(
                f"{','.join(precisions)} as {builder.label} engine",
                got="; ".join(dict.fromkeys(reasons)),
                expected="a precision that it is built in",
                next_step="Choose another --precision, or leave it out.",
            )


def engine_file_name(artifact: Artifact, builder: EngineBuilder) -> str:
    """Return an engine's file name, such as `alexnet_int8.sm90.plan` or `alexnet_int8.rtx-sm89.plan`."""
    return f"{Path(artifact.file).stem}.{builder.label}{builder.suffix}"


def _engine(
    artifact: Artifact,
    builder: EngineBuilder,
    manifest: Manifest,
    profile: Profile,
    gate_inputs: GateInputs | None,
    folder: Path,
    progress: Progress,
) -> Engine:
    """Build one engine in `folder` and check it by the gate if a GPU here can run it."""
    contract = manifest.contract
    # Not the final name, where a link to the folder's old engine may be.
    path = folder / f".building{builder.suffix}"
    name = engine_file_name(artifact, builder)
    passport = builder.build(
        folder / artifact.file,
        path,
        precision=artifact.precision,
        profile=profile,
        contract=contract,
        progress=progress,
    )
    engine = Engine(file=name, passport=passport, passport_digest=passport.digest)
    if builder.run and gate_inputs:
        runner = builder.run(path, passport, len(manifest.model.class_names), contract)
        stage = f"checking {artifact.precision} engine"
        report = gate_inputs.report(runner, profile.max, progress=progress, stage=stage)
        engine = engine.model_copy(
            update={
                "report": report,
                "decision": gate_inputs.decision(report),
                "evaluated_on": gate_inputs.evaluated_on,
            }
        )
    path.replace(folder / name)
    passport_path(path).replace(passport_path(folder / name))
    return engine


def _link_unchanged(artifact: Artifact, folder: Path, staged: Path, *, leave_out: set[str]) -> Artifact:
    """Verify an artifact's files and link them into `staged`, without the engines that are built again."""
    link_or_copy(verify_artifact(artifact, folder), staged / artifact.file)
    stay = tuple(engine for engine in artifact.engines if engine.file not in leave_out)
    for engine in stay:
        verify_engine(engine, folder / engine.file)
        for path in (folder / engine.file, passport_path(folder / engine.file)):
            link_or_copy(path, staged / path.name)
    return artifact.model_copy(update={"engines": stay})
