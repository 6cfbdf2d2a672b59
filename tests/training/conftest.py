from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def striped(upright: bool, seed: int) -> Image.Image:
    """Return noisy coloured stripes; only their direction differs between the classes."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(48) * rng.uniform(0.5, 0.9) + rng.uniform(0, 6)) * 90
    grey = np.tile(wave, (48, 1)) + rng.normal(0, 20, (48, 48))
    pixels = rng.integers(90, 160, 3) + (grey if upright else grey.T)[..., None]  # (48, 48, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_stripes(root: Path, *, train: int = 16, val: int = 6) -> Path:
    """Write an image folder with `train/` and `val/` and the classes `lying` and `upright`."""
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(("lying", "upright")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed = 1000 * label + index + (500 if split == "val" else 0)
                striped(bool(label), seed).save(folder / f"{index:02d}.png")
    return root


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder for all tests; do not change it."""
    return write_stripes(tmp_path_factory.mktemp("stripes"))


@pytest.fixture
def own_stripes(tmp_path: Path) -> Path:
    """An image folder that a test may change."""
    return write_stripes(tmp_path / "images")
