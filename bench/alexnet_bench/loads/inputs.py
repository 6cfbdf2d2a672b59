"""What is asked: random tensors as a model's configuration wants them, of any model that speaks KServe v2."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_clients import BYTES, DTYPES, InferRequest, ModelConfig, TensorSpec
from alexnet_model.contract import ENCODED_INPUT_NAME, Contract
from alexnet_model.errors import UsageError

Shapes = Mapping[str, tuple[int, ...]]
# So many images in small requests, so many requests of large ones, in no more memory than this.
_IMAGES = 64
_FEWEST_REQUESTS = 4
_MOST_BYTES = 256 * 2**20
# A JPEG of about 48 kB, as photographs of ImageNet have on average.
_IMAGE_SIZE = (469, 384)
_IMAGE_DETAIL = (88, 72)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which requests a load consists of. Small: every process makes the same ones from it."""

    model: str
    batch: int
    inputs: Mapping[str, TensorSpec]  # every dimension known
    outputs: tuple[str, ...]
    has_batch_axis: bool = True
    probabilities: str = ""  # the output whose numbers are known to repeat; none of a foreign model

    @property
    def distinct(self) -> int:
        """How many requests there are until they come round again, so that no cache holds them ready."""
        wanted = max(_FEWEST_REQUESTS, _IMAGES // self.batch)
        return max(1, min(wanted, _MOST_BYTES // max(self._bytes_of_request(), 1)))

    def requests(self) -> list[InferRequest]:
        """All of them, in order."""
        return [self._request(number) for number in range(self.distinct)]

    def _request(self, number: int) -> InferRequest:
        random = np.random.default_rng(number)
        tensors = {name: self._tensor(spec, random) for name, spec in self.inputs.items()}
        return InferRequest(model=self.model, inputs=tensors, outputs=self.outputs)

    def _tensor(self, spec: TensorSpec, random: np.random.Generator) -> npt.NDArray[Any]:
        shape = (self.batch, *spec.shape) if self.has_batch_axis else spec.shape
        if spec.datatype == BYTES:
            images = [encoded_image(random) for _ in range(prod(shape))]
            return np.array(images, dtype=np.object_).reshape(shape)  # (N, 1)
        return _numbers(DTYPES[spec.datatype], shape, random)

    def _bytes_of_request(self) -> int:
        rows = self.batch if self.has_batch_axis else 1
        numbers = [spec for spec in self.inputs.values() if spec.datatype != BYTES]
        return rows * sum(prod(spec.shape) * DTYPES[spec.datatype].itemsize for spec in numbers)


def asked_from_config(config: ModelConfig, batch: int, shapes: Shapes | None = None) -> Asked:
    """What to ask of a model. `shapes` are of inputs that leave some open, without the batch axis.

    Raises:
        UsageError: a batch that the model does not take, or an input that cannot be made up.
    """
    shapes = shapes or {}
    most = max(config.max_batch, 1)
    if not 1 <= batch <= most:
        expected = f"1 to {most}" if most > 1 else "1: the model takes no batches"
        raise UsageError(f"batch for {config.name}", got=str(batch), expected=expected)
    contract = Contract()
    is_ours = "contract_digest" in config.parameters
    takes_encoded = is_ours and ENCODED_INPUT_NAME in config.inputs
    classifies = is_ours and contract.probabilities_name in config.outputs
    return Asked(
        model=config.name,
        batch=batch,
        inputs={
            name: spec if takes_encoded else _known(config.name, name, spec, shapes.get(name))
            for name, spec in config.inputs.items()
        },
        outputs=(contract.probabilities_name,) if classifies else tuple(config.outputs),
        has_batch_axis=config.max_batch > 0,
        probabilities=contract.probabilities_name if classifies else "",
    )


def encoded_image(random: np.random.Generator) -> bytes:
    """A JPEG with as much in it as a photograph."""
    width, height = _IMAGE_DETAIL
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(_IMAGE_SIZE, Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=75)
    return encoded.getvalue()


def _known(model: str, name: str, spec: TensorSpec, shape: tuple[int, ...] | None) -> TensorSpec:
    """The input with every dimension known."""
    subject = f"{model}: input {name}"
    if spec.datatype not in DTYPES:
        raise UsageError(subject, got=spec.datatype, expected=f"numbers: {', '.join(DTYPES)}")
    if shape is None:
        if min(spec.shape, default=1) < 0:
            written = ",".join(map(str, spec.shape))
            raise UsageError(
                subject,
                got=f"the open shape {written}",
                expected="a number for each dimension",
                next_step=f"Choose them, without the batch: --shape {name}:{written.replace('-1', 'N')}",
            )
        return spec
    fits = len(shape) == len(spec.shape) and all(
        given == wanted if wanted >= 0 else given > 0 for given, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise UsageError(subject, got=f"shape {shape}", expected=f"{spec.shape}, -1 being any number")
    return TensorSpec(datatype=spec.datatype, shape=shape)


def _numbers(dtype: np.dtype[Any], shape: tuple[int, ...], random: np.random.Generator) -> npt.NDArray[Any]:
    """Pixels take all values; other whole numbers are 0 or 1, which every index and mask may be."""
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    return random.integers(0, 256 if dtype == np.uint8 else 2, shape, dtype=np.uint8).astype(dtype)
