"""What a repository holds of one export: its options, and the entry of each of its models.

The writer writes by these entries, lint compares with them, and unpacking finds the files by them.
`records.py` says which exports and versions a repository holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final

from alexnet_model.contract import canonical_json
from alexnet_model.errors import RepositoryError, UsageError
from alexnet_model.folders import is_junk
from alexnet_model.manifest import PRECISIONS, Artifact, Engine, Manifest, RuntimeInfo
from alexnet_model.model_names import network_name
from alexnet_model.runtimes import Runtime, runtime_named, runtimes
from alexnet_model.triton_image import queue_timeout_decays

#: The name of the file with a model's configuration, in its folder.
CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MODEL_FILE = "model.onnx"
# Placed in the version's folder of a model without a file of its own: git and object stores keep no empty
# folder, and Triton loads no model without one.
PLACEHOLDER_FILE = "README.md"
DECODER: Final = "image_decoder"  # the backend of the decoding model

MAX_INSTANCES = 16  # of a model; each has its own copy of the weights


def kept_file(name: str, version: int, file: str) -> str:
    """Return where a repository keeps a file of an export that is in no model's folder: at its root.

    Triton ignores files there. These are the record, PyTorch's outputs, and all files of a version that is
    not served.

    Args:
        name: The name of the export.
        version: Its version.
        file: The file's name in the export's own folder.

    Raises:
        RepositoryError: `file` is a path and not a name, as in a record that was edited.
    """
    return f"{name}.{version}.{plain_name(file)}"


def configs_of_repository(repository: Path) -> list[Path]:
    """Return the paths of the `config.pbtxt` of all models, sorted; none if there is no such folder."""
    found = repository.glob(f"*/{CONFIG_FILE}")
    return sorted(path for path in found if not is_junk(path.parent.name))


def plain_name(file: str) -> str:
    """Return a file's name that a record has, after checking that it is no path.

    Raises:
        RepositoryError: it is a path, which could be one outside the export.
    """
    if not file or PurePosixPath(file).name != file:
        raise RepositoryError(
            f"file {file!r} of the record",
            got="no plain file name",
            expected="a file in the export's own folder",
            next_step="The record was edited: export again.",
        )
    return file


@dataclass(frozen=True, kw_only=True)
class RepositoryOptions:
    """What a repository packs, and how its models run, batch and queue.

    Attributes:
        runtime: The name of the runtime to serve by: its engines, or the ONNX files that were checked on it.
            None (the default) serves each ONNX file by the runtime it was checked on.
        queue_size: How many requests, of one image or of a full batch, may wait for a model; 0 is no limit. A
            full queue refuses at once. None (the default) is no limit for an ONNX file, and four full batches
            of single images for an engine (docs/decisions/queue.md).
        queue_timeout_s: How long a request may wait before it is refused, in seconds; 0 is no limit. None
            (the default) is no limit for an ONNX file and one second for an engine. Always no limit on a
            `triton_release` that does not support it.
        queue_delay_us: How long Triton waits for more requests to fill a batch, in microseconds (default 0).
        instances: How many instances of each model run in parallel, on every GPU or on the CPU (default 1).
        max_batch: The largest batch that is computed at once; None (the default) is the largest batch that
            was checked. `alexnet tune` measures which values of these three are best.
        encoded: Whether the repository also has `alexnet`, which takes encoded images. Decoding needs this
            project's image, so None (the default) adds it if another model needs that image anyway
            (docs/decisions/encoded-images.md).
        triton_release: The release of the image that will serve the repository, such as `26.07`. Before
            26.08 no model gets a queue timeout (docs/decisions/queue.md). None (the default) is the release
            of this project's image.

    Raises:
        UsageError: a value is out of range, or Triton does not serve the runtime.
    """

    runtime: str | None = None
    queue_size: int | None = None
    queue_timeout_s: float | None = None
    queue_delay_us: int = 0
    instances: int = 1
    max_batch: int | None = None
    encoded: bool | None = None
    triton_release: str | None = None

    def __post_init__(self) -> None:
        if self.runtime is not None and not runtime_named(self.runtime).served:
            served = ", ".join(runtime.name for runtime in runtimes() if runtime.served)
            raise UsageError("runtime", got=repr(self.runtime), expected=f"one that Triton serves: {served}")
        if self.queue_size is not None and not 0 <= self.queue_size <= 1_000_000:
            raise UsageError(
                "queue size", got=str(self.queue_size), expected="0 (no limit) to 1,000,000 requests"
            )
        if self.queue_timeout_s is not None and not 0 <= self.queue_timeout_s <= 3600:
            raise UsageError("queue timeout", got=f"{self.queue_timeout_s:g} s", expected="0 to 3600 s")
        if not 0 <= self.queue_delay_us <= 1_000_000:
            raise UsageError("queue delay", got=f"{self.queue_delay_us} us", expected="0 to 1,000,000 us")
        if not 1 <= self.instances <= MAX_INSTANCES:
            raise UsageError("instances", got=str(self.instances), expected=f"1 to {MAX_INSTANCES}")
        if self.max_batch is not None and self.max_batch < 1:
            raise UsageError("largest batch", got=str(self.max_batch), expected="1 or more")
        if self.triton_release is not None and not re.fullmatch(r"\d\d\.\d\d", self.triton_release):
            raise UsageError("Triton release", got=repr(self.triton_release), expected="such as 26.07")

    @property
    def queue_timeout_decays(self) -> bool:
        """Whether the Triton that serves is too old for a queue timeout."""
        return self.triton_release is not None and queue_timeout_decays(self.triton_release)

    @property
    def serves_engines(self) -> bool:
        """Whether engines are packed, and not the ONNX files themselves."""
        return self.runtime is not None and runtime_named(self.runtime).bound_to_machine

    def to_json(self) -> str:
        """Return canonical JSON, as the index of a repository records it."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RepositoryOptions:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is not JSON, or has other fields or types; export the repository again.
        """
        values: Any = json.loads(text)
        expected = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != expected:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"options are {sorted(expected)}, got {got}")
        if type(values["runtime"]) not in (str, type(None)):
            raise ValueError(f"runtime is a name or null, got {values['runtime']!r}")
        counted = ("queue_size", "queue_delay_us", "instances", "max_batch")
        whole = [values[name] for name in counted if values[name] is not None]
        if not all(type(value) is int for value in whole):
            raise ValueError(f"{', '.join(counted)} are whole numbers, got {whole}")
        if type(values["encoded"]) not in (bool, type(None)):
            raise ValueError(f"encoded is true, false or null, got {values['encoded']!r}")
        if type(values["triton_release"]) not in (str, type(None)):
            raise ValueError(f"triton_release is text or null, got {values['triton_release']!r}")
        try:
            return cls(**values)
        except (UsageError, TypeError) as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One network of a repository.

    Attributes:
        export: The name of its export.
        version: Its version.
        is_served: Whether Triton serves this version, so that its files are in the model's folder.
        artifact: The ONNX file and its record.
        runtime: What serves it.
        max_batch: The largest batch that it takes.
        engines: Its engines by file name; empty if the ONNX file itself is served.
    """

    export: str
    version: int
    is_served: bool
    artifact: Artifact
    runtime: Runtime
    max_batch: int
    engines: Mapping[str, Engine] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the model's name."""
        return network_name(self.export, self.artifact.precision)

    @property
    def onnx_file(self) -> str:
        """Return the path of its ONNX file in the repository."""
        if self.is_served:
            return f"{self.name}/{self.version}/{MODEL_FILE}"
        return kept_file(self.export, self.version, self.artifact.file)

    def engine_file(self, plan: str) -> str:
        """Return the path of an engine, one of `engines`, in the repository."""
        if self.is_served:
            return f"{self.name}/{self.version}/{plan}"
        return kept_file(self.export, self.version, self.engines[plan].file)

    @property
    def on_gpu(self) -> bool:
        """Whether its engines are for GPUs; False for an ONNX file."""
        return any(engine.passport.compute_capability for engine in self.engines.values())

    @property
    def measured_on(self) -> tuple[RuntimeInfo, ...]:
        """Return the recorded runtimes of its measurements: one, or one for each engine."""
        of_engines = tuple(engine.report.runtime for engine in self.engines.values() if engine.report)
        return of_engines or (self.artifact.served_by,)


