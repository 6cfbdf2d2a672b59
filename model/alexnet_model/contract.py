"""The input contract: how an image becomes what the model sees, and what the model answers.

Training, calibration, evaluation and the client all prepare images with
`Contract.prepared` and nothing else, and a SHA-256 digest of the contract travels in the checkpoint, the
ONNX metadata, the manifest and `config.pbtxt`, so that a client can refuse a server that expects otherwise.

The wire carries uint8 `(N, 224, 224, 3)`, RGB, NHWC: 150,528 bytes an image, a quarter of FP32. The cast,
the layout change and the mean/std normalisation are inside the exported graph (`classifier.py`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from .decoding import WHITE, BinaryFile, Colour, upright_from_encoded, upright_from_opened
from .errors import ImageError

Uint8Array: TypeAlias = npt.NDArray[np.uint8]
ImageInput: TypeAlias = str | Path | bytes | BinaryFile | Image.Image

# The input of a model that decodes on the server by this contract: one encoded image a row, BYTES `(N, 1)`.
ENCODED_INPUT_NAME = "encoded"


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything an image's preparation and the model's interface depend on; equal digests, equal pixels.

    The defaults are those of torchvision's ImageNet recipe: shorter side to 256 with an antialiased
    bilinear filter, centre crop 224, ImageNet's mean and standard deviation on pixels in 0..1.
    """

    version: int = 1
    input_name: str = "image"
    layout: str = "NHWC"
    dtype: str = "UINT8"
    colour: str = "RGB"
    resize: int = 256  # the shorter side after resizing, in pixels
    size: int = 224  # both sides after the centre crop, in pixels
    interpolation: str = "bilinear-antialias"
    background: Colour = WHITE  # under transparent pixels
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    probabilities_name: str = "probabilities"
    logits_name: str = "logits"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, 3)

    @property
    def image_bytes(self) -> int:
        return self.size * self.size * 3

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII."""
        return canonical_json(asdict(self))

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not JSON, or its fields are not this version's.
        """
        values: Any = json.loads(text)
        expected = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != expected:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"a contract has the fields {sorted(expected)}, got {got}")
        as_tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**as_tuples)

    def prepared(self, image: ImageInput) -> Uint8Array:
        """Decode, resize and crop one image to uint8 `(224, 224, 3)`.

        Only the pixels under the crop are resampled, so a very thin image costs no more than a square one.
        The result equals resizing the whole image and cropping it afterwards, to one level in 255.

        Raises:
            ImageError: the image cannot be read.
        """
        if isinstance(image, Image.Image):
            upright = upright_from_opened(image, background=self.background)
        else:
            upright = upright_from_encoded(image, background=self.background)
        resized = upright.resize(
            (self.size, self.size), Image.Resampling.BILINEAR, box=self._crop_box(upright)
        )
        return np.array(resized.convert("RGB"), dtype=np.uint8)  # (224, 224, 3)

    def checked(self, images: npt.NDArray[Any]) -> Uint8Array:
        """Return prepared arrays as a C-contiguous batch `(N, 224, 224, 3)`; one image gets its axis.

        Raises:
            ImageError: the shape, layout or dtype is not the contract's.
        """
        if images.dtype != np.uint8:
            raise self._wrong(images, "Pass pixels 0..255 as uint8; the model normalises them itself.")
        batch = images[None] if images.shape == self.image_shape else images
        if batch.ndim == 4 and batch.shape[1:] == self.image_shape and len(batch) > 0:
            return np.ascontiguousarray(batch)
        if batch.ndim in (3, 4) and batch.shape[-3] == 3:
            raise self._wrong(images, "Move the channels last: images.transpose(0, 2, 3, 1).")
        raise self._wrong(images, "Prepare images with Contract().prepared(image).")

    def _wrong(self, images: npt.NDArray[Any], next_step: str) -> ImageError:
        return ImageError(
            "images",
            got=f"shape {images.shape} {images.dtype}",
            expected=f"(N, {self.size}, {self.size}, 3) uint8",
            next_step=next_step,
        )

    def differences(self, other: Contract) -> list[str]:
        """The fields in which two contracts differ, as `name: ours here, theirs there`."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: {mine[name]} here, {theirs[name]} there" for name in mine if mine[name] != theirs[name]
        ]

    def _crop_box(self, image: Image.Image) -> tuple[float, float, float, float]:
        """The centre crop in the image's own pixels (left, top, right, bottom)."""
        width, height = image.size
        shorter = min(width, height)
        # The resized sides, rounded down as torchvision's Resize does; the crop's corner is rounded.
        resized_width = self.resize * width // shorter
        resized_height = self.resize * height // shorter
        left = round((resized_width - self.size) / 2)
        top = round((resized_height - self.size) / 2)
        x_scale, y_scale = width / resized_width, height / resized_height
        return (
            left * x_scale,
            top * y_scale,
            min((left + self.size) * x_scale, width),
            min((top + self.size) * y_scale, height),
        )


def canonical_json(value: object) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
