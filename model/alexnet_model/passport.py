"""An engine's passport: what it was built from, with which library, and for which GPUs or CPU.

It decides where the engine loads. It is a file beside the engine, and a part of the manifest. It is not a
header of the engine's file, which Triton could not read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from .contract import canonical_json
from .errors import EngineError
from .files import write_text_atomically
from .records import Precision, Record, record_from_file
from .runtimes import RuntimeName, engine_suffixes, runtime_named

HardwareCompatibility = Literal["none", "same-compute-capability", "ampere-plus"]
PASSPORT_SUFFIX = ".passport.json"


class Profile(Record):
    """The batches that an engine takes, `min` to `max`; it is tuned for `opt`."""

    min: int
    opt: int
    max: int

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"a profile has 1 <= min <= opt <= max, got {self}")
        return self

    def __str__(self) -> str:
        return f"{self.min},{self.opt},{self.max}"


class Passport(Record):
    """What decides whether an engine loads, and the hashes of the engine and its ONNX file."""

    schema_version: Literal[3] = 3
    runtime: RuntimeName = Field(description="that loads it, such as tensorrt")
    runtime_version: str = Field(description="of the library that built it, such as 11.1.0.106")
    precision: Precision
    profile: Profile
    onnx_sha256: str = Field(description="of the ONNX file it was built from")
    engine_sha256: str
    engine_size_bytes: int
    gpu_name: str | None = Field(description="that it was built on; None if it was built without one")
    compute_capability: str | None = Field(description="of that GPU, such as 9.0")
    cpu: str | None = Field(default=None, description="the processor, if it is for one and not for a GPU")
    cpu_extensions: tuple[str, ...] = Field(
        default=(), description="instruction sets of that processor, such as avx2"
    )
    targets: tuple[str, ...] = Field(default=(), description="GPUs that TensorRT-RTX built for, such as sm89")
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    driver: str | None = None
    cuda: str | None = Field(default=None, description="the newest version that the driver supports")
    image: str | None = Field(default=None, description="the container image that it was built in")
    image_digest: str | None = None
    layer_precisions: dict[str, int] | None = Field(
        default=None, description="heavy layers by type, from the engine inspector; None if it was not run"
    )
    autotuned: bool | None = Field(
        default=None, description="whether AOTInductor measured its kernels; None for other runtimes"
    )
    build_seconds: float
    built_at: str

    @field_validator("runtime")
    @classmethod
    def _loads_engines(cls, name: str) -> str:
        if not runtime_named(name).bound_to_machine:
            raise ValueError(f"runtime {name} loads no engines")
        return name

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON, which shows whether the passport was edited."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()

    def checked_batch(self, batch: int, engine: Path) -> int:
        """Return the batch if the engine was built for it.

        Args:
            batch: How many images.
            engine: The engine's file, for the message.

        Raises:
            EngineError: it is larger than the profile's largest.
        """
        if batch > self.profile.max:
            raise EngineError(
                str(engine),
                got=f"a batch of {batch}",
                expected=f"at most {self.profile.max}, which it was built for",
                next_step="Build it for larger batches: --profile",
            )
        return batch

    @property
    def built_for(self) -> str:
        """Runtime, version, and GPU or CPU, for messages."""
        where = ", ".join(self.targets) or self.cpu or f"{self.gpu_name} ({self.compute_capability})"
        return f"{runtime_named(self.runtime).title} {self.runtime_version} on {where}"


def passport_path(engine: Path) -> Path:
    """Return the path of an engine's passport: `model.passport.json` beside `model.plan`."""
    known = engine.suffix in engine_suffixes()
    return engine.with_name((engine.stem if known else engine.name) + PASSPORT_SUFFIX)


def write_passport(passport: Passport, engine: Path) -> Path:
    """Write a passport beside its engine and return its path.

    Raises:
        OSError: the folder cannot be written.
    """
    path = passport_path(engine)
    write_text_atomically(path, passport.model_dump_json(indent=2) + "\n")
    return path


def passport_of(engine: Path) -> Passport:
    """Read the passport beside an engine, without checking that it belongs to it (see `verify_engine`).

    Raises:
        ManifestError: it is missing, broken or of another schema.
    """
    return record_from_file(
        Passport, passport_path(engine), what=f"the passport of {engine.name}", make="Build the engine again."
    )
