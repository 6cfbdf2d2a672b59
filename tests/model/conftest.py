from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from .. import awkward_images

Textured = Callable[[int, int], Image.Image]
Encoded = Callable[..., bytes]


@pytest.fixture(scope="session")
def textured() -> Textured:
    return awkward_images.textured


@pytest.fixture(scope="session")
def encoded() -> Encoded:
    return awkward_images.encoded
