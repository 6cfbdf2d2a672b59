"""`export_model`: everything that `alexnet export` does, as one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alexnet_export import (
    EngineOptions,
    OnnxOptions,
    Refusal,
    Tolerances,
    build_engines,
    builders_from,
    data_trained_on,
    engine_file_name,
    export_onnx,
    refusals_of,
    refuse_foreign_export,
)
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Contract
from alexnet_model.errors import UsageError
from alexnet_model.factories import Option
from alexnet_model.files import atomic_directory
from alexnet_model.manifest import Manifest, manifest_from_folder
from alexnet_model.passport import HardwareCompatibility, Profile
from alexnet_model.pretrained import WeightsOptions, checkpoint_from
from alexnet_model.progress import Progress, silent
from alexnet_model.records import Precision
from alexnet_model.runtimes import Runtime, runtime_named, runtimes
from alexnet_serving import (
    RepositoryOptions,
    is_repository,
    refuse_foreign_repository,
    targets_of_image,
    unpack_repository,
    write_repository,
)

from .repository_engines import unpacked_export

if TYPE_CHECKING:
    from torch import nn

DEFAULT_RUNTIME = "openvino"
DEFAULT_MAX_BATCH = 64
DEFAULT_FOLDER = Path("build/export")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `export_model`; they are those of `alexnet export`.

    Attributes:
        architecture: The network: a name such as `alexnet`, or `package.module:factory`. None: that of the
            checkpoint; for other weights, `alexnet`.
        architecture_options: Other arguments of the network's factory, such as `{"width": 0.25}`.
        key: The key of the state dict in a file that holds several. None: the first that fits.
        classes: The class names, a file of them, or `imagenet`. None: those of the checkpoint, the class
            folders of `calibration` or `evaluation`, or `class_0` and so on.
        contract: How images are prepared. None: that of the checkpoint, or ImageNet's.
        precisions: Precisions to export, or to build engines for. None: all; INT8 only with
            calibration images.
        calibration: `digits` or a folder of images, from whose training part the INT8 scales are computed.
            None: the data that the checkpoint was trained on, if it can be read here.
        evaluation: `digits` or a folder of images, on whose held-out part the gate measures. None: the
            held-out part of `calibration`.
        max_batch: Largest batch to check and to serve. None: 64.
        tolerances: What a precision may lose. None: the defaults of `Tolerances`.
        runtime: What runs the models: a runtime that Triton serves, or one that engines are built for. None:
            `openvino` for a checkpoint; for an earlier export, the runtime it was exported for.
        build: Where engines are built: with the library `here`, or with `trtexec` of Triton's image in
            `docker`, whose version is that of the server.
        targets: GPUs that TensorRT-RTX builds for, such as `sm89`. Empty: those of this machine.
        profile: Batches of an engine. None: 1 to `max_batch`, tuned for 8.
        hardware_compatibility: Other GPUs that an engine must load on; costs speed.
        version_compatible: Whether an engine must load in later versions of TensorRT; costs speed.
        queue_size: Requests that may wait for a model; 0 is no limit. None: four times the largest batch for
            engines, no limit for other runtimes.
        encoded: Whether to add the model `alexnet`, which takes encoded images. None: where OpenVINO serves.
        out: Folder for ONNX files, engines and `export.json`. None: `build/export` for a checkpoint; for an
            earlier export, that export's folder; for a repository, a temporary folder.
        repository: The model repository to write.
    """

    architecture: str | None = None
    architecture_options: Mapping[str, Option] = field(default_factory=dict)
    key: str | None = None
    classes: str | Path | Sequence[str] | None = None
    contract: Contract | None = None
    precisions: tuple[Precision, ...] | None = None
    calibration: str | None = None
    evaluation: str | None = None
    max_batch: int | None = None
    tolerances: Tolerances | None = None
    runtime: str | None = None
    build: Literal["here", "docker"] = "here"
    targets: tuple[str, ...] = ()
    profile: Profile | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    queue_size: int | None = None
    encoded: bool | None = None
    out: Path | None = None
    repository: Path = Path("model_repository")

    def __post_init__(self) -> None:
        offered = [runtime.name for runtime in runtimes() if runtime.served or runtime.builder]
        if self.runtime is not None and self.runtime not in offered:
            raise UsageError("runtime", got=repr(self.runtime), expected=f"one of {', '.join(offered)}")
        for_engines = {
            "build": self.build != "here",
            "target": self.targets,
            "profile": self.profile,
            "hardware compatibility": self.hardware_compatibility != "none",
            "version compatible": self.version_compatible,
        }
        given = next((name for name, value in for_engines.items() if value), None)
        if given and self.engine_options is None:
            raise UsageError(
                given,
                got=f"the runtime {self.runtime or DEFAULT_RUNTIME}, which builds no engine",
                expected="a runtime that builds engines",
                next_step="Add --runtime tensorrt or --runtime tensorrt-rtx.",
            )
        # They raise UsageError now, and not after the checkpoint was loaded.
        OnnxOptions(precisions=self.precisions, max_batch=self.max_batch_or_default)
        assert self.repository_options

    @property
    def weights_options(self) -> WeightsOptions:
        """What a file of weights does not say about its network."""
        return WeightsOptions(
            architecture=self.architecture,
            options=self.architecture_options,
            key=self.key,
            classes=self.classes,
            datasets=tuple(filter(None, (self.calibration, self.evaluation))),
            contract=self.contract,
        )

    @property
    def max_batch_or_default(self) -> int:
        """The largest batch for a checkpoint."""
        return DEFAULT_MAX_BATCH if self.max_batch is None else self.max_batch

    @property
    def engine_runtime(self) -> Runtime | None:
        """The runtime that engines are built for; None if no engine is built."""
        runtime = runtime_named(self.runtime) if self.runtime else None
        return runtime if runtime and runtime.builder else None

    @property
    def engine_options(self) -> EngineOptions | None:
        """How engines are built; None if no engine is built."""
        if self.engine_runtime is None:
            return None
        return EngineOptions(
            runtime=self.engine_runtime.name,
            build=self.build,
            profile=self.profile,
            targets=self.targets,
            hardware_compatibility=self.hardware_compatibility,
            version_compatible=self.version_compatible,
        )

    @property
    def repository_options(self) -> RepositoryOptions:
        """How the repository is written."""
        return RepositoryOptions(
            runtime=self.runtime if self.serves_engines else None,
            queue_size=self.queue_size,
            queue_timeout_s=0.0 if self.queue_size == 0 else None,  # no limit in time either
            encoded=self.encoded,
        )

    @property
    def serves_engines(self) -> bool:
        """Whether Triton serves the engines that are built, instead of the ONNX files."""
        return self.engine_runtime is not None and self.engine_runtime.served


