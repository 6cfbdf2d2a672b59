"""`ExportOptions`: the options of `export_model`, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from alexnet_export import EngineOptions, OnnxOptions, Tolerances
from alexnet_model.contract import Contract
from alexnet_model.errors import UsageError
from alexnet_model.factories import Option
from alexnet_model.passport import HardwareCompatibility, Profile
from alexnet_model.pretrained import WeightsOptions
from alexnet_model.records import Precision
from alexnet_model.runtimes import Runtime, runtime_named, runtimes
from alexnet_model.triton_image import TRITON_IMAGE
from alexnet_serving import RepositoryOptions

DEFAULT_RUNTIME = "openvino"
DEFAULT_MAX_BATCH = 64


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
        contract: How images are prepared, for weights that have no contract of their own; only
            checkpoints of `alexnet train` have one. None: that of the checkpoint, of a timm network's own
            configuration, or ImageNet's.
        precisions: Precisions to export, or to build engines for. None: all; INT8 only with
            calibration images.
        calibration: `digits` or a folder of images, from whose training part the INT8 scales are computed.
            None: the data that the checkpoint was trained on, if it can be read here.
        evaluation: `digits` or a folder of images, on whose test split the gate measures. None: the
            test split of `calibration`.
        max_batch: Largest batch to check and to serve. None: 64.
        tolerances: What a precision may lose. None: the defaults of `Tolerances`.
        runtime: What runs the models: a runtime that Triton serves, or one that engines are built for. None:
            `openvino` for a checkpoint, or on a machine with a GPU but neither Docker nor TensorRT the
            fastest of `aoti` and `onnxruntime`; for an earlier export, the runtime it was exported for.
        build: Where engines are built: with the library `here`, or with `trtexec` of Triton's image in
            `docker`, whose version is that of the server.
        image: The Docker image that will serve the models, and that builds with `build="docker"`. None: the
            pinned one.
        targets: GPUs that TensorRT-RTX builds for, such as `sm89`. Empty: those of this machine.
        profile: Batches of an engine. None: 1 to `max_batch`, tuned for 8.
        hardware_compatibility: Other GPUs that an engine must load on; costs speed.
        version_compatible: Whether an engine must load in later versions of TensorRT; costs speed.
        queue_size: Requests that may wait for a model; 0 is no limit. None: four times the largest batch for
            engines, no limit for other runtimes.
        encoded: Whether to add the model `alexnet`, which takes encoded images. None: where OpenVINO serves.
        out: Folder for ONNX files, engines and `export.json`. None: `build/export` for a checkpoint; for an
            earlier export, that export's folder; for a repository, a temporary folder.
        repository: The model repository to write. The export takes the place of the export of the same name
            with all its versions; if there is none, that of the only export that the repository holds.
        name: Name of the export, which the names of its models start with, such as `flowers_int8`. None: the
            architecture's name for a checkpoint; for an earlier export, its own name; for a repository, that
            of its only export.
        add: Whether to add the export, under a new name, to those that the repository holds.
        model_version: Version of the models, above all versions that the repository holds of this name. These
            stay, and `rollback` returns to them. None: 1 for a checkpoint; for an earlier export, its own.
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
    image: str | None = None
    targets: tuple[str, ...] = ()
    profile: Profile | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    queue_size: int | None = None
    encoded: bool | None = None
    out: Path | None = None
    repository: Path = Path("model_repository")
    name: str | None = None
    add: bool = False
    model_version: int | None = None

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
        OnnxOptions(
            precisions=self.precisions,
            max_batch=self.max_batch_or_default,
            name=self.name,
            model_version=self.model_version_or_default,
        )
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
    def model_version_or_default(self) -> int:
        """The version of the models of a checkpoint."""
        return 1 if self.model_version is None else self.model_version

    @property
    def image_or_default(self) -> str:
        """The Docker image that will serve the models."""
        return self.image or TRITON_IMAGE

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
            image=self.image_or_default,
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
