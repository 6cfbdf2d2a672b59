"""Draw the images of the dataset `cluttered-digits`: one digit at a random place, among parts of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 64  # pixels of the canvas
DIGIT_SIDES = (26, 44)  # pixels of a digit before it is rotated
MAX_ROTATION = 25.0  # degrees in both directions
FRAGMENTS = (4, 8)  # how many parts of other digits
TRIES = 8  # to place a fragment beside the digit
NOISE = 0.08  # standard deviation, of grey levels 0..1

Pixels = npt.NDArray[np.uint8]  # (8, 8)


def cluttered(digits: Sequence[Pixels], index: int, *, seed: tuple[int, ...]) -> Image.Image:
    """Draw one digit with clutter; equal arguments give equal pixels.

    The digit has 26 to 44 pixels and is rotated by up to 25 degrees. Around it are 4 to 8 quarters of other
    digits of about its size, fewer where there is no room. Over everything are noise and a random brightness
    and contrast.

    Args:
        digits: the digit and those that fragments are taken from, uint8 `(8, 8)` each; at least two.
        index: the digit to draw.
        seed: whole numbers from 0 on.

    Returns:
        A grey image of 64x64 pixels.
    """
    rng = np.random.default_rng(seed)
    digit = _resized(digits[index], int(rng.integers(DIGIT_SIDES[0], DIGIT_SIDES[1] + 1)))
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    rotated = np.asarray(digit.rotate(angle, Image.Resampling.BILINEAR, expand=True))
    height, width = rotated.shape
    top, left = rng.integers(0, SIDE - height + 1), rng.integers(0, SIDE - width + 1)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(rng.integers(FRAGMENTS[0], FRAGMENTS[1] + 1)):
        other = digits[(index + rng.integers(1, len(digits))) % len(digits)]
        row, column = rng.integers(0, 5, 2)
        fragment = np.asarray(_resized(other[row : row + 4, column : column + 4], digit.width // 2))
        side = len(fragment)
        for _ in range(TRIES):
            y, x = rng.integers(0, SIDE - side + 1, 2)
            centre_y, centre_x = y + side // 2, x + side // 2
            if not (top <= centre_y < top + height and left <= centre_x < left + width):
                _brighten(canvas, fragment, y, x)
                break
    _brighten(canvas, rotated, top, left)

    background, contrast = rng.uniform(0.0, 0.3), rng.uniform(0.35, 0.7)
    grey = background + contrast * (canvas / 255) + rng.normal(0, NOISE, canvas.shape)
    return Image.fromarray(np.rint(255 * grey.clip(0, 1)).astype(np.uint8))


def _resized(pixels: Pixels, side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def _brighten(canvas: Pixels, drawing: Pixels, y: int, x: int) -> None:
    """Draw on a canvas where the drawing is brighter."""
    height, width = drawing.shape
    part = canvas[y : y + height, x : x + width]
    np.maximum(part, drawing, out=part)