def engine_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes whose engines Triton serves."""
    return tuple(runtime for runtime in runtimes() if runtime.bound_to_machine and runtime.served)


def entries_of(
    manifest: Manifest, options: RepositoryOptions, *, is_served: bool = True
) -> tuple[ModelEntry, ...]:
    """Return the networks that a repository has of an export; empty if none was accepted.

    Args:
        manifest: The record of the export.
        options: How the repository is written.
        is_served: Whether this version of the export is the one that Triton serves.

    Raises:
        RepositoryError: Triton does not serve the runtime that an ONNX file was checked on, an engine does
            not take the batches that the manifest promises, or two engines are for the same compute
            capability.
    """
    runtime = None if options.runtime is None else runtime_named(options.runtime)
    if runtime is not None and runtime.bound_to_machine:
        packable = (artifact for artifact in manifest.accepted if packable_engines(artifact, runtime))
        return tuple(_engine_entry(artifact, runtime, manifest, is_served=is_served) for artifact in packable)
    entries = (_onnx_entry(artifact, manifest, is_served=is_served) for artifact in manifest.accepted)
    return tuple(entry for entry in entries if runtime is None or entry.runtime == runtime)


def takes_encoded(entries: Collection[ModelEntry], encoded: bool | None) -> bool:
    """Return whether models for encoded images are added to these entries if the option says `encoded`."""
    if encoded is None:
        return any(not entry.runtime.in_stock_image for entry in entries)
    return encoded and bool(entries)


def ensemble_network(entries: Collection[ModelEntry]) -> ModelEntry:
    """Return the entry that the ensemble sends decoded images to: the one with the smallest file."""
    return max(entries, key=lambda entry: PRECISIONS.index(entry.artifact.precision))


def packable_engines(artifact: Artifact, runtime: Runtime) -> tuple[Engine, ...]:
    """Return the artifact's engines of a runtime that were run and passed the gate.

    One for a CPU is left out beside one for a GPU: a model computes on one kind of device.
    """
    accepted = tuple(engine for engine in artifact.engines if not _reason_against(engine, runtime))
    return tuple(engine for engine in accepted if engine.passport.compute_capability) or accepted


def reasons_against(manifest: Manifest, options: RepositoryOptions) -> str:
    """Return, in one line, why each precision that is not packed was left out."""
    packed = {entry.artifact.precision for entry in entries_of(manifest, options)}
    runtime = None if options.runtime is None else runtime_named(options.runtime)
    reasons = []
    for artifact in manifest.artifacts:
        if artifact.precision in packed:
            continue
        if not artifact.decision.accepted:
            reasons.append(f"{artifact.precision}: {artifact.decision.reason}")
        elif runtime is not None and not runtime.bound_to_machine:
            reasons.append(
                f"{artifact.precision}: checked on {artifact.served_by.name}, not on {runtime.name}"
            )
        elif not artifact.engines or runtime is None:
            reasons.append(f"{artifact.precision}: no engine was built")
        else:
            against = (_reason_against(engine, runtime) for engine in artifact.engines)
            reasons += [f"{artifact.precision}: {reason}" for reason in against]
    return "; ".join(reasons) or "nothing was exported"


def plan_names(engines: tuple[Engine, ...]) -> dict[str, Engine]:
    """Return the engines by file name: `model.plan`, or for several GPUs `model_sm89.plan`,
    `model_sm90.plan`.

    Raises:
        RepositoryError: two engines are for the same compute capability, by which Triton chooses.
    """
    suffixes = {engine.file: runtime_named(engine.passport.runtime).engine_suffix for engine in engines}
    if len(engines) == 1:
        return {f"model{suffixes[engines[0].file]}": engines[0]}
    names: dict[str, Engine] = {}
    for engine in engines:
        target = f"sm{str(engine.passport.compute_capability).replace('.', '')}"
        name = f"model_{target}{suffixes[engine.file]}"
        if name in names:
            raise RepositoryError(
                f"{names[name].file} and {engine.file}",
                got=f"two engines for compute capability {engine.passport.compute_capability}",
                expected="one for each, by which Triton chooses",
                next_step="Build for one GPU of each kind.",
            )
        names[name] = engine
    return names


def _reason_against(engine: Engine, runtime: Runtime) -> str:
    """Return why an engine is not packed for a runtime; empty if it is."""
    built_for = runtime_named(engine.passport.runtime)
    if not built_for.served:
        return f"{engine.file} is a {built_for.title} engine, for which Triton has no backend"
    if built_for != runtime:
        return f"{engine.file} is a {built_for.title} engine"
    if engine.report is None or engine.decision is None:
        return f"{engine.file} was never run, so the gate did not judge it"
    return "" if engine.accepted else f"{engine.file}: {engine.decision.reason}"


def _onnx_entry(artifact: Artifact, manifest: Manifest, *, is_served: bool) -> ModelEntry:
    name = artifact.served_by.name if artifact.reports else "none"
    served = {runtime.name: runtime for runtime in runtimes() if runtime.served and runtime.source == "onnx"}
    if name not in served:
        raise RepositoryError(
            f"runtime of {artifact.file}",
            got=name,
            expected=f"one of {', '.join(served)}",
            next_step="Export again for one of these.",
        )
    return ModelEntry(
        export=manifest.model.name,
        version=manifest.model_version,
        is_served=is_served,
        artifact=artifact,
        runtime=served[name],
        max_batch=manifest.max_batch,
    )


def _engine_entry(artifact: Artifact, runtime: Runtime, manifest: Manifest, *, is_served: bool) -> ModelEntry:
    engines = packable_engines(artifact, runtime)
    for engine in engines:
        _check_engine(engine, artifact, manifest.max_batch)
    return ModelEntry(
        export=manifest.model.name,
        version=manifest.model_version,
        is_served=is_served,
        artifact=artifact,
        runtime=runtime,
        max_batch=min(manifest.max_batch, *(engine.passport.profile.max for engine in engines)),
        engines=plan_names(engines),
    )


def _check_engine(engine: Engine, artifact: Artifact, max_batch: int) -> None:
    passport = engine.passport
    for subject, is_wrong, got, expected in (
        (
            "profile",
            passport.profile.min > 1 or passport.profile.max > max_batch,
            str(passport.profile),
            f"from 1 to at most {max_batch} images, the largest batch that was checked",
        ),
        (
            "precision",
            passport.precision != artifact.precision,
            passport.precision,
            f"{artifact.precision}, as the file it was built from",
        ),
        (
            "compute capability",
            not (passport.compute_capability or passport.cpu),
            "no compute capability",
            "that of the GPU it was built on",
        ),
    ):
        if is_wrong:
            raise RepositoryError(
                f"{subject} of {engine.file}", got=got, expected=expected, next_step="Build the engine again."
            )
