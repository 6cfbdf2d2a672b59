"""Resize and crop an image by the rules of the input contract.

The whole image is resized with Pillow and then cropped. Of a very thin image only the pixels under the crop
are computed, so that it takes no longer than others; the result is the same to one level in 255.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

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


def resized_and_cropped(
    image: Image.Image, *, resize: ResizeRule, size: int, interpolation: str
) -> Image.Image:
    """Return `size` x `size` pixels of an image.

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
        left, top = _first(width, size), _first(height, size)
        return image.crop((left, top, left + size, top + size))  # Pillow fills with 0 outside of the image
    assert isinstance(resize, int)
    # torchvision's Resize rounds the longer side down.
    resized_width, resized_height = (resize * side // min(width, height) for side in image.size)
    if max(resized_width, resized_height) < _THIN * resize:
        resized = image.resize((resized_width, resized_height), FILTERS[interpolation])
        return resized_and_cropped(resized, resize="none", size=size, interpolation=interpolation)
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
