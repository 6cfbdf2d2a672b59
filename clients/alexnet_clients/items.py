"""What a caller may call a picture, and how one of them becomes what a model takes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_model.contract import Contract, Picture, Uint8Array
from alexnet_model.decoding import encoded_bytes, name_of, upright_from_opened
from alexnet_model.errors import AlexnetError, PictureError

PictureOrArray: TypeAlias = Picture | npt.NDArray[Any]
Taken: TypeAlias = PictureOrArray | PictureError
Pictures: TypeAlias = PictureOrArray | Iterable[PictureOrArray]

_ACCEPTED = "a path, bytes, a binary file, a PIL image, or a uint8 array (224, 224, 3)"


@dataclass(frozen=True)
class Slot:
    """One picture's place: what the model takes of it, or why there is nothing."""

    name: str
    row: npt.NDArray[Any] | None  # (224, 224, 3) pixels, or (1,) encoded bytes
    error: AlexnetError | None = None


def items_of(pictures: Pictures, contract: Contract) -> Iterable[PictureOrArray]:
    """One picture, or many: files and strings can be iterated over too, but are one picture each.

    Raises:
        PictureError: an array is not the contract's, or this is nothing that can be pictures.
    """
    if isinstance(pictures, np.ndarray):
        return contract.checked(pictures)  # (N, 224, 224, 3)
    if _is_picture(pictures):
        return [cast("Picture", pictures)]
    if not isinstance(pictures, Iterable):
        raise PictureError("pictures", got=type(pictures).__name__, expected=f"{_ACCEPTED}, or many of them")
    return cast("Iterable[PictureOrArray]", pictures)


def checked_item(item: PictureOrArray, index: int, contract: Contract) -> PictureOrArray:
    """The item itself, its array checked.

    Raises:
        PictureError: an array is not one picture of the contract's, or this can be no picture.
    """
    if isinstance(item, np.ndarray):
        if item.ndim != 3:
            raise PictureError(
                f"pictures[{index}]",
                got=f"shape {item.shape} {item.dtype}",
                expected=f"one picture {contract.picture_shape} uint8",
                next_step="Pass a batch by itself, or its pictures one by one.",
            )
        checked: Uint8Array = contract.checked(item)[0]  # (224, 224, 3)
        return checked
    if _is_picture(item):
        return item
    raise PictureError(f"pictures[{index}]", got=type(item).__name__, expected=_ACCEPTED)


def taken(item: PictureOrArray) -> Taken:
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
            return encoded_bytes(cast("Picture", item))  # type: ignore[arg-type]
    except PictureError as error:
        return error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        return PictureError(
            name_of(item), got=f"a broken picture ({error})", expected=_ACCEPTED, next_step="Remove it."
        )
    return item


def name_of_item(item: PictureOrArray, index: int) -> str:
    """Its path where it has one, else its place."""
    name = "picture" if isinstance(item, bytes | np.ndarray) else name_of(item)
    return f"picture {index}" if name == "picture" else name


def pixels_of(contract: Contract) -> Callable[[Picture], npt.NDArray[Any]]:
    """For a model that takes pixels: decode and prepare here."""
    return contract.prepared


def encoded_of(contract: Contract) -> Callable[[Picture], npt.NDArray[Any]]:
    """For a model that decodes itself: the file's bytes as they are, and a PIL image as PNG, without loss."""

    def encoded(picture: Picture) -> npt.NDArray[Any]:
        if isinstance(picture, Image.Image):
            png = io.BytesIO()
            upright_from_opened(picture, background=contract.background).save(png, "PNG", compress_level=1)
            content = png.getvalue()
        else:
            content = encoded_bytes(picture)
        row = np.empty(1, np.object_)
        row[0] = content
        return row  # (1,)

    return encoded


def slot_from_item(name: str, item: Taken, row_from_picture: Callable[[Picture], npt.NDArray[Any]]) -> Slot:
    """Prepare one picture; what is wrong with it stays in its place."""
    if isinstance(item, np.ndarray):
        return Slot(name, item)
    if isinstance(item, PictureError):
        return Slot(name, None, item)
    try:
        return Slot(name, row_from_picture(item))
    except PictureError as error:
        return Slot(name, None, error)


def _is_picture(value: object) -> bool:
    return isinstance(value, str | Path | bytes | Image.Image) or hasattr(value, "read")