@dataclass(frozen=True)
class ExportResult:
    """What `export_model` made.

    Attributes:
        manifest: The record of the export.
        folder: The folder with the ONNX files and engines; None if it was temporary.
        repository: The model repository that was written.
        models: The names of the models in it.
        refused: What the gate refused. It is not in the repository.
        notes: Sentences about what was chosen or converted in the weights.
        left_out: Why engines of the repository that was exported from were not taken along.
        next_command: The command that serves the repository.
    """

    manifest: Manifest
    folder: Path | None
    repository: Path
    models: tuple[str, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    next_command: str


def export_model(
    source: str | Path | Checkpoint | nn.Module,
    options: ExportOptions | None = None,
    *,
    progress: Progress = silent,
    on_checked: Callable[[Manifest], None] = lambda _: None,
) -> ExportResult:
    """Export a network to ONNX files, check them by the gate, build engines, and write a model repository.

    Invalid options, folders with other files, and a missing GPU or image are found before any slow work
    starts. The repository and the export folder are replaced as a whole.

        result = export_model("checkpoint.safetensors", ExportOptions(calibration="digits"))
        print(result.models)
        export_model(module, ExportOptions(classes=("cat", "dog"), calibration="images"))

    Args:
        source: A network, a file of weights or a checkpoint (`alexnet_model.checkpoint_from` lists the
            formats), `imagenet` (downloads weights), or the folder of an earlier export or of a repository,
            whose ONNX files are used again.
        options: How to export. None: the defaults.
        progress: Called with the progress of each stage.
        on_checked: Called with the record when the gate has decided, before the repository is written.

    Raises:
        UsageError: options are invalid, or do not go with this source.
        CheckpointError, DatasetError, CalibrationError: weights or images cannot be used.
        ExportError: a conversion failed, or `out` holds files that no export wrote.
        EngineError, DockerError, MissingExtra: engines cannot be built here.
        ManifestError: files of the earlier export are missing or altered.
        RepositoryError: the gate accepted nothing, or the repository cannot be written.
        EngineRefused: the server on this machine would not load an engine.
        OSError: a folder cannot be written.
    """
    options = options or ExportOptions()
    notes: list[str] = []
    left_out: list[str] = []
    with ExitStack() as opened:
        earlier = Path(source) if isinstance(source, str | Path) and Path(source).is_dir() else None
        if earlier is not None:
            _check_earlier(earlier, options)
        unpacked = earlier is not None and is_repository(earlier)
        folder = options.out if unpacked else earlier or options.out or DEFAULT_FOLDER
        if folder is not None:
            _check_apart(folder, options.repository)
        if folder is not None and folder != earlier:
            refuse_foreign_export(folder)
        refuse_foreign_repository(options.repository)
        engine_options = options.engine_options
        if engine_options:
            max_batch = manifest_from_folder(earlier).max_batch if earlier else options.max_batch_or_default
            engine_options.profile_to(max_batch)
        builders = builders_from(engine_options) if engine_options else ()

        if earlier is None:
            assert folder is not None
            checkpoint = checkpoint_from(source, options.weights_options, note=notes.append)
            manifest = export_onnx(checkpoint, folder, _onnx_options(checkpoint, options), progress=progress)
        elif unpacked and folder is not None:
            with atomic_directory(folder) as staged:
                unpack_repository(earlier, staged, left_out=lambda error: left_out.append(str(error)))
        elif unpacked:
            temporary = unpacked_export(earlier, left_out=lambda error: left_out.append(str(error)))
            folder = opened.enter_context(temporary)
        assert folder is not None
        if engine_options:
            manifest = build_engines(
                folder, engine_options, precisions=options.precisions, builders=builders, progress=progress
            )
        elif earlier is not None:
            manifest = manifest_from_folder(folder)
        on_checked(manifest)

        models = write_repository(
            manifest,
            folder,
            options.repository,
            options.repository_options,
            targets=targets_of_image() if options.serves_engines else (),
        )
        built = {engine_file_name(a, builder) for a in manifest.artifacts for builder in builders}
        return ExportResult(
            manifest=manifest,
            folder=None if unpacked and options.out is None else folder,
            repository=options.repository,
            models=models,
            refused=refusals_of(manifest, built),
            notes=tuple(notes),
            left_out=tuple(left_out),
            next_command=f"alexnet serve --repository {options.repository}",
        )


def _onnx_options(checkpoint: Checkpoint, options: ExportOptions) -> OnnxOptions:
    """The ONNX files of an engine are measured and recorded on the default runtime."""
    engines = options.engine_runtime is not None
    return OnnxOptions(
        precisions=options.precisions,
        calibration=options.calibration or data_trained_on(checkpoint),
        evaluation=options.evaluation,
        max_batch=options.max_batch_or_default,
        runtime=DEFAULT_RUNTIME if engines or options.runtime is None else options.runtime,
        tolerances=options.tolerances or Tolerances(),
    )


def _check_earlier(folder: Path, options: ExportOptions) -> None:
    """Refuse options that do not go with the folder of an earlier export or of a repository.

    Raises:
        UsageError: an option is for checkpoints only, the export is for another runtime, or engines that
            Triton does not serve have no folder to stay in.
        ManifestError: the folder holds no export.
    """
    for_checkpoints = {
        "architecture": options.architecture,
        "architecture options": options.architecture_options or None,
        "key": options.key,
        "classes": options.classes,
        "contract": options.contract,
        "calibration": options.calibration,
        "evaluation": options.evaluation,
        "max batch": options.max_batch,
        "max top-1 drop": options.tolerances,
    }
    for name, value in for_checkpoints.items():
        if value is not None:
            raise UsageError(
                name,
                got=f"the folder {folder}, which is exported already",
                expected="a checkpoint to export",
                next_step="Leave this option out, or pass the checkpoint.",
            )
    exported_for = {artifact.served_by.name for artifact in manifest_from_folder(folder).artifacts}
    engines = options.engine_runtime
    if engines is None and options.runtime is not None and exported_for != {options.runtime}:
        raise UsageError(
            f"runtime {options.runtime}",
            got=f"an export for {', '.join(sorted(exported_for))}",
            expected=f"one that the gate checked on {options.runtime}",
            next_step=f"Pass the checkpoint, to export for {options.runtime}.",
        )
    if engines is not None and not engines.served and options.out is None and is_repository(folder):
        raise UsageError(
            "out",
            got=f"none, with the repository {folder}",
            expected="a folder for the engines, which Triton does not serve",
            next_step=f"Add --out {DEFAULT_FOLDER}.",
        )


def _check_apart(out: Path, repository: Path) -> None:
    one, other = out.resolve(), repository.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(
            "out and repository",
            got=f"{out} and {repository}",
            expected="two folders, neither inside the other",
        )
