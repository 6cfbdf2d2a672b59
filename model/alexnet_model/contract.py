"""The input contract: how an image becomes the model's input, and the names of the model's tensors.

Training, calibration, evaluation, the client and the server-side decoder all prepare images with
`Contract.prepared`. A SHA-256 digest of the contract is stored in the checkpoint, the ONNX metadata, the
manifest and `config.pbtxt`, so that a client can refuse a server whose model expects other pixels.

Requests carry uint8 `(N, size, size, 3)`, NHWC: 150,528 bytes an image of 224 pixels, a quarter of FP32. The
cast, the layout change and the mean/std normalisation are inside the exported graph (`classifier.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from .decoding import WHITE, BinaryFile, Colour, upright_from_encoded, upright_from_opened
from .errors import ContractError, ImageError
from .reading import value_from_json

#: A NumPy array of uint8, such as prepared images `(N, S, S, 3)`.
Uint8Array: TypeAlias = npt.NDArray[np.uint8]
#: One image: a path, encoded bytes, a file that is open as binary, or a Pillow image.
ImageInput: TypeAlias = str | Path | bytes | BinaryFile | Image.Image

# The input of a model that decodes on the server by this contract: one encoded image a row, BYTES `(N, 1)`.
ENCODED_INPUT_NAME = "encoded"
VERSION = 2
# The releases of alexnet-serving that write and read each version.
RELEASES = {1: "0.1", VERSION: "0.2"}
COLOURS = ("RGB", "BGR")
# Pixels. Without a limit, a contract that is read from a server could make a client allocate any amount of
# memory.
MAX_SIDE = 4096
# Of pixels in 0..1. Numbers for pixels in 0..255 are outside, and so are those that float32 cannot divide by.
MEAN_LIMIT = 10.0
STD_LIMITS = (1e-4, 10.0)
# A whole number is the shorter side in pixels after resizing.
ResizeRule: TypeAlias = int | Literal["stretch", "none"]
RESIZE_WORDS = ("stretch", "none")
# Pillow's bilinear and bicubic filters average over all source pixels under an output pixel (antialiasing).
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
# A resized side that is this many times as long as the other is not computed as a whole.
_THIN = 4
# `_nearest` adds a step once for each resized pixel before the crop, as Pillow does, but at most so often. No
# resized image of more pixels fits into memory, so there is nothing that the result could differ from.
_MOST_ADDITIONS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Describe the preparation of an image and the model's tensors; equal digests mean equal pixels.

    The defaults are those of torchvision's ImageNet recipe: shorter side to 256 with an antialiased bilinear
    filter, centre crop 224, ImageNet's mean and standard deviation on pixels in 0..1.

    Args:
        version: the version of this class's fields; this code implements version 2.
        input_name: the name of the model's input tensor.
        layout: the order of the input's axes; only "NHWC".
        dtype: the input's Triton datatype; only "UINT8".
        colour: the order of the channels, "RGB" or "BGR".
        resize: the shorter side after resizing in pixels, 1 to 4096, of which the centre is cropped;
            "stretch" resizes both sides to `size`; "none" crops the centre of the image as it is, and pads a
            smaller image with black.
        size: both sides of a prepared image in pixels, 1 to 4096; at most `resize` if that is a number.
        interpolation: the resize filter: "bilinear" or "bicubic", both antialiased, or "nearest".
        background: the RGB colour, 0..255, under transparent pixels.
        mean: subtracted from pixels in 0..1, one for each channel in the order of `colour`; -10 to 10.
        std: the divisor after that, one for each channel; 0.0001 to 10.
        probabilities_name: the name of the output `(N, classes)` with probabilities.
        logits_name: the name of the output `(N, classes)` with logits.

    Raises:
        ContractError: a field has a value that this code does not implement.
    """

    version: int = VERSION
    input_name: str = "image"
    layout: str = "NHWC"
    dtype: str = "UINT8"
    colour: str = "RGB"
    resize: ResizeRule = 256
    size: int = 224
    interpolation: str = "bilinear"
    background: Colour = WHITE
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    probabilities_name: str = "probabilities"
    logits_name: str = "logits"

    def __post_init__(self) -> None:
        _check_version(self.version)
        self._require("layout", self.layout == "NHWC", "'NHWC'")
        self._require("dtype", self.dtype == "UINT8", "'UINT8'")
        self._require("colour", self.colour in COLOURS, " or ".join(map(repr, COLOURS)))
        known = isinstance(self.interpolation, str) and self.interpolation in FILTERS
        self._require("interpolation", known, " or ".join(map(repr, FILTERS)))
        known = isinstance(self.resize, str) and self.resize in RESIZE_WORDS
        words = " or ".join(map(repr, RESIZE_WORDS))
        in_pixels = f"1 to {MAX_SIDE} whole pixels"
        self._require("resize", known or _whole(self.resize, 1, MAX_SIDE), f"{in_pixels}, {words}")
        self._require("size", _whole(self.size, 1, MAX_SIDE), in_pixels)
        if isinstance(self.resize, int) and self.size > self.resize:
            raise ContractError(
                "contract field size",
                got=f"{self.size}, a crop larger than the resized image",
                expected=f"at most {self.resize}, the value of resize",
                next_step=f"Use resize {self.size} or more, or {words}.",
            )
        levels = _three(self.background, lambda level: _whole(level, 0, 255))
        self._require("background", levels, "3 whole numbers from 0 to 255")
        limit = MEAN_LIMIT
        means = _three(self.mean, lambda value: _number(value, -limit, limit))
        self._require("mean", means, f"3 numbers from {-limit:g} to {limit:g}, of pixels in 0..1")
        lowest, highest = STD_LIMITS
        divides = _three(self.std, lambda value: _number(value, lowest, highest))
        self._require("std", divides, f"3 numbers from {lowest:g} to {highest:g}, of pixels in 0..1")
        for field in ("mean", "std"):  # 0 and 0.0 must have one digest
            object.__setattr__(self, field, tuple(map(float, getattr(self, field))))
        for field in ("input_name", "probabilities_name", "logits_name"):
            name = getattr(self, field)
            plain = isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z_][\w.-]*", name, re.ASCII))
            self._require(
                field, plain, "ASCII letters, digits, '_', '.' and '-', with a letter or '_' at the start"
            )
        names = (self.input_name, self.probabilities_name, self.logits_name)
        if len({*names, ENCODED_INPUT_NAME}) < 4:
            raise ContractError(
                "contract tensor names",
                got=", ".join(map(repr, names)),
                expected=f"three different names, none of them {ENCODED_INPUT_NAME!r}",
                next_step="Rename one of them.",
            )

    def _require(self, field: str, correct: bool, expected: str) -> None:
        if not correct:
            raise ContractError(
                f"contract field {field}",
                got=repr(getattr(self, field)),
                expected=expected,
                next_step=f"Correct the value of {field}.",
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one prepared image: `(size, size, 3)`."""
        return (self.size, self.size, 3)

    @property
    def image_bytes(self) -> int:
        """The size of one prepared image in bytes."""
        return self.size * self.size * 3

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces, ASCII."""
        return canonical_json(asdict(self))

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Read what `to_json` wrote.

        Args:
            text: a JSON object with exactly the fields of this class.

        Raises:
            ContractError: it is not JSON, has another version or other fields, or a field has a value that
                this code does not implement. It is a `ValueError` too.
        """
        values = values_from_json(text)
        _check_version(values.get("version", VERSION))
        if set(values) != {field.name for field in fields(cls)}:
            got = f"the fields {', '.join(sorted(values)) or 'of an empty object'}"
            raise _unreadable(got, "Export the model again.")
        return cls(**values)

    def prepared(self, image: ImageInput) -> Uint8Array:
        """Decode, resize and crop one image.

        Args:
            image: a path, the bytes of an image file, a file opened as binary, or a Pillow image.

        Returns:
            uint8 `(size, size, 3)` with channels in the order of `colour`.

        Raises:
            ImageError: the image cannot be read.
        """
        if isinstance(image, Image.Image):
            upright = upright_from_opened(image, background=self.background)
        else:
            upright = upright_from_encoded(image, background=self.background)
        resized = _resized_and_cropped(
            upright, resize=self.resize, size=self.size, interpolation=self.interpolation
        )
        pixels = np.array(resized.convert("RGB"), dtype=np.uint8)  # (S, S, 3)
        return pixels if self.colour == "RGB" else np.ascontiguousarray(pixels[..., ::-1])

    def checked(self, images: npt.NDArray[Any]) -> Uint8Array:
        """Return prepared images as one C-contiguous batch.

        Args:
            images: uint8 `(N, size, size, 3)`, or one image `(size, size, 3)`, as `prepared` returns them.

        Returns:
            uint8 `(N, size, size, 3)`; N is 1 for one image.

        Raises:
            ImageError: the shape, layout or dtype differs from the contract's.
        """
        if images.dtype != np.uint8:
            raise self._wrong(images, "Pass pixels 0..255 as uint8; the model normalises them itself.")
        batch = images[None] if images.shape == self.image_shape else images
        if batch.ndim == 4 and batch.shape[1:] == self.image_shape and len(batch) > 0:
            return np.ascontiguousarray(batch)
        if batch.ndim in (3, 4) and batch.shape[-3] == 3:
            raise self._wrong(images, "Move the channels last: images.transpose(0, 2, 3, 1).")
        raise self._wrong(images, "Prepare images with the model's contract: contract.prepared(image).")

    def _wrong(self, images: npt.NDArray[Any], next_step: str) -> ImageError:
        return ImageError(
            "images",
            got=f"shape {images.shape} {images.dtype}",
            expected=f"(N, {self.size}, {self.size}, 3) uint8",
            next_step=next_step,
        )

    def differences(self, other: Contract) -> list[str]:
        """List the fields in which `other` differs, each as `name: VALUE here, OTHER VALUE there`."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: {mine[name]} here, {theirs[name]} there" for name in mine if mine[name] != theirs[name]
        ]


