"""How an engine is built: for which runtime, batches and GPUs, and where."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from alexnet_model.errors import UsageError
from alexnet_model.gpus import Gpu
from alexnet_model.passport import HardwareCompatibility, Profile
from alexnet_model.runtimes import runtime_named, runtimes
from alexnet_model.triton_image import TRITON_IMAGE

OPT_BATCH = 8  # what dynamic batching mostly gathers under a moderate load


def cache_folder() -> Path:
    """Return the folder of timing caches: `$XDG_CACHE_HOME/alexnet-serving`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet-serving"


def timing_cache_name(runtime_name: str, version: str, gpu: Gpu) -> str:
    """Return a file name for each library version and GPU model: timings of others are useless."""
    model = re.sub(r"\W+", "-", gpu.name).strip("-").lower()
    return f"{runtime_name}-{version}-{gpu.target}-{model}.cache"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build engines.

    TensorRT builds for the GPU that it runs on; TensorRT-RTX can build for others, without a GPU.

    Attributes:
        runtime: A runtime that has engines, such as `tensorrt`.
        build: `here`, with the runtime's library; `docker`, with `trtexec` of the image that serves them.
        profile: Batches of the engine. None: 1 to the export's largest, tuned for 8.
        targets: GPUs that TensorRT-RTX builds for, such as `sm89`. Empty: those of this machine.
        hardware_compatibility: Other GPUs that the engine must load on; costs speed.
        version_compatible: Whether it must load in later versions of TensorRT; costs speed.
        image: The Triton image that will serve the engine, and that builds it with `build="docker"`.
        timing_caches: The folder of TensorRT's timing caches, which make later builds faster.
    """

    runtime: str
    build: Literal["here", "docker"] = "here"
    profile: Profile | None = None
    targets: tuple[str, ...] = ()
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    image: str = TRITON_IMAGE
    timing_caches: Path = field(default_factory=cache_folder)

    def __post_init__(self) -> None:
        buildable = [runtime.name for runtime in runtimes() if runtime.builder]
        if self.runtime not in buildable:
            raise UsageError("runtime", got=repr(self.runtime), expected=f"one of {', '.join(buildable)}")
        if self.build == "docker" and self.runtime != "tensorrt":
            raise UsageError(
                "build",
                got=f"docker with --runtime {self.runtime}",
                expected="here, since Triton's image builds TensorRT engines only",
            )
        if self.targets and self.runtime != "tensorrt-rtx":
            title = runtime_named(self.runtime).title
            raise UsageError(
                "target",
                got=f"{','.join(self.targets)} with --runtime {self.runtime}",
                expected=f"none, since {title} builds for the GPU of the machine it runs on",
                next_step="Use --runtime tensorrt-rtx, or build on a machine with that GPU.",
            )
        for target in self.targets:
            if not re.fullmatch(r"sm\d{2,3}", target):
                raise UsageError("target", got=repr(target), expected="names such as sm89")
        compatible = self.version_compatible or self.hardware_compatibility != "none"
        if self.runtime != "tensorrt" and compatible:
            is_rtx = self.runtime == "tensorrt-rtx"
            raise UsageError(
                "compatibility",
                got=f"a compatibility mode with --runtime {self.runtime}",
                expected=f"the default, since {'RTX' if is_rtx else 'its'} engines have no such modes",
                next_step="Build for several GPUs instead: --target sm89,sm120" if is_rtx else "",
            )

    def profile_to(self, max_batch: int) -> Profile:
        """Return the profile for a model that the gate checked up to `max_batch`.

        Raises:
            UsageError: the profile leaves out single images, or goes beyond what was checked.
        """
        if self.profile is None:
            return Profile(min=1, opt=min(OPT_BATCH, max_batch), max=max_batch)
        if self.profile.min != 1:
            raise UsageError(
                "profile",
                got=str(self.profile),
                expected="a min of 1",
                next_step="Triton sends a single image if no other is waiting.",
            )
        if self.profile.max > max_batch:
            raise UsageError(
                "profile",
                got=f"{self.profile} with a max batch of {max_batch}",
                expected=f"a max of at most {max_batch}",
                next_step=f"Export with --max-batch {self.profile.max}.",
            )
        return self.profile


def profile_from(text: str) -> Profile:
    """Parse a profile such as `1,8,64`.

    Raises:
        UsageError: it is not three whole numbers in order.
    """
    expected = "MIN,OPT,MAX, whole numbers with 1 <= MIN <= OPT <= MAX"
    try:
        low, middle, high = (int(part) for part in text.split(","))
        return Profile(min=low, opt=middle, max=high)
    except (ValueError, ValidationError) as error:
        raise UsageError("profile", got=text, expected=expected) from error


def targets_from(text: str | None) -> tuple[str, ...]:
    """Split GPUs such as `sm89,sm120`, each once; None gives none."""
    words = (text or "").lower().split(",")
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
