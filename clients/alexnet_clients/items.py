"""What a caller may call an image, and how one of them becomes what a model takes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_model.contract import Contract, ImageInput, Uint8Array
from alexnet_model.decoding import encoded_bytes, name_of, upright_from_opened
from alexnet_model.errors import AlexnetError, ImageError

ImageOrArray: TypeAlias = ImageInput | npt.NDArray[Any]
Taken: TypeAlias = ImageOrArray | ImageError
Images: TypeAlias = ImageOrArray | Iterable[ImageOrArray]

_ACCEPTED = "a path, bytes, a binary file, a PIL image, or a uint8 array (224, 224, 3)"


@dataclass(frozen=True)
class Slot:
    """One image's place: what the model takes of it, or why there is nothing."""

    name: str
    row: npt.NDArray[Any] | None  # (224, 224, 3) pixels, or (1,) encoded bytes
    error: AlexnetError | None = None


def items_of(images: Images, contract: Contract) -> Iterable[ImageOrArray]:
    """One image, or many: files and strings can be iterated over too, but are one image each.

    Raises:
        ImageError: an array is not the contract's, or this is nothing that can be images.
    """
    if isinstance(images, np.ndarray):
        return contract.checked(images)  # (N, 224, 224, 3)
    if _is_image(images):
        return [cast("ImageInput", images)]
    if not isinstance(images, Iterable):
        raise ImageError("images", got=type(images).__name__, expected=f"{_ACCEPTED}, or many of them")
    return cast("Iterable[ImageOrArray]", images)


def checked_item(item: ImageOrArray, index: int, contract: Contract) -> ImageOrArray:
    """The item itself, its array checked.

    Raises:
        ImageError: an array is not one image of the contract's, or this can be no image.
    """
    if isinstance(item, np.ndarray):
        if item.ndim != 3:
            raise ImageError(
                f"images[{index}]",
                got=f"shape {item.shape} {item.dtype}",
                expected=f"one image {contract.image_shape} uint8",
                next_step="Pass a batch by itself, or its images one by one.",
            )
        checked: Uint8Array = contract.checked(item)[0]  # (224, 224, 3)
        return checked
    if _is_image(item):
        return item
    raise ImageError(f"images[{index}]", got=type(item).__name__, expected=_ACCEPTED)


def taken(item: ImageOrArray) -> Taken:
    """The item as it is now, whatever its owner does with it next.

    Items are taken well ahead of their turn, and prepared in other threads: a camera fills its array anew, a
    GIF's frames are one object, and a file may be closed as soon as the next item is asked for. Only a file
    that says `read_later` is read there.
    """
    if isinstance(item, np.ndarray):
        return item.copy()  # (224, 224, 3)
    try:
        if isinstance(item, Image.Image):
            item.load()
            still = item.copy()
            still.format = item.format
            return still
        if hasattr(item, "read") and not getattr(item, "read_later", False):
            return encoded_bytes(cast("ImageInput", item))  # type: ignore[arg-type]
    except ImageError as error:
        return error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        return ImageError(
            name_of(item), got=f"a broken image ({error})", expected=_ACCEPTED, next_step="Remove it."
        )
    return item


def name_of_item(item: ImageOrArray, index: int) -> str:
    """Its path where it has one, else its place."""
    name = "image" if isinstance(item, bytes | np.ndarray) else name_of(item)
    return f"image {index}" if name == "image" else name


def pixels_of(contract: Contract) -> Callable[[ImageInput], npt.NDArray[Any]]:
    """For a model that takes pixels: decode and prepare here."""
    return contract.prepared


def encoded_of(contract: Contract) -> Callable[[ImageInput], npt.NDArray[Any]]:
    """For a model that decodes itself: the file's bytes as they are, and a PIL image as PNG, without loss."""

    def encoded(image: ImageInput) -> npt.NDArray[Any]:
        if isinstance(image, Image.Image):
            png = io.BytesIO()
            upright_from_opened(image, background=contract.background).save(png, "PNG", compress_level=1)
            content = png.getvalue()
        else:
            content = encoded_bytes(image)
        row = np.empty(1, np.object_)
        row[0] = content
        return row  # (1,)

    return encoded


def slot_from_item(name: str, item: Taken, row_from_image: Callable[[ImageInput], npt.NDArray[Any]]) -> Slot:
    """Prepare one image; what is wrong with it stays in its place."""
    if isinstance(item, np.ndarray):
        return Slot(name, item)
    if isinstance(item, ImageError):
        return Slot(name, None, item)
    try:
        return Slot(name, row_from_image(item))
    except ImageError as error:
        return Slot(name, None, error)


def _is_image(value: object) -> bool:
    return isinstance(value, str | Path | bytes | Image.Image) or hasattr(value, "read")