def _resized_and_cropped(
    image: Image.Image, *, resize: ResizeRule, size: int, interpolation: str
) -> Image.Image:
    """Return `size` x `size` pixels of an image.

    The whole image is resized with Pillow and then cropped. Of a very thin image only the pixels under the
    crop are computed, so that it takes no longer than others; the result is the same to one level in 255.

    Args:
        image: of any size; its mode is "RGB" or "L".
        resize: the shorter side after resizing in pixels, at least `size`, of which the centre is cropped;
            "stretch" resizes both sides to `size`; "none" crops the centre of the image as it is and, as
            torchvision's `CenterCrop`, pads a smaller image with black.
        size: both sides of the result, in pixels.
        interpolation: a name in `FILTERS`; unused with "none".

    Returns:
        An image of the same mode.
    """
    width, height = image.size
    if resize == "stretch":
        return image.resize((size, size), FILTERS[interpolation])
    if resize == "none":
        x, y = _first(width, size), _first(height, size)
        return image.crop((x, y, x + size, y + size))  # Pillow fills with 0 outside of the image
    assert isinstance(resize, int)
    # torchvision's Resize rounds the longer side down.
    resized_width, resized_height = (resize * side // min(width, height) for side in image.size)
    if max(resized_width, resized_height) < _THIN * resize:
        resized = image.resize((resized_width, resized_height), FILTERS[interpolation])
        return _resized_and_cropped(resized, resize="none", size=size, interpolation=interpolation)
    if interpolation == "nearest":
        columns = _nearest(width, resized_width, size)
        rows = _nearest(height, resized_height, size)
        part = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        pixels = np.asarray(part)[np.ix_(rows - rows[0], columns - columns[0])]  # (S, S) or (S, S, 3)
        return Image.fromarray(pixels)
    left, right = _span(width, resized_width, size)
    top, bottom = _span(height, resized_height, size)
    if resized_height >= height:
        # In a very tall image that becomes less tall, Pillow resizes the rows first. The crop becomes less
        # tall, but the whole image does not. So reduce the image to the rows that are used.
        above, below = max(0, int(top) - 3), min(height, int(bottom) + 4)
        image = image.crop((0, above, width, below))
        top, bottom = top - above, bottom - above
    return image.resize((size, size), FILTERS[interpolation], box=(left, top, right, bottom))


def _first(resized: int, size: int) -> int:
    """Return the first pixel of the centre crop; below 0 if the side is shorter than the crop."""
    # torchvision's CenterCrop rounds the corner to the nearest even number, and the padding down.
    return round((resized - size) / 2) if resized >= size else -((size - resized) // 2)


def _span(side: int, resized: int, size: int) -> tuple[float, float]:
    """Return where the centre crop begins and ends in a side of the image, in its own pixels."""
    first, step = _first(resized, size), side / resized
    return first * step, min((first + size) * step, side)


def _nearest(side: int, resized: int, size: int) -> npt.NDArray[np.int64]:
    """Return the pixels of a side that the nearest filter takes for the centre crop, `(size,)`.

    A position on the border of two pixels is rounded as Pillow rounds it: Pillow adds up steps.
    """
    first, step = _first(resized, size), side / resized
    skipped = max(0, first - _MOST_ADDITIONS)
    steps = np.full(first - skipped + size, step)
    steps[0] = (skipped + 0.5) * step
    positions = np.add.accumulate(steps)[-size:]
    return np.minimum(positions.astype(np.int64), side - 1)


def canonical_json(value: object) -> str:
    """Return the one JSON text for a value: sorted keys, no spaces, ASCII.

    Args:
        value: anything that `json.dumps` takes.

    Raises:
        ValueError: the value contains NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def values_from_json(text: str, *, next_step: str = "Export the model again.") -> dict[str, Any]:
    """Return the fields of a contract's JSON, with tuples for lists; the fields are not checked.

    Args:
        text: a JSON object.
        next_step: what an error advises.

    Raises:
        ContractError: it is not JSON, or JSON of another type.
    """
    try:
        values: Any = value_from_json(text)
    except ValueError as error:
        raise _unreadable(f"text that is not JSON ({error})", next_step) from error
    if not isinstance(values, dict):
        raise _unreadable(f"JSON of type {type(values).__name__}", next_step)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def contract_from_parameters(parameters: Mapping[str, str]) -> Contract:
    """Read the contract of a served model, and check it by its digest.

    Args:
        parameters: those of the model's configuration, of which `contract` and `contract_digest` are read.

    Raises:
        ContractError: a parameter is missing, the contract is of another version, or the digest is not that
            of the contract.
    """
    text, digest = parameters.get("contract"), parameters.get("contract_digest")
    if text is None or digest is None:
        raise ContractError(
            "parameters of the model",
            got="a model without a contract",
            expected="one that alexnet export wrote",
            next_step="Use another model.",
        )
    contract = Contract.from_json(text)
    if contract.digest != digest:
        raise ContractError(
            "parameter contract_digest",
            got=f"{digest[:12]}",
            expected=f"{contract.digest[:12]}, the digest of the parameter contract",
            next_step="Write the model repository again.",
        )
    return contract


def _check_version(version: object) -> None:
    if _whole(version, VERSION, VERSION):
        return
    release = RELEASES.get(version) if isinstance(version, int) and not isinstance(version, bool) else None
    if release:
        next_step = (
            f"Install alexnet-serving {release}, which wrote this contract, or export the model again."
        )
    elif _whole(version, VERSION + 1, 10**6):
        next_step = f"Install an alexnet-serving that is newer than {RELEASES[VERSION]}."
    else:
        next_step = "Export the model again."
    raise ContractError(
        "contract field version", got=repr(version), expected=str(VERSION), next_step=next_step
    )


def _unreadable(got: str, next_step: str) -> ContractError:
    names = ", ".join(sorted(field.name for field in fields(Contract)))
    return ContractError(
        "contract",
        got=got,
        expected=f"a JSON object with the fields {names}",
        next_step=next_step,
    )


def _whole(value: object, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def _number(value: object, lowest: float, highest: float) -> bool:
    """Return whether a value is a number in a range; NaN is in none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def _three(values: object, correct: Callable[[object], bool]) -> bool:
    return isinstance(values, tuple) and len(values) == 3 and all(correct(value) for value in values)
