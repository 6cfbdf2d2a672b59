"""Synthetic JPEG images for benchmarks: the speed of a classifier does not depend on what an image shows."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def synthetic_jpegs(
    count: int,
    *,
    size: tuple[int, int] = (469, 384),
    noise_cell_px: float = 16 / 3,
    quality: int = 75,
    random: np.random.Generator | None = None,
) -> list[bytes]:
    """Encode smooth coloured noise, which takes about as much work to decode as a photograph.

    With the defaults an image has about 48 kB, the mean of ImageNet's photographs.

    Args:
        count: How many images.
        size: Width and height of an image in pixels.
        noise_cell_px: Side of a noise cell in pixels. Larger cells compress to fewer bytes.
        quality: JPEG quality, 1 to 95.
        random: Source of the noise; by default one with seed 0, so that every call gives the same images.

    Returns:
        JPEG files, no two alike.
    """
    random = random or np.random.default_rng(0)
    width, height = (max(1, round(side / noise_cell_px)) for side in size)
    encoded = []
    for _ in range(count):
        noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(content, "JPEG", quality=quality)
        encoded.append(content.getvalue())
    return encoded
