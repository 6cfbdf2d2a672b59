"""Synthetic JPEG images."""

from __future__ import annotations

import io

from PIL import Image

from alexnet_bench import synthetic_jpegs
from alexnet_model.contract import Contract


def test_images_have_the_size_of_a_photograph_and_differ() -> None:
    first, second = synthetic_jpegs(2)
    assert Image.open(io.BytesIO(first)).size == (469, 384)
    assert 40_000 < len(first) < 56_000
    assert first != second
    assert synthetic_jpegs(2) == [first, second]
    assert Contract().prepared(first).shape == (224, 224, 3)


def test_size_cell_and_quality_are_options() -> None:
    (small,) = synthetic_jpegs(1, size=(64, 48), noise_cell_px=8, quality=90)
    assert Image.open(io.BytesIO(small)).size == (64, 48)
    coarse, fine = (len(synthetic_jpegs(1, noise_cell_px=cell)[0]) for cell in (12, 4))
    assert coarse < fine
    low, high = (len(synthetic_jpegs(1, quality=quality)[0]) for quality in (50, 95))
    assert low < high
