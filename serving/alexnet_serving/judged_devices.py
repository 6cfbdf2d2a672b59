"""Whether the gate judged ONNX files on the device that would compute them here."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from alexnet_model.errors import ManifestError
from alexnet_model.gpus import Gpu, gpus_here

from .engine_compatibility import gpus_are_hidden
from .repositories.backends import backends_of_repository, can_use_gpu
from .repositories.records import PackedExport, index_of, packed_exports

CPU = "CPU"  # as records name it


def devices_not_judged(repository: Path) -> tuple[str, ...]:
    """Return a sentence for each export and device here that serves its ONNX files and is not judged.

    Each has the command that judges it. Engines are built for one kind of device, and refused elsewhere.

    Args:
        repository: The repository. One that no export wrote has no record, and so no sentence.
    """
    with contextlib.suppress(ManifestError):
        if can_use_gpu(set(backends_of_repository(repository).values())):
            return tuple(_sentences(repository))
    return ()


def _sentences(repository: Path) -> Iterator[str]:
    gpus: tuple[Gpu, ...] = () if gpus_are_hidden() else gpus_here().gpus
    here = dict.fromkeys(gpu.name for gpu in gpus) or {CPU: None}
    several = len(index_of(repository).exports) > 1
    for packed in packed_exports(repository):
        for name in here:
            others = {
                entry.artifact.served_by.device: entry.runtime
                for entry in packed.entries
                if entry.is_served and not entry.engines and entry.artifact.served_by.device != name
            }
            for judged_on, runtime in others.items():
                yield (
                    f"{packed.manifest.model.name} was judged with {runtime.title} on "
                    f"{_in_words(judged_on)}, and not on {_in_words(name)}, which serves it here. "
                    f"To judge it: {_command(packed, runtime.name, repository, several=several)}"
                )


def _in_words(device: str) -> str:
    return "the CPU" if device == CPU else device


def _command(packed: PackedExport, runtime: str, repository: Path, *, several: bool) -> str:
    words = ["alexnet", "export", "CHECKPOINT", "--runtime", runtime, "--repository", str(repository)]
    return shlex.join([*words, *(["--name", packed.manifest.model.name] if several else [])])
