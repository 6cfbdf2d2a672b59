from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from .. import awkward_pictures

Textured = Callable[[int, int], Image.Image]
Encoded = Callable[..., bytes]


@pytest.fixture(scope="session")
def textured() -> Textured:
    return awkward_pictures.textured


@pytest.fixture(scope="session")
def encoded() -> Encoded:
    return awkward_pictures.encoded
