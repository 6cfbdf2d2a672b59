"""Run a trained network in this process, from its checkpoint or its export: no server is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_export import Runner, runner_from_artifact
from alexnet_model.contract import Contract
from alexnet_model.errors import UsageError
from alexnet_model.manifest import manifest_from_folder
from alexnet_model.records import Precision
from alexnet_serving import is_repository

from .repository_engines import unpacked_export

if TYPE_CHECKING:
    from alexnet_model.pretrained import WeightsOptions


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A loaded network.

    Attributes:
        name: What results call it: the checkpoint's path, or a name such as `alexnet_int8`.
        contract: How images are prepared for `runner.infer`.
        class_names: The classes, in the order of the outputs.
        runner: Computes the outputs of prepared images.
        sha256: Hex SHA-256 of the ONNX file of an export; empty for a checkpoint.
    """

    name: str
    contract: Contract
    class_names: tuple[str, ...]
    runner: Runner
    sha256: str = ""


@contextmanager
def model_from_checkpoint(path: Path, options: WeightsOptions | None = None) -> Iterator[LocalModel]:
    """Load a checkpoint, or weights of another program, in PyTorch on the CPU.

    Args:
        path: The file.
        options: What the file does not say. None: the defaults.

    Raises:
        CheckpointError: the file is missing, broken, altered, or does not fit its architecture.
        UsageError: the network cannot be built, or class names do not go with the weights.
    """
    from alexnet_export import TorchRunner
    from alexnet_model.pretrained import checkpoint_from  # with PyTorch, which an export does not need

    checkpoint = checkpoint_from(path, options)
    with TorchRunner(checkpoint) as runner:
        yield LocalModel(
            name=str(path),
            contract=checkpoint.contract,
            class_names=checkpoint.class_names,
            runner=runner,
        )


@contextmanager
def model_from_export(
    folder: Path, *, precision: Precision | None = None, name: str | None = None
) -> Iterator[LocalModel]:
    """Load the ONNX file of an export in the runtime that serves it, on the CPU.

    Args:
        folder: The folder of an export, or a model repository.
        precision: One that the gate accepted; None: the most precise one.
        name: Which export of a repository; None: its only one.

    Raises:
        UsageError: the gate did not accept that precision, or the export has another name.
        ManifestError: the folder holds no export, or a file is missing or altered.
        MissingExtra: the runtime is not installed.
    """
    with ExitStack() as opened:
        if is_repository(folder):
            folder = opened.enter_context(unpacked_export(folder, name))
        manifest = manifest_from_folder(folder)
        if name not in (None, manifest.model.name):
            raise UsageError("--name", got=f"{name}", expected=f"{manifest.model.name}, as it was exported")
        accepted = {artifact.precision: artifact for artifact in manifest.accepted}
        if not accepted or precision not in (None, *accepted):
            raise UsageError(
                f"precision {precision or ''}".rstrip(),
                got=f"an export whose gate accepted {', '.join(accepted) or 'none'}",
                expected="a precision that it accepted",
            )
        artifact = accepted[precision] if precision else manifest.accepted[0]
        runner = opened.enter_context(runner_from_artifact(artifact, folder))
        yield LocalModel(
            name=f"{manifest.model.name}_{artifact.precision}",
            contract=manifest.contract,
            class_names=manifest.model.class_names,
            runner=runner,
            sha256=artifact.sha256,
        )
