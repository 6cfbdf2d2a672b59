"""How a repository is laid out and tuned: names and options, light to import."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from alexnet_model.contract import canonical_json
from alexnet_model.errors import UsageError
from alexnet_model.manifest import MANIFEST_NAME, PRECISIONS, Precision
from alexnet_model.passport import ENGINE_SUFFIX

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MODEL_FILE = "model.onnx"
VERSION = "1"  # of every model: a new export replaces the repository as a whole
# In the version's folder of a model without a file of its own: git and object stores keep no empty folder,
# and without one Triton loads no model.
NOTE_FILE = "README.md"
ENSEMBLE_MODEL = "alexnet"  # encoded images in, classes out
DECODING_MODEL = "alexnet_decode"  # its first half

MOST_INSTANCES = 16  # of a model; each holds its weights anew

Backend = Literal["onnx", "tensorrt"]


def model_name(precision: Precision) -> str:
    return f"alexnet_{precision}"


OUR_MODELS = frozenset({*map(model_name, PRECISIONS), ENSEMBLE_MODEL, DECODING_MODEL})


def is_repository(folder: Path) -> bool:
    """Whether this is a model repository of ours; an export's folder has no folders of models."""
    return (folder / MANIFEST_NAME).is_file() and any((folder / name).is_dir() for name in OUR_MODELS)


def holds_engines(repository: Path) -> bool:
    """Whether any of its models has one."""
    return any(repository.glob(f"*/{VERSION}/*{ENGINE_SUFFIX}"))


def holds_encoded(repository: Path) -> bool:
    """Whether it has the models that take encoded images, or one of them."""
    return any((repository / name).is_dir() for name in (ENSEMBLE_MODEL, DECODING_MODEL))


@dataclass(frozen=True, kw_only=True)
class RepositoryOptions:
    """What runs the models, and how requests wait for them; 0 stands for no limit.

    `backend`: "onnx" serves each ONNX file by the runtime that it was judged on, "tensorrt" the engines that
    were built from it.

    With a limit, a full queue refuses at once, and a request that waited too long is refused instead of
    answered late. None leaves the limit to the backend: for an engine as many requests wait as four full
    batches of single images, at most a second; the others have no limit, because of what one costs on the
    Triton that serves them (docs/decisions/queue.md).

    `queue_delay_us` is how long Triton holds an incomplete batch back for more requests to join it.

    `instances` of each model run side by side, on every GPU or on the CPU; `max_batch` images at most are
    computed together, None for as many as were proved. `alexnet tune` measures which serve best.

    `encoded`: whether `alexnet` is there too, which takes encoded images. Decoding needs the image that has
    our backends, so None means: where a model needs that image anyway (docs/decisions/encoded-images.md).
    """

    backend: Backend = "onnx"
    queue_size: int | None = None  # requests, of one image or of a full batch
    queue_timeout_s: float | None = None
    queue_delay_us: int = 0
    instances: int = 1
    max_batch: int | None = None
    encoded: bool | None = None

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise UsageError("backend", got=repr(self.backend), expected=" or ".join(get_args(Backend)))
        if self.queue_size is not None and not 0 <= self.queue_size <= 1_000_000:
            raise UsageError(
                "queue size", got=str(self.queue_size), expected="0 (no limit) to 1,000,000 requests"
            )
        if self.queue_timeout_s is not None and not 0 <= self.queue_timeout_s <= 3600:
            raise UsageError("queue timeout", got=f"{self.queue_timeout_s:g} s", expected="0 to 3600 s")
        if not 0 <= self.queue_delay_us <= 1_000_000:
            raise UsageError("queue delay", got=f"{self.queue_delay_us} us", expected="0 to 1,000,000 us")
        if not 1 <= self.instances <= MOST_INSTANCES:
            raise UsageError("instances", got=str(self.instances), expected=f"1 to {MOST_INSTANCES}")
        if self.max_batch is not None and self.max_batch < 1:
            raise UsageError("largest batch", got=str(self.max_batch), expected="1 or more")

    def to_json(self) -> str:
        """Canonical JSON, recorded in every `config.pbtxt` that is written with these options."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RepositoryOptions:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not JSON, or not what these options would have written.
        """
        values: Any = json.loads(text)
        expected = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != expected:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"options are {sorted(expected)}, got {got}")
        counted = ("queue_size", "queue_delay_us", "instances", "max_batch")
        whole = [values[name] for name in counted if values[name] is not None]
        if not all(type(value) is int for value in whole):
            raise ValueError(f"{', '.join(counted)} are whole numbers, got {whole}")
        if type(values["encoded"]) not in (bool, type(None)):
            raise ValueError(f"encoded is true, false or null, got {values['encoded']!r}")
        try:
            return cls(**values)
        except (UsageError, TypeError) as error:
            raise ValueError(str(error)) from error
