from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

Textured = Callable[[int, int], Image.Image]
Encoded = Callable[..., bytes]


@pytest.fixture(scope="session")
def textured() -> Textured:
    """An RGB picture with both smooth gradients and pixel noise, other in each corner."""

    def make(width: int, height: int) -> Image.Image:
        rng = np.random.default_rng(width * 10_007 + height)
        x = np.linspace(0, 255, width)[None, :, None]
        y = np.linspace(0, 255, height)[:, None, None]
        smooth = np.concatenate([x + 0 * y, y + 0 * x, (x + y) / 2], axis=2)
        noise = rng.integers(-60, 60, smooth.shape)
        return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def encoded() -> Encoded:
    """A picture's bytes in a format, with Pillow's options for it."""

    def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format_name, **options)
        return buffer.getvalue()

    return encode
