"""Will this engine load there? Answered from its passport, before anything starts.

An engine loads with the version of TensorRT that built it, on the model of GPU that it was built on, unless
it was built to be compatible with more
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/version-compatibility.html,
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/hardware-compatibility.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_model.errors import EngineRefused
from alexnet_model.gpus import Gpu, version_tuple
from alexnet_model.manifest import Engine, Manifest
from alexnet_model.passport import Passport
from alexnet_model.triton_image import MINIMUM_DRIVER


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where engines would load: a TensorRT version, and one of its GPUs."""

    tensorrt_version: str
    gpu: Gpu

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt_version} on {self.gpu}"


def reason_to_refuse(passport: Passport, place: Place) -> str:
    """Why the engine does not load there, in words; empty if it loads."""
    if passport.flavour != "tensorrt":
        return "Triton has no backend for TensorRT-RTX engines"
    if version_tuple(place.gpu.driver) < version_tuple(MINIMUM_DRIVER):
        return f"driver {place.gpu.driver} is too old, at least {MINIMUM_DRIVER} is needed"
    return _other_version(passport, place) or _other_gpu(passport, place.gpu)


def engine_for(engines: Sequence[Engine], place: Place) -> Engine | None:
    """The first engine that loads there."""
    return next((e for e in engines if not reason_to_refuse(e.passport, place)), None)


def check_engines(manifest: Manifest, repository: Path, places: Sequence[Place]) -> None:
    """Every served precision needs an engine for every GPU, or the server would not start.

    Raises:
        EngineRefused: one has none; the message says what its engines were built for, what is here, and the
            command that builds one for here.
    """
    for artifact in manifest.accepted:
        engines = [engine for engine in artifact.engines if engine.accepted]
        for place in places if engines else ():
            if engine_for(engines, place) is None:
                raise EngineRefused(
                    f"{repository}: {artifact.precision} engine",
                    got=f"one built for {engines[0].passport.built_for}",
                    expected=f"one for {place} ({reason_to_refuse(engines[0].passport, place)})",
                    next_step=f"Build it: {rebuild_command(repository)}",
                )


def rebuild_command(repository: Path) -> str:
    """What builds the engines of a repository anew, for this machine, from the ONNX files inside it."""
    return f"alexnet export {repository} --engine docker --repository {repository}"


def _other_version(passport: Passport, place: Place) -> str:
    built, here = version_tuple(passport.tensorrt_version), version_tuple(place.tensorrt_version)
    if built == here:
        return ""
    if not passport.version_compatible:
        return f"TensorRT {place.tensorrt_version} loads only its own engines"
    if built > here:
        return f"a version-compatible engine needs TensorRT {passport.tensorrt_version} or newer"
    if here[0] - built[0] > 1:
        return "version compatibility reaches the next major version at most"
    return ""


def _other_gpu(passport: Passport, gpu: Gpu) -> str:
    same_capability = passport.compute_capability == gpu.compute_capability
    if passport.hardware_compatibility == "ampere-plus":
        return "" if version_tuple(gpu.compute_capability) >= (8, 0) else "it needs an Ampere GPU or newer"
    if passport.hardware_compatibility == "same-compute-capability":
        return "" if same_capability else f"it needs compute capability {passport.compute_capability}"
    if same_capability and passport.gpu_name == gpu.name:
        return ""
    return f"it runs on {passport.gpu_name} alone"
